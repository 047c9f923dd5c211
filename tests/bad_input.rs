//! Bad input, as data: what is wrong, and what the function has to say about it.
//!
//! In every case nothing is minted and nothing is changed, no key's value gets out, and the same process handles the next
//! invocation.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

#[path = "bad_input/case.rs"]
mod case;
#[path = "bad_input/raw_runtime.rs"]
mod raw_runtime;

use case::{Case, GOOD, Wrong, check_all, check_events, check_variable};
use emulator::kosli::Role;
use emulator::rotation::STEPS;
use serde_json::{Value, json};
use testbed::executable::ADMIN;
use testbed::{ACCOUNT, ADMIN_SECRET, SECRET};

/// Whoever may invoke the function may send it anything.
#[tokio::test]
async fn an_event_that_secrets_manager_does_not_send() {
    let good = |step: &str| json!({ "Step": step, "SecretId": SECRET, "ClientRequestToken": "0".repeat(32) });
    let with = |field: &str, value: Value| {
        let mut event = good("createSecret");
        event[field] = value;
        event
    };
    let mut events: Vec<(Value, Vec<&str>)> = Vec::new();
    for event in [json!(null), json!(true), json!(17), json!("createSecret"), json!([]), json!([good("createSecret")])]
    {
        events.push((event, vec!["not a JSON object"]));
    }
    for field in ["Step", "SecretId", "ClientRequestToken"] {
        events.push((with(field, json!(null)), vec!["has no", field]));
        let mut without = good("createSecret");
        without.as_object_mut().unwrap().remove(field);
        events.push((without, vec!["has no", field]));
    }
    for field in ["Step", "SecretId", "ClientRequestToken", "RotationToken"] {
        events.push((with(field, json!("")), vec![field, "is empty"]));
        for value in [json!(1), json!(true), json!(["createSecret"]), json!({ "a": "b" })] {
            events.push((with(field, value), vec![field, "is not a string"]));
        }
    }
    for step in ["rotateSecret", "CREATESECRET", "createsecret", "create_secret", " createSecret", "createSecret\n"] {
        events.push((good(step), vec!["`Step`", "createSecret, setSecret, testSecret or finishSecret"]));
    }
    // What cannot be trusted is not repeated as it is.
    events.push((good("\u{1b}[31m"), vec![r"\u{1b}[31m"]));
    events.push((good(&"x".repeat(100)), vec!["\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\""]));
    events.push((with("SecretId", json!("x".repeat(2_049))), vec!["`SecretId`", "longer than 2048"]));
    events.push((with("SecretId", json!("a\u{7}b")), vec!["`SecretId`", "not printable"]));
    for token in ["0".repeat(65), "a b".into(), "é".into(), "a\u{0}b".into()] {
        events.push((with("ClientRequestToken", json!(token)), vec!["`ClientRequestToken`", "32 to 64 characters"]));
    }
    // Secrets Manager would refuse each of them when the new key is to be stored.
    for token in ["short", &"r".repeat(35), &"r".repeat(257), &"r".repeat(300)] {
        events.push((with("RotationToken", json!(token)), vec!["`RotationToken`", "36 to 256 letters"]));
    }
    for odd in [" ", "\u{e9}", "\n", "_", "/", "\u{0}", "\u{200b}"] {
        let token = "9b6e4d1c-0a52-4f37-8e19-c2d7f3a5b801";
        for token in [format!("{odd}{token}"), format!("{token}{odd}"), token.replacen('-', odd, 1) + "0"] {
            events.push((with("RotationToken", json!(token)), vec!["`RotationToken`", "36 to 256 letters"]));
        }
    }
    events.push((json!({}), vec!["has no `Step`"]));
    check_events(&events).await;
}

