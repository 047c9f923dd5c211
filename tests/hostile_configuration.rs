//! Whoever can write the secret, its tags or the function's variables, and does not mean well: a clear error, nothing minted,
//! nobody else's key touched, and nothing sent to a path that was not meant.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

#[allow(dead_code, reason = "tests/bad_input.rs uses the rest")]
#[path = "bad_input/case.rs"]
mod case;

use case::{Case, GOOD, Wrong, check_all, check_variable};
use emulator::rotation::STEPS;
use emulator::secrets_manager::AWSCURRENT;
use emulator::{Clock, Service};
use kosli_key_rotation::config::Config;
use serde_json::json;
use testbed::executable::ADMIN;
use testbed::values::set_by_lambda;
use testbed::{ACCOUNT, ADMIN_SECRET, DAY, Executable, ONCE, ORG, SECRET, Setting, Testbed, done, token};
use tokio::task::JoinSet;

/// What a name must not be, as a JSON string has it.
const NAMES: [&str; 24] = [
    "..%2f..%2fother",
    "%2e%2e",
    "%00",
    "%",
    "acme%252f..",
    "acme/../other",
    "..\\\\other",
    "\\u002e\\u002e\\u002fother",
    "//evil.example",
    "acme;other",
    "acme:443",
    "admin@acme",
    "acme*",
    "acme\\r\\nx-evil: 1",
    "acme\\n",
    "\\tacme",
    "acme\\u007f",
    "acme\\u0085",
    // A Cyrillic a, a full-width solidus, a right-to-left override, a zero-width space, an emoji, a combining mark.
    "\u{430}cme",
    "acme\u{ff0f}other",
    "acme\u{202e}",
    "acme\u{200b}",
    "acme\u{1f600}",
    "acme\u{301}",
];

/// The text that a JSON string stands for.
fn text(json: &str) -> String {
    serde_json::from_str(&format!("\"{json}\"")).unwrap()
}

