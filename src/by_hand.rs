//! What a person is told to type: command lines that can be pasted as they are, with the secret, the organization and the
//! service account filled in. `tests/python` takes them out of real errors and runs them.

use std::borrow::Cow;

use reqwest::Url;
use serde_json::json;

use crate::config::DEFAULT_HOST;
use crate::event::{SecretId, VersionId};
use crate::identity::{Account, KeyId};

/// Rotates now.
pub fn rotate(secret: &SecretId) -> String {
    secretsmanager("rotate-secret", secret, "")
}

/// Switches rotation on, with this function.
pub fn switch_on(secret: &SecretId, function_arn: &str) -> String {
    secretsmanager("rotate-secret", secret, &format!(" --rotation-lambda-arn {}", word(function_arn)))
}

/// Stores a value that stands in the file `value`.
pub fn put_value(secret: &SecretId) -> String {
    secretsmanager("put-secret-value", secret, " --secret-string file://value")
}

/// Takes a label off a version.
pub fn remove_label(secret: &SecretId, label: &str, version: &VersionId) -> String {
    let which = format!(" --version-stage {} --remove-from-version-id {}", word(label), word(version.as_str()));
    secretsmanager("update-secret-version-stage", secret, &which)
}

/// Attaches a label to a version that is in the way of nothing.
pub fn attach_label(secret: &SecretId, label: &str, version: &VersionId) -> String {
    let which = format!(" --version-stage {} --move-to-version-id {}", word(label), word(version.as_str()));
    secretsmanager("update-secret-version-stage", secret, &which)
}

/// `aws` waits for 60 s by default and then invokes again, while the function has 90.
/// Source: <https://repost.aws/knowledge-center/lambda-function-retry-timeout-sdk>
const PATIENCE: &str = " --cli-read-timeout 100";

/// Has `finishSecret` do the clean-up after a promotion again.
pub fn finish(secret: &SecretId, function_arn: &str, version: &VersionId) -> String {
    // An ARN's seventh part is the function's name.
    let function = function_arn.split(':').nth(6).unwrap_or(function_arn);
    let (id, token) = (json!(secret.as_str()), json!(version.as_str()));
    let event = format!(r#"{{"Step":"finishSecret","SecretId":{id},"ClientRequestToken":{token}}}"#);
    format!(
        "`echo {} | aws lambda invoke --function-name {}{}{PATIENCE} --payload fileb:///dev/stdin /dev/stdout`",
        word(&event),
        word(function),
        region(secret)
    )
}

/// Shows the labels of a secret's versions.
pub fn show_labels(secret: &SecretId) -> String {
    secretsmanager("describe-secret", secret, " --query VersionIdsToStages")
}

/// Lists the account's keys.
pub fn list_keys(account: &Account, host: &Url) -> String {
    kosli("list api-keys", account, host, "")
}

/// Creates a key on the account.
pub fn create_key(account: &Account, host: &Url) -> String {
    kosli("create api-key", account, host, " --description by-hand")
}

/// Revokes keys of the account.
pub fn revoke_keys<'a>(ids: impl IntoIterator<Item = &'a KeyId>, account: &Account, host: &Url) -> String {
    let ids: String = ids.into_iter().map(|id| format!(" {}", word(id.as_str()))).collect();
    kosli(&format!("delete api-key{ids}"), account, host, " --assume-yes")
}

fn secretsmanager(operation: &str, secret: &SecretId, options: &str) -> String {
    format!("`aws secretsmanager {operation} --secret-id {}{options}{}`", word(secret.as_str()), region(secret))
}

/// An ARN names its region, which need not be the one that the person's shell is set to.
fn region(secret: &SecretId) -> String {
    let mut parts = secret.as_str().split(':');
    match (parts.next(), parts.nth(2)) {
        (Some("arn"), Some(region)) if !region.is_empty() => format!(" --region {}", word(region)),
        _ => String::new(),
    }
}

/// `kosli` knows its usual host by itself.
fn kosli(operation: &str, account: &Account, host: &Url, options: &str) -> String {
    let usual = Url::parse(DEFAULT_HOST).is_ok_and(|usual| usual == *host);
    let host = if usual { String::new() } else { format!(" --host {}", word(host.as_str().trim_end_matches('/'))) };
    format!("`kosli {operation} --service-account {} --org {}{options}{host}`", account.name, account.org)
}

/// One word of a shell: an event may call a secret anything.
fn word(text: &str) -> Cow<'_, str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:@+=,".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        return text.into();
    }
    format!("'{}'", text.replace('\'', r"'\''")).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Name;

    const ARN: &str = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:kosli/ci-AbCdEf";

    #[test]
    fn an_arn_brings_its_region_and_a_name_does_not() {
        for (secret, command) in [
            (ARN, format!("`aws secretsmanager rotate-secret --secret-id {ARN} --region eu-west-1`")),
            ("kosli/ci", "`aws secretsmanager rotate-secret --secret-id kosli/ci`".to_owned()),
            ("arn:aws", "`aws secretsmanager rotate-secret --secret-id arn:aws`".to_owned()),
        ] {
            assert_eq!(rotate(&SecretId::trusted(secret)), command);
        }
    }

    #[test]
    fn the_host_is_named_where_it_is_not_the_usual_one() {
        let name = |text| Name::parse(text).expect("a name");
        let account = Account { org: name("acme"), name: name("ci") };
        let id = KeyId::parse("7980eb22-1fe1").expect("an id");
        for (host, option) in [
            ("https://app.kosli.com", ""),
            ("https://app.kosli.com/", ""),
            ("https://app.us.kosli.com", " --host https://app.us.kosli.com"),
            ("http://127.0.0.1:7878", " --host http://127.0.0.1:7878"),
        ] {
            let host = Url::parse(host).expect("an address");
            let whose = "--service-account ci --org acme";
            assert_eq!(list_keys(&account, &host), format!("`kosli list api-keys {whose}{option}`"));
            assert_eq!(
                create_key(&account, &host),
                format!("`kosli create api-key {whose} --description by-hand{option}`")
            );
            assert_eq!(
                revoke_keys([&id, &id], &account, &host),
                format!("`kosli delete api-key {id} {id} {whose} --assume-yes{option}`")
            );
        }
    }

    #[test]
    fn finish_secret_is_called_by_the_functions_name() {
        let function = "arn:aws:lambda:eu-west-1:123456789012:function:kosli-key-rotation:alias";
        assert_eq!(
            finish(&SecretId::trusted(ARN), function, &VersionId::trusted("v2")),
            format!(
                "`echo '{{\"Step\":\"finishSecret\",\"SecretId\":\"{ARN}\",\"ClientRequestToken\":\"v2\"}}' | aws lambda invoke \
                 --function-name kosli-key-rotation --region eu-west-1 --cli-read-timeout 100 --payload fileb:///dev/stdin \
                 /dev/stdout`"
            )
        );
    }

    #[test]
    fn what_a_shell_would_read_otherwise_is_quoted() {
        for (text, quoted) in [
            (ARN, ARN),
            ("a b", "'a b'"),
            ("$(reboot)", "'$(reboot)'"),
            ("it's", r"'it'\''s'"),
            ("a`b", "'a`b'"),
            ("", "''"),
        ] {
            assert_eq!(word(text), quoted);
        }
    }
}