/// Each is named together with what it accepts, to every invocation, until the configuration has been corrected.
#[tokio::test]
async fn a_malformed_variable() {
    let hours = "a whole number of hours from 1 to 720";
    let days = "a whole number of days from 14 to 365";
    let mut checks = tokio::task::JoinSet::new();
    for (variable, accepts, values) in [
        (
            "KOSLI_HOST",
            "https://",
            &["app.kosli.com", "http://app.kosli.com", "https://app.kosli.com/api", "https://user@app.kosli.com"][..],
        ),
        ("KOSLI_ADMIN_SECRET_ID", "the name or the ARN of a secret", &["has space", "a\tb", "é"]),
        ("KOSLI_SERVICE_ACCOUNTS", "comma-separated org/name patterns", &["acme", "acme/ci,", "acme/c i", "/"]),
        ("KOSLI_GRACE_PERIOD_HOURS", hours, &["0", "721", "-1", "1.5", "24h", "+24", " "]),
        ("KOSLI_REVOKE_OLD_KEY", "after-grace-period or immediately", &["now", "Immediately", "true"]),
        ("KOSLI_KEY_TTL_DAYS", days, &["13", "366", "1y", "99999999999999999999"]),
    ] {
        for value in values {
            checks.spawn(check_variable(variable, value, accepts));
        }
    }
    checks.join_all().await;
}

/// Rotations that do not exist, have ended or were abandoned.
#[tokio::test]
async fn a_token_that_is_not_staged() {
    // Whether the current key is dying of an abandoned rotation, the account's list of keys tells: it is read, and nothing else.
    let mut cases = Vec::new();
    for step in STEPS {
        cases.push(
            Case::new(
                "a version id that the secret does not have",
                "TokenNotStaged",
                &["no version 1111", "abandoned"],
            )
            .step(step)
            .kosli_is_asked()
            .event("ClientRequestToken", "11111111-1111-4111-8111-111111111111"),
        );
        cases.push(
            Case::new("a rotation that a value stored by hand has ended", "TokenNotStaged", &["<token>", "abandoned"])
                .step(step)
                .kosli_is_asked()
                .aws("PutSecretValue", json!({ "SecretString": GOOD, "ClientRequestToken": "2".repeat(32) })),
        );
        cases.push(
            Case::new("the version before the current one", "TokenNotPending", &["AWSPREVIOUS", "abandoned"])
                .step(step)
                .kosli_is_asked()
                .aws("PutSecretValue", json!({ "SecretString": GOOD, "ClientRequestToken": "2".repeat(32) }))
                .event("ClientRequestToken", "<first version>"),
        );
        cases.push(
            Case::new("another secret", "SecretNotFound", &["kosli/nowhere", "account and region"])
                .step(step)
                .event("SecretId", "kosli/nowhere"),
        );
        cases.push(
            Case::new("no value under AWSCURRENT yet", "NoCurrentValue", &["no value", "put-secret-value"])
                .value(Wrong::Nothing)
                .step(step),
        );
    }
    cases.push(
        Case::new("rotation was switched off", "RotationNotEnabled", &["not switched on", "rotate-secret"])
            .aws("CancelRotateSecret", json!({})),
    );
    for step in ["setSecret", "finishSecret"] {
        let words = &["AWSPENDING", "no value", "createSecret fills it"];
        cases.push(Case::new("createSecret has not run", "PendingValueMissing", words).step(step).kosli_is_asked());
    }
    check_all(cases).await;
}

#[tokio::test]
async fn a_malformed_tag() {
    let mut cases = Vec::new();
    for (tag, values, accepts) in [
        ("kosli:grace-period-hours", &["0", "721", "-1", "1.5", "24h", "one"][..], "from 1 to 720"),
        ("kosli:revoke-old-key", &["now", "IMMEDIATELY"], "after-grace-period or immediately"),
        ("kosli:key-ttl-days", &["13", "366", "1 year"], "from 14 to 365"),
        ("kosli:key-id", &["a/b", "a b", "..", "é"], "1 to 200 letters, digits"),
    ] {
        for value in values {
            cases.push(Case::new("a malformed tag", "InvalidTag", &[tag, accepts]).tag(tag, value));
        }
    }
    check_all(cases).await;
}