#[tokio::test]
async fn an_organization_or_an_account_that_is_no_name() {
    let long = "a".repeat(10_000);
    let rule = "1 to 64 letters";
    let mut cases = Vec::new();
    for name in NAMES.iter().copied().chain([long.as_str()]) {
        for (field, good, what) in [("org", "acme", "organization"), ("service_account", "ci", "service account")] {
            let value = GOOD.replace(&format!(r#""{field}":"{good}""#), &format!(r#""{field}":"{name}""#));
            let words = &[what, "under AWSCURRENT", rule];
            cases.push(Case::new("a name in the value", "InvalidIdentity", words).value(Wrong::Text(value)));
        }
        // Of a tag Secrets Manager keeps 256 characters, and it takes no control characters.
        let name = text(name);
        if name.len() <= 256 && !name.chars().any(char::is_control) {
            for (tag, what) in [("kosli:org", "organization"), ("kosli:service-account", "service account")] {
                cases.push(Case::new("a name in a tag", "InvalidIdentity", &[what, tag, rule]).tag(tag, &name));
            }
        }
    }
    check_all(cases).await;
}

#[tokio::test]
async fn a_key_id_that_is_none() {
    let long = "a".repeat(10_000);
    let mut cases = Vec::new();
    for id in NAMES.iter().copied().chain(["<id>/rotate", "<id>?x=y", "<id>#", "<id>%2frotate", long.as_str()]) {
        // A colon is no harm within one segment of a path.
        if id == "acme:443" {
            continue;
        }
        let words = &["key id", "AWSCURRENT", "1 to 200 letters"];
        cases.push(
            Case::new("a key id in the value", "InvalidIdentity", words).value(Wrong::Text(GOOD.replace("<id>", id))),
        );
        let without = GOOD.replace(",\"key_id\":\"<id>\"", "");
        if id.len() < 200 && !text(id).chars().any(char::is_control) {
            cases.push(
                Case::new("a key id on a label", "InvalidIdentity", words).value(Wrong::Text(without.clone())).aws(
                    "UpdateSecretVersionStage",
                    json!({ "VersionStage": format!("kosli-key-id:{}", text(id)), "MoveToVersionId": "<first version>" }),
                ),
            );
            cases.push(
                Case::new("a key id in the tag", "InvalidTag", &["kosli:key-id"])
                    .value(Wrong::Text(without))
                    .tag("kosli:key-id", &text(id)),
            );
        }
    }
    check_all(cases).await;
}

/// What means nothing in a path may be in an id, and stays within its segment.
#[tokio::test]
async fn an_id_stays_within_its_segment_of_the_path() {
    let mut cases = JoinSet::new();
    for id in ["rotate", "a..b", "a:b", "~", "-", "_", "a:443", "api-keys", &"a".repeat(200)] {
        // The function goes on using the key for some seconds, in case it was revoked a moment ago.
        cases.spawn(an_id_stays_within_its_segment(id.to_owned()));
    }
    cases.join_all().await;
}

async fn an_id_stays_within_its_segment(id: String) {
    let world = Executable::new(
        env!("CARGO_BIN_EXE_kosli-key-rotation"),
        Clock::real(),
        &[("KOSLI_ADMIN_SECRET_ID", ADMIN_SECRET)],
    )
    .await;
    world.add_admin().await;
    let (_, key) = world.add_key(ACCOUNT, emulator::kosli::Role::Member);
    let value = GOOD.replace("<key>", &key).replace("<id>", &id);
    world.create_secret(SECRET, json!({ "SecretString": value })).await;
    let rotation = world.begin(SECRET, json!({})).await;
    let error = world.step(&rotation, "createSecret").await.expect_err(&id);
    assert_eq!(error.error_type, "KeyNotOnAccount", "{error}");
    let calls = world.calls();
    for call in calls.iter().filter(|call| call.service == Service::Kosli) {
        let path = call.detail.split(' ').next().unwrap();
        let expected = match call.operation.as_str() {
            "verify" => "environments/acme".to_owned(),
            "list" => "acme/ci/api-keys".to_owned(),
            "rotate" => format!("acme/ci/api-keys/{id}/rotate"),
            other => panic!("{other} was called"),
        };
        assert_eq!(path, expected);
    }
    assert_eq!(calls.iter().filter(|call| call.operation == "rotate").count(), 1, "{id}");
    world.end().await;
}

/// As much as Secrets Manager stores, as deep as a parser may fall, and fields that a second reader may take for the first.
#[tokio::test]
async fn values_that_are_hard_on_a_parser() {
    let padded = |length: usize| GOOD.replacen('{', &format!("{{\"note\":\"{}\",", "x".repeat(length)), 1);
    let shape = &["AWSCURRENT", "three shapes"];
    let value = |name, error_type, words: &[&'static str], text: String| {
        Case::new(name, error_type, words).value(Wrong::Text(text))
    };
    let mut cases = vec![
        // The key, the id and their names take the rest.
        value("64 KiB", "NoRoom", &["64 KiB", "Shorten"], padded(65_536 - 200)),
        value("64 KiB in one word", "InvalidSecret", shape, "x".repeat(65_536)),
        value("64 KiB of white space", "InvalidSecret", shape, " ".repeat(65_536)),
        value("64 KiB of brackets", "InvalidSecret", shape, "[".repeat(65_536)),
        value("64 KiB of objects", "InvalidSecret", shape, "{\"a\":".repeat(13_000)),
        value("a key deep down", "InvalidSecret", shape, format!("{}{GOOD}{}", "[".repeat(1_000), "]".repeat(1_000))),
        value(
            "a key that is nested",
            "InvalidSecret",
            shape,
            GOOD.replace("\"<key>\"", &format!("{}{}", "[".repeat(9_000), "]".repeat(9_000))),
        ),
    ];
    for (name, word, field) in [
        ("the key twice", "`api_key` twice", r#""api_key":"made-up""#),
        ("the key twice, once in disguise", "`api_key` twice", r#""\u0061pi_key":"made-up""#),
        ("the organization twice", "`org` twice", r#""org":"other""#),
        ("the organization twice, once null", "`org` twice", r#""org":null"#),
        ("the service account twice", "`service_account` twice", r#""service_account":"ci""#),
        ("the key id twice", "`key_id` twice", r#""key_id":"<id>""#),
    ] {
        cases.push(value(name, "InvalidSecret", &[word], GOOD.replacen('{', &format!("{{{field},"), 1)));
    }
    check_all(cases).await;
}

/// What lies around the key is kept, and neither read nor obeyed: a host, an admin secret, a policy, and a deep nest.
#[tokio::test]
async fn what_a_secret_says_beyond_its_key_is_ignored() {
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    let shape = format!(
        "{{\"KOSLI_HOST\":\"https://evil.example\",\"host\":\"https://evil.example\",\"KOSLI_ADMIN_SECRET_ID\":\"kosli/other\",\
         \"admin_secret\":\"kosli/other\",\"KOSLI_SERVICE_ACCOUNTS\":\"*/*\",\"KOSLI_REVOKE_OLD_KEY\":\"immediately\",\
         \"AWS_ENDPOINT_URL\":\"https://evil.example\",\"deep\":{deep},{}",
        &GOOD[1..]
    );
    let world = Executable::new(
        env!("CARGO_BIN_EXE_kosli-key-rotation"),
        Clock::real(),
        &[("KOSLI_SERVICE_ACCOUNTS", "acme/ci")],
    )
    .await;
    let (id, key) = world.add_key(ACCOUNT, emulator::kosli::Role::Admin);
    world.create_secret("kosli/other", json!({ "SecretString": "not-a-key" })).await;
    let value = shape.replace("<key>", &key).replace("<id>", &id);
    world.create_secret(SECRET, json!({ "SecretString": value })).await;
    world.rotate(SECRET).await;
    let new = world.newest_key();
    assert_eq!(world.read(SECRET).await, shape.replace("<key>", &new.value).replace("<id>", &new.id));
    assert!(world.kosli_accepts(&key).await, "the function's own policy leaves the old key its grace");
    assert!(world.calls().iter().all(|call| !call.detail.contains("kosli/other")), "the other secret was not read");
    world.end().await;
}

/// A value that names the account of the admin key would bring an admin's key into this secret. What the function may touch is
/// said in its configuration alone.
#[tokio::test]
async fn the_admins_own_account_is_as_closed_as_any_other() {
    let value = GOOD.replace("\"ci\"", &format!("\"{ADMIN}\""));
    let case = |step| {
        Case::new("the admin's account", "NotPermitted", &["acme/admin", "KOSLI_SERVICE_ACCOUNTS"])
            .with_admin()
            .variable("KOSLI_SERVICE_ACCOUNTS", "acme/ci,acme/good")
            .step(step)
            .value(Wrong::Text(value.clone()))
    };
    check_all(STEPS.map(|step| if step == "createSecret" { case(step) } else { case(step).pending(&value) })).await;
}

#[tokio::test]
async fn a_pending_version_that_somebody_has_planted() {
    let mut cases = Vec::new();
    let another_key = GOOD.replace("<key>", "made-up-key-of-another-account");
    for (value, account) in
        [(another_key.replace("acme", "other"), "other/ci"), (another_key.replace("\"ci\"", "\"admin\""), "acme/admin")]
    {
        for step in ["createSecret", "finishSecret"] {
            let case = match account {
                "other/ci" => {
                    Case::new("another organization", "IdentityConflict", &["AWSPENDING", "other/ci", "acme/ci"])
                }
                _ => Case::new("the admin's account", "IdentityConflict", &["AWSPENDING", "acme/admin", "acme/ci"]),
            };
            cases.push(case.step(step).with_admin().pending(&value));
        }
    }
    for step in ["createSecret", "testSecret", "finishSecret"] {
        let dead = &["does not accept the key under AWSPENDING"];
        cases.push(
            Case::new("a key that is none", "PendingKeyDead", dead)
                .step(step)
                .with_admin()
                .kosli_is_asked()
                .pending(&another_key),
        );
    }
    for step in &STEPS[1..] {
        let words = &["AWSPENDING", "`api_key` twice"];
        let twice = GOOD.replacen('{', "{\"api_key\":\"made-up\",", 1);
        cases.push(Case::new("a key twice", "InvalidSecret", words).step(step).pending(&twice));
    }
    check_all(cases).await;
}

/// Whoever plants a pending version with a live key of his own and somebody else's id gets neither that key revoked nor ours.
#[test]
fn a_planted_id_does_not_get_a_key_revoked() {
    Testbed::run(async |testbed| {
        let setting = Setting { revoke_immediately: true, ..Setting::default() };
        let world = testbed.world(&setting);
        let rotation = world.begin_rotation(&token("second", 0)).unwrap();
        let now = world.emulator.clock().now();
        let (own, value) =
            world.emulator.with_kosli(|kosli| kosli.add_key(ORG, ACCOUNT, "planted", now, Some(now + DAY)));
        let planted = json!({ "org": ORG, "service_account": ACCOUNT, "api_key": value, "key_id": world.first_key });
        let planted = json!({ "SecretId": world.arn, "ClientRequestToken": rotation.token, "SecretString": planted.to_string(), "VersionStages": ["AWSPENDING"] });
        world.aws("PutSecretValue", planted).unwrap();
        for step in STEPS {
            done(world.step(&rotation, step).await);
        }
        assert!(world.lives(&own) && world.lives(&world.first_key), "{}", world.story());
        assert_eq!(world.count(&["rotate", "create", "revoke"]), 0);
        world.assert_kept();
    });
}

/// A previous version can be written by hand too. It is read on redelivery, to revoke the old key: a value that works nowhere is
/// no proof that the id beside it is the old key's.
#[test]
fn a_planted_previous_version_does_not_get_a_key_revoked() {
    Testbed::run(async |testbed| {
        let setting = Setting { revoke_immediately: true, ..Setting::default() };
        for (org, account) in [(ORG, ACCOUNT), (ORG, "platform"), ("other", ACCOUNT)] {
            let world = testbed.world(&setting);
            let rotation = world.begin_rotation(&token("second", 0)).unwrap();
            world.complete(&rotation, ONCE).await;
            let revoked = world.count(&["revoke"]);

            let planted = json!({ "org": org, "service_account": account, "api_key": "made-up-key", "key_id": world.strangers[0] });
            let planted = json!({ "SecretId": world.arn, "ClientRequestToken": token("planted", 0), "SecretString": planted.to_string(), "VersionStages": ["AWSPREVIOUS"] });
            world.aws("PutSecretValue", planted).unwrap();
            // Whether it is an error is left open: nobody's key is touched.
            let _ = world.step(&rotation, "finishSecret").await;
            world.assert_kept();
            assert_eq!(world.count(&["revoke"]), revoked, "as {org}/{account}\n{}", world.story());
            assert_eq!(world.key(AWSCURRENT).map(|key| key.revoked_at), Some(None));
        }
    });
}

/// The key goes to an origin, and to nowhere else.
#[tokio::test]
async fn a_host_that_is_no_origin() {
    let mut checks = JoinSet::new();
    for host in HOSTS {
        checks.spawn(check_variable("KOSLI_HOST", host, "https://"));
    }
    checks.join_all().await;
}

const HOSTS: [&str; 39] = [
    "https:app.kosli.com",
    "https:/app.kosli.com",
    "https:///app.kosli.com",
    "https://app.kosli.com/.",
    "https://app.kosli.com/%2e%2e/",
    "https://user:word@app.kosli.com",
    "https://@app.kosli.com",
    "https://app.kosli.com:443@evil.example",
    "https://app.kosli.com@evil.example",
    "https://app.kosli.com\\@evil.example",
    "https://app.kosli.com/api/v2",
    "https://app.kosli.com//",
    "https://app.kosli.com/..",
    "https://app.kosli.com?host=evil.example",
    "https://app.kosli.com?",
    "https://app.kosli.com#evil.example",
    "https://app.kosli.com#",
    "https:/\\app.kosli.com",
    "https://app.kosli.com\n.evil.example",
    "https://app.kosli.com\t",
    "https://app.kosli.com:99999",
    "https://[::1",
    "//app.kosli.com",
    "ws://localhost",
    "wss://app.kosli.com",
    "ftp://127.0.0.1",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "data:text/plain,x",
    "unix:/run/docker.sock",
    "http://127.0.0.1.evil.example",
    "http://localhost.evil.example",
    "http://localhost:80@evil.example",
    "http://evil.example/127.0.0.1",
    "http://10.0.0.1",
    "http://169.254.169.254",
    "http://[::ffff:10.0.0.1]",
    "http://0.0.0.0",
    "http://[::]",
];

/// What a host's spelling means, and that it is shown to nobody else: names of other scripts in their ASCII form, loopback in
/// every form that the parser of URLs knows.
#[test]
fn what_a_host_is_taken_for() {
    let host = |text: &str| {
        let variable = |name: &str| if name == "KOSLI_HOST" { Some(text.to_owned()) } else { set_by_lambda(name) };
        Config::from_vars(variable).map(|config| config.host.to_string())
    };
    for (text, taken_for) in [
        ("https://APP.KOSLI.COM", "https://app.kosli.com/"),
        ("https://app.kosli.com.", "https://app.kosli.com./"),
        ("https://\u{430}pp.kosli.com", "https://xn--pp-6kc.kosli.com/"),
        ("https://b\u{fc}cher.example", "https://xn--bcher-kva.example/"),
        ("https://app\u{3002}kosli\u{3002}com", "https://app.kosli.com/"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080/"),
        ("http://2130706433", "http://127.0.0.1/"),
        ("http://0x7f.1", "http://127.0.0.1/"),
        ("http://LOCALHOST", "http://localhost/"),
        ("http://[0:0:0:0:0:0:0:1]", "http://[::1]/"),
    ] {
        assert_eq!(host(text).as_deref(), Ok(taken_for), "{text}");
    }
    // A loopback address in the clothes of IPv6 is refused with the others: nobody needs it.
    for text in [
        "http://[::ffff:127.0.0.1]",
        "http://localhost.",
        "http://app.localhost",
        "http://l\u{f6}calhost",
        "http://\u{24b}ocalhost",
    ] {
        assert!(host(text).is_err(), "{text}: {:?}", host(text));
    }
}
