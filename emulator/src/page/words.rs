//! One call of the function in words, and the promise that it serves.

use crate::call::Call;
use crate::secrets_manager::{AWSCURRENT, AWSPENDING, AWSPREVIOUS};

/// What the function wants with a call of this step, and the promise for whose sake it asks. A call that was made before anybody looked
/// has no step: then it is taken for one of `createSecret`. `pending` is the version that the rotation is about.
pub(super) fn meaning(step: &str, pending: &str, call: &Call, secret: &str) -> (&'static str, &'static str) {
    let finishing = step == "finishSecret";
    let testing = step == "testSecret";
    match call.operation.as_str() {
        "DescribeSecret" if finishing => ("Which labels are there now?", "I6"),
        "DescribeSecret" => ("Which labels and tags are there?", "I6"),
        "GetSecretValue" if !of_secret(call, secret) => ("What is the admin key?", "I2"),
        "GetSecretValue" if field(call, "VersionStage") == AWSCURRENT => ("Which key is in use?", "I2"),
        "GetSecretValue" if field(call, "VersionStage") == AWSPREVIOUS => ("Which key was in use before?", "I4"),
        "GetSecretValue" if testing || finishing || step == "setSecret" => ("What is the new key?", "I6"),
        "GetSecretValue" if !pending.is_empty() && field(call, "VersionId") == pending => {
            ("Is there a new key already?", "I6")
        }
        "GetSecretValue" if field(call, "VersionStage") == AWSPENDING => ("Is there a new key already?", "I6"),
        "GetSecretValue" => ("What does this version hold?", "I4"),
        "PutSecretValue" => ("Keep the new key, at once.", "I2"),
        "UpdateSecretVersionStage" if field(call, "VersionStage") == AWSCURRENT => {
            ("Readers get the new key from now on.", "I1")
        }
        "UpdateSecretVersionStage" => ("Keep the labels in order.", "I2"),
        "ListSecrets" => ("Which secrets are mine?", "I4"),
        "verify" if testing => ("Does the new key work?", "I1"),
        "verify" if finishing => ("Does the old key still work?", "I3"),
        "verify" => ("Does the current key work?", "I2"),
        "list" if finishing => ("Is a key left over?", "I3"),
        "list" => ("Which keys are there? Was one lost?", "I3"),
        "get" => ("Is this key on the account?", "I4"),
        "rotate" | "create" => ("Mint a new key. Its expiry carries the mark.", "I3"),
        "revoke" => ("End a key that is not needed any more.", "I3"),
        _ => ("", ""),
    }
}

/// A field of the request, as [`Call::detail`] shows it.
pub(super) fn field<'a>(call: &'a Call, name: &str) -> &'a str {
    let mut fields = call.detail.split(' ').filter_map(|field| field.split_once('='));
    fields.find(|(field, _)| *field == name).map_or("", |(_, value)| value)
}

/// `…` of `org/account/api-keys/…/rotate`.
pub(super) fn key_in_path(call: &Call) -> &str {
    call.detail.split([' ', '/']).nth(3).unwrap_or_default()
}

/// Whether the call names the secret, by its name or by the end of its ARN.
fn of_secret(call: &Call, secret: &str) -> bool {
    let named = field(call, "SecretId").strip_prefix(secret);
    named.is_some_and(|rest| rest.is_empty() || (rest.len() == 7 && rest.starts_with('-')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_of_a_rotation_has_words_and_a_promise() {
        for (step, operation, detail, promise) in [
            ("createSecret", "DescribeSecret", "SecretId=kosli/ci-AbCdEf", "I6"),
            ("createSecret", "GetSecretValue", "SecretId=kosli/ci-AbCdEf VersionStage=AWSCURRENT", "I2"),
            ("createSecret", "GetSecretValue", "SecretId=kosli/ci-AbCdEf VersionId=1 VersionStage=AWSPENDING", "I6"),
            ("createSecret", "GetSecretValue", "SecretId=kosli/ci-AbCdEf VersionStage=AWSPREVIOUS", "I4"),
            ("createSecret", "GetSecretValue", "SecretId=kosli/ci-AbCdEf VersionId=1", "I4"),
            ("createSecret", "GetSecretValue", "SecretId=kosli/ci-AbCdEf VersionId=2", "I6"),
            ("createSecret", "GetSecretValue", "SecretId=kosli/admin", "I2"),
            ("createSecret", "verify", "", "I2"),
            ("createSecret", "list", "acme/ci/api-keys", "I3"),
            ("createSecret", "rotate", "acme/ci/api-keys/1/rotate", "I3"),
            ("createSecret", "create", "acme/ci/api-keys", "I3"),
            ("createSecret", "PutSecretValue", "SecretId=kosli/ci-AbCdEf", "I2"),
            ("testSecret", "verify", "", "I1"),
            ("finishSecret", "UpdateSecretVersionStage", "SecretId=kosli/ci-AbCdEf VersionStage=AWSCURRENT", "I1"),
            ("finishSecret", "UpdateSecretVersionStage", "SecretId=kosli/ci-AbCdEf VersionStage=kosli-key-id:1", "I2"),
            ("finishSecret", "list", "acme/ci/api-keys", "I3"),
            ("finishSecret", "get", "acme/ci/api-keys/1", "I4"),
            ("finishSecret", "revoke", "acme/ci/api-keys/1", "I3"),
        ] {
            let (words, served) = meaning(step, "2", &Call::seen(1, operation, detail), "kosli/ci");
            assert_eq!(served, promise, "{step} {operation} {detail}");
            assert!(!words.is_empty());
        }
        assert_eq!(key_in_path(&Call::seen(1, "rotate", "acme/ci/api-keys/1/rotate grace_period_hours=24")), "1");
    }
}