#[tokio::test]
async fn an_identity_that_is_no_valid_name() {
    let mut cases = Vec::new();
    for name in ["../acme", "a/b", "a b", "a%2Fb", "a?b", "a#b", ".", "..", "é", "a\\u0000b", "<key>", &"a".repeat(65)]
    {
        let in_field = |field: &str| {
            let right = format!(r#""{field}":"{}""#, if field == "org" { "acme" } else { "ci" });
            GOOD.replace(&right, &format!(r#""{field}":"{name}""#))
        };
        let rule = "1 to 64 letters";
        cases.push(
            Case::new("organization", "InvalidIdentity", &["organization", "under AWSCURRENT", rule])
                .value(Wrong::Text(in_field("org"))),
        );
        cases.push(
            Case::new("service account", "InvalidIdentity", &["service account", "under AWSCURRENT", rule])
                .value(Wrong::Text(in_field("service_account"))),
        );
        let name = name.replace("\\u0000", "\u{0}");
        for (tag, what) in [("kosli:org", "organization"), ("kosli:service-account", "service account")] {
            cases.push(Case::new("tag", "InvalidIdentity", &[what, tag, rule]).tag(tag, &name));
        }
    }
    for key_id in ["a/b", "../../x", "a b", ".", "é", &"a".repeat(201)] {
        cases.push(
            Case::new("key id", "InvalidIdentity", &["key id", "AWSCURRENT", "1 to 200 letters"])
                .value(Wrong::Text(GOOD.replace("<id>", key_id))),
        );
    }
    check_all(cases).await;
}

#[tokio::test]
async fn an_identity_that_is_missing() {
    let organization = ["organization", "`org`", "`KOSLI_ORG`", "kosli:org"];
    let account = ["service account", "`service_account`", "`KOSLI_SERVICE_ACCOUNT`", "kosli:service-account"];
    let cases = [
        ("{\"api_key\":\"<key>\",\"service_account\":\"ci\"}", organization),
        ("{\"api_key\":\"<key>\",\"service_account\":\"ci\",\"org\":\"\"}", organization),
        ("{\"api_key\":\"<key>\",\"service_account\":\"ci\",\"org\":null}", organization),
        ("{\"KOSLI_API_TOKEN\":\"<key>\",\"KOSLI_SERVICE_ACCOUNT\":\"ci\"}", organization),
        ("<key>", organization),
        ("{\"api_key\":\"<key>\",\"org\":\"acme\"}", account),
        ("{\"KOSLI_API_TOKEN\":\"<key>\",\"KOSLI_ORG\":\"acme\"}", account),
    ];
    let case = |(value, words): (&str, [&'static str; 4])| {
        Case::new("nobody says whose key it is", "InvalidIdentity", &words).value(Wrong::Text(value.to_owned()))
    };
    check_all(cases.map(case)).await;
}

/// What the environment does not permit is not touched, whatever a secret says.
#[tokio::test]
async fn an_account_that_is_not_permitted() {
    let mut cases = Vec::new();
    for permitted in ["acme/good", "other/*,*/good", "acme/c,acme/good"] {
        for step in STEPS {
            let case = Case::new("not permitted", "NotPermitted", &["acme/ci", "KOSLI_SERVICE_ACCOUNTS"])
                .variable("KOSLI_SERVICE_ACCOUNTS", permitted)
                .step(step);
            cases.push(if step == "createSecret" { case } else { case.pending(GOOD) });
        }
    }
    check_all(cases).await;
}

/// A tag is a guard against whoever can write the value, and a rotation never changes the account.
#[tokio::test]
async fn identities_that_contradict_each_other() {
    let mut cases = vec![
        Case::new("organization", "IdentityConflict", &["organization", "acme", "kosli:org", "other"])
            .tag("kosli:org", "other"),
        Case::new("service account", "IdentityConflict", &["service account", "ci", "kosli:service-account", "other"])
            .tag("kosli:service-account", "other"),
        Case::new("key id", "IdentityConflict", &["another key", "kosli:key-id"]).tag("kosli:key-id", "another-id"),
    ];
    let elsewhere = GOOD.replace("ci", "elsewhere").replace("<key>", "made-up-key-of-another-account");
    for step in ["createSecret", "finishSecret"] {
        let words = &["AWSPENDING", "acme/elsewhere", "AWSCURRENT", "acme/ci"];
        cases.push(
            Case::new("the pending version names another account", "IdentityConflict", words)
                .step(step)
                .pending(&elsewhere),
        );
    }
    check_all(cases).await;
}

#[tokio::test]
async fn a_value_in_no_shape() {
    let values = [
        ("{\"api_key\":\"<key>\",\"org\":\"acme\"", "begins like JSON"),
        ("{\"api_key\":\"<key>\"} {}", "begins like JSON"),
        ("[\"<key>\"]", "begins like JSON"),
        ("\"<key>\"", "begins like JSON"),
        ("{}", "has neither `api_key` nor `KOSLI_API_TOKEN`"),
        ("{\"API_KEY\":\"<key>\",\"org\":\"acme\"}", "has neither `api_key` nor `KOSLI_API_TOKEN`"),
        ("{\"KOSLI_ORG\":\"acme\",\"token\":\"<key>\"}", "has no `KOSLI_API_TOKEN`"),
        ("{\"api_key\":\"\"}", "has neither `api_key`"),
        ("{\"api_key\":null}", "has neither `api_key`"),
        ("{\"api_key\":17}", "`api_key` that is not a string"),
        ("{\"api_key\":[\"<key>\"]}", "`api_key` that is not a string"),
        ("{\"api_key\":\"<key> <key>\"}", "`api_key` that has white space in it"),
        ("{\"api_key\":\"<key>\",\"api_key\":\"<key>\"}", "`api_key` twice"),
        ("{\"api_key\":\"<key>\",\"org\":{\"<key>\":1}}", "`org` that is not a string"),
        ("{\"api_key\":\"<key>\",\"org\":\"acme\",\"service_account\":1}", "`service_account` that is not a string"),
        ("{\"api_key\":\"<key>\",\"key_id\":false}", "`key_id` that is not a string"),
        ("{\"api_key\":\"<key>\",\"KOSLI_ORG\":\"acme\"}", "two shapes"),
        ("{\"api_key\":\"<key>\",\"KOSLI_API_TOKEN\":\"<key>\"}", "two shapes"),
        ("export KOSLI_API_TOKEN=<key>", "begins with `export`"),
        ("<key>\n<key>", "neither JSON nor a plain key"),
        ("<key>é", "neither JSON nor a plain key"),
        (" ", "neither JSON nor a plain key"),
    ];
    let mut cases = Vec::new();
    for (value, words) in values {
        let case = || Case::new("a value in no shape", "InvalidSecret", &[words, "AWSCURRENT", "three shapes"]);
        cases.push(case().value(Wrong::Text(value.to_owned())));
    }
    cases.push(Case::new("binary", "InvalidSecret", &["AWSCURRENT", "is binary"]).value(Wrong::Binary));
    for step in &STEPS[1..] {
        let words = &["AWSPENDING", "neither JSON nor a plain key"];
        cases.push(Case::new("the pending value", "InvalidSecret", words).step(step).pending("<key> <key>"));
    }
    check_all(cases).await;
}

/// What would not fit is not minted.
#[tokio::test]
async fn a_secret_without_room() {
    let padding = "x".repeat(65_000);
    let mut full = Case::new("twenty labels", "NoRoom", &["staging labels", "20", "update-secret-version-stage"]);
    for label in 0..18 {
        let input = json!({ "VersionStage": format!("mine-{label}"), "MoveToVersionId": "<first version>" });
        full = full.aws("UpdateSecretVersionStage", input);
    }
    let large = Case::new("a value of almost 64 KiB", "NoRoom", &["64 KiB", "Shorten"])
        .value(Wrong::Text(GOOD.replacen('{', &format!("{{\"note\":\"{padding}\","), 1)));
    check_all([full, large]).await;
}

/// It is always said that it is the *admin* key, and which call was refused.
#[tokio::test]
async fn an_admin_key_that_does_not_do() {
    let listing = "listing the keys of acme/ci";
    let rotating = "rotating the key <id>";
    let dead = ["the admin key", "revoked, or it expired", "KOSLI_ADMIN_SECRET_ID"];
    let [admin_key, revoked, variable] = dead;
    let case = |name, error_type, words: &[&'static str]| Case::new(name, error_type, words).with_admin();
    let secret = |name, words: &[&'static str]| {
        case(name, "InvalidAdminSecret", &[&["The admin secret kosli/admin"][..], words].concat())
    };
    check_all([
        case("revoked", "AdminKeyDead", &[admin_key, listing, revoked, variable]).kosli_is_asked().then(|world, _| {
            let admin = world.keys().into_iter().find(|key| key.account == ADMIN).unwrap();
            world.emulator.with_kosli(|kosli| kosli.revoke_key(&admin.id));
        }),
        case("dies between two calls", "AdminKeyDead", &[admin_key, rotating, revoked, variable])
            .kosli_is_asked()
            .then(|world, _| world.emulator.faults().add("rotate=refuse:401".parse().unwrap())),
        case("may not list", "KosliForbidden", &[admin_key, listing, "403", "(Admin)"])
            .kosli_is_asked()
            .then(|world, _| world.emulator.with_kosli(|kosli| kosli.add_account("acme", ADMIN, Role::Reader))),
        case("may not rotate", "KosliForbidden", &[admin_key, rotating, "403", "(Admin)"])
            .kosli_is_asked()
            .then(|world, _| world.emulator.faults().add("rotate=refuse:403".parse().unwrap())),
        secret("no such secret", &["does not exist or has no value", "KOSLI_ADMIN_SECRET_ID"])
            .admin_secret(Wrong::Missing),
        secret("no value", &["does not exist or has no value", "put the admin key"]).admin_secret(Wrong::Nothing),
        secret("binary", &["is binary", "a plain string, or JSON"]).admin_secret(Wrong::Binary),
        secret("neither field", &["has neither `api_key` nor `KOSLI_API_TOKEN`"])
            .admin_secret(Wrong::Text("{\"token\":\"<admin key>\"}".to_owned())),
        secret("two words", &["begins with `Bearer`"]).admin_secret(Wrong::Text("Bearer <admin key>".to_owned())),
        secret("may not be read", &["cannot be read", "secretsmanager:GetSecretValue", "kms:Decrypt"])
            .refused("GetSecretValue", ADMIN_SECRET),
    ])
    .await;
}

/// The secret's own key, where there is no admin key.
#[tokio::test]
async fn a_key_that_cannot_rotate_itself() {
    check_all([
        Case::new(
            "may not list",
            "KosliForbidden",
            &["self-rotation", "listing the keys of acme/ci", "KOSLI_ADMIN_SECRET_ID"],
        )
        .kosli_is_asked()
        .then(|world, _| world.emulator.with_kosli(|kosli| kosli.add_account("acme", ACCOUNT, Role::Member))),
        Case::new(
            "may not rotate",
            "KosliForbidden",
            &["self-rotation", "rotating the key <id>", "KOSLI_ADMIN_SECRET_ID"],
        )
        .kosli_is_asked()
        .then(|world, _| world.emulator.faults().add("rotate=refuse:403".parse().unwrap())),
        Case::new("is dead", "CurrentKeyDead", &["AWSCURRENT", "acme/ci", "put-secret-value", "KOSLI_ADMIN_SECRET_ID"])
            .kosli_is_asked()
            .then(|world, _| {
                let key = world.keys().into_iter().find(|key| key.account == ACCOUNT).unwrap();
                world.emulator.with_kosli(|kosli| kosli.revoke_key(&key.id));
            }),
    ])
    .await;
}

#[tokio::test]
async fn a_key_that_is_not_where_the_secret_says() {
    let no_key_id = GOOD.replace(",\"key_id\":\"<id>\"", "");
    let mut cases = Vec::new();
    for with_admin in [true, false] {
        let case = |name, error_type, words: &[&'static str], value: &str| {
            let case = Case::new(name, error_type, words).value(Wrong::Text(value.to_owned())).kosli_is_asked();
            if with_admin { case.with_admin() } else { case }
        };
        let causes = &["mistyped-id", "acme/ci", "mistyped", "in its grace period"];
        cases.push(case("a mistyped id", "KeyNotOnAccount", causes, &GOOD.replace("<id>", "mistyped-id")));
        let candidates = &["no key id", "2 keys", "<id>", "made by a person", "`key_id`", "kosli:key-id"];
        cases.push(case("no id, and two keys", "KeyIdUnknown", candidates, &no_key_id).then(|world, _| {
            let now = world.emulator.clock().now();
            world.emulator.with_kosli(|kosli| kosli.add_key("acme", ACCOUNT, "made by a person", now, None));
        }));
        let organization = &["environments of elsewhere", "403", "organization"];
        cases.push(case("another organization", "KosliForbidden", organization, &GOOD.replace("acme", "elsewhere")));
    }
    let mismatch = &["<id>", "acme/ci", "do not belong together"];
    cases.push(
        Case::new("the value of another key", "KeyIdMismatch", mismatch)
            .value(Wrong::Text(GOOD.replace("<key>", "made-up-value-of-no-key")))
            .kosli_is_asked()
            .with_admin(),
    );
    cases.push(
        Case::new("no such service account", "KosliRefused", &["acme/nobody", "404", "there may be no such account"])
            .value(Wrong::Text(GOOD.replace("\"ci\"", "\"nobody\"")))
            .kosli_is_asked()
            .with_admin(),
    );
    check_all(cases).await;
}

/// A pending value is proven too.
#[tokio::test]
async fn a_pending_value_that_is_no_new_key() {
    let begin_again = ["update-secret-version-stage --secret-id", "--remove-from-version-id <token>", "rotate-secret"];
    let [clear, token, again] = begin_again;
    let mut cases = Vec::new();
    for step in ["createSecret", "finishSecret"] {
        let words = &["AWSPENDING", "the current key", clear, token, again];
        cases.push(Case::new("a copy of the current value", "PendingIsCurrent", words).step(step).pending(GOOD));
    }
    for step in ["createSecret", "testSecret", "finishSecret"] {
        let words = &["does not accept the key under AWSPENDING", clear, token, again];
        cases.push(
            Case::new("a dead key", "PendingKeyDead", words)
                .step(step)
                .pending(&GOOD.replace("<key>", "made-up-value-of-no-key"))
                .kosli_is_asked(),
        );
    }
    check_all(cases).await;
}

/// The secret itself cannot be read: the message is what the function's role needs.
#[tokio::test]
async fn a_permission_that_is_missing() {
    let mut cases = Vec::new();
    for step in STEPS {
        for operation in ["DescribeSecret", "GetSecretValue"] {
            let action = if operation == "DescribeSecret" {
                "secretsmanager:DescribeSecret"
            } else {
                "secretsmanager:GetSecretValue"
            };
            cases.push(
                Case::new("AccessDenied", "SecretsManagerRefused", &["lacks a permission", action, "kosli/ci"])
                    .step(step)
                    .pending(GOOD)
                    .refused(operation, SECRET),
            );
        }
    }
    check_all(cases).await;
}

/// People mix up the two things that Kosli shows them. The value is shown to nobody then either, nor sent in a URL.
#[tokio::test]
async fn a_key_in_the_place_of_its_id_is_not_repeated() {
    check_all([
        Case::new("in the value", "InvalidSecret", &["swapped"]).value(Wrong::Text(GOOD.replace("<id>", "<key>"))),
        Case::new("in the tag", "InvalidSecret", &["swapped"]).tag("kosli:key-id", "<key>"),
    ])
    .await;
}

/// Nor is it where a contradiction between two names has to be explained. (The emulator's keys are no valid names.)
#[tokio::test]
async fn a_key_in_the_place_of_a_name_is_not_repeated() {
    let good = GOOD.replace("<key>", "made-up-key-0123456789");
    check_all([
        Case::new(
            "in the value",
            "InvalidIdentity",
            &["The organization in the value under AWSCURRENT is not a valid name"],
        )
        .value(Wrong::Text(good.replace("acme", "made-up-key-0123456789")))
        .tag("kosli:org", "acme"),
        Case::new(
            "in the tag",
            "InvalidIdentity",
            &["The service account in the tag kosli:service-account is not a valid"],
        )
        .value(Wrong::Text(good))
        .tag("kosli:service-account", "made-up-key-0123456789"),
    ])
    .await;
}
