//! What the clients return, and what a secret is read into, is safe to print in both forms of `Debug`: whatever a service has
//! answered, echoes included, no key and no rotation token shows.

use std::fmt::Debug;
use std::time::UNIX_EPOCH;

use emulator::Fault;
use emulator::faults::Refusal;
use emulator::rotation::step_event;
use http::StatusCode;
use kosli_key_rotation::api_key::ApiKey;
use kosli_key_rotation::budget::Budget;
use kosli_key_rotation::document::Document;
use kosli_key_rotation::event::Event;
use kosli_key_rotation::identity::{Account, KeyId, Name};
use kosli_key_rotation::kosli::LONGEST_MINT;
use kosli_key_rotation::rotation::credential::{Credential, admin_key};
use kosli_key_rotation::secrets_manager::{CURRENT, NewValue, PENDING, Which};

use crate::answers::{Case, answers, echoes, keys, lists, new_keys};
use crate::server::{Server, Trap};
use crate::{OPERATIONS, setting};
use testbed::{ACCOUNT, ADMIN_SECRET, DAY, HOUR, ORG, TIMEOUT, Testbed, World, emit, key_in, token, version_id};

/// Has it searched with all that is emitted. A list of bytes has one line for each in the long form, and is put together again.
fn print(what: &dyn Debug) {
    let long = format!("{what:#?}");
    emit(&format!("{what:?}\n{long}\n{}", long.replace('\n', " ")));
}

fn budget(world: &World) -> Budget {
    let clock = world.function(0).clock;
    let deadline = clock.now() + TIMEOUT;
    Budget::new(clock, deadline)
}

/// Calls the operation and prints what comes back.
async fn call(world: &World, operation: &str) {
    let budget = budget(world);
    let kosli = world.function(0).kosli;
    let admin = world.emulator.with_secrets_manager(|service| {
        key_in(service.secret(ADMIN_SECRET).unwrap().versions.labelled(CURRENT).unwrap().text().unwrap())
    });
    let admin = ApiKey::parse(&admin.unwrap()).unwrap();
    let org = Name::parse(ORG).unwrap();
    let account = Account { org: org.clone(), name: Name::parse(ACCOUNT).unwrap() };
    let id = KeyId::parse(&world.first_key).unwrap();
    let expires_at = (budget.now() + DAY * 90).duration_since(UNIX_EPOCH).unwrap().as_secs();
    let kosli = kosli.with(&budget, &admin);
    match operation {
        "verify" => print(&kosli.accepts(&org, &[]).await),
        "list" => print(&kosli.list(&account).await),
        "get" => print(&kosli.get(&account, &id).await),
        "rotate" => print(&kosli.rotate(LONGEST_MINT, &account, &id, 24, expires_at).await),
        "create" => print(&kosli.create(LONGEST_MINT, &account, "made up", expires_at).await),
        "revoke" => print(&kosli.revoke(&account, &id).await),
        other => panic!("{other} is no operation"),
    }
}

#[test]
fn what_comes_of_kosli_is_safe_to_print() {
    let mut traps: Vec<(&'static str, Trap)> = Vec::new();
    let mut trap = |operations: &[&'static str], cases: Vec<Case>| {
        for Case { trap, .. } in cases {
            traps.extend(operations.iter().map(|operation| (*operation, trap.clone())));
        }
    };
    trap(&OPERATIONS, answers());
    trap(&["rotate", "create"], new_keys());
    trap(&["list"], lists(2_000_000_000, 1_700_000_000));
    trap(&["get"], keys());
    for status in [200, 201, 302, 307, 400, 401, 403, 404, 409, 422, 429, 500, 503] {
        traps.extend(OPERATIONS.map(|operation| (operation, echoes(status))));
    }
    Testbed::run(async |testbed| {
        for operation in OPERATIONS {
            call(&testbed.world(&setting()), operation).await;
        }
        for (operation, trap) in &traps {
            let mut world = testbed.world(&setting());
            let server = Server::listen(&testbed.emulator, None).await;
            world.kosli_at(&format!("http://{}", server.address));
            server.set_trap(operation, trap.clone());
            call(&world, operation).await;
            assert!(server.count(operation) > 0, "{operation}");
        }
    });
}

/// The faults of the emulator echo the request, with the value and the rotation token in it.
#[test]
fn what_comes_of_secrets_manager_is_safe_to_print() {
    const FAULTS: [&str; 9] = [
        "delay:1s",
        "refuse:400:ThrottlingException",
        "refuse:400:AccessDeniedException",
        "error-after:500",
        "drop-after",
        "garble",
        "truncate",
        "incomplete",
        "html:403",
    ];
    Testbed::run(async |testbed| {
        for fault in FAULTS {
            let world = testbed.world(&setting());
            let rotation = world.begin_rotation(&token("second", 0)).unwrap();
            let event = Event::parse(&step_event(&rotation, "createSecret"));
            print(&event);
            let Ok(Event::Rotation(event)) = event else { panic!("{event:?}") };
            let function = world.function(0);
            print(&(&function.config, &function.kosli, &function.secrets_manager, &function.metrics));
            let (manager, budget, secret) = (&function.secrets_manager, &budget(&world), &event.secret_id);
            let description = manager.describe(budget, secret).await.unwrap();
            let current = manager.read(budget, secret, Which::Label(CURRENT)).await.unwrap().unwrap();
            print(&(&description, &current));
            print(&Credential::parse(&current, &description, CURRENT));
            print(&Credential::parse_replaced(&current, &description, &event.version_id, CURRENT));
            print(&admin_key(&current));
            let document = Document::parse(current.value.unwrap());
            print(&document);

            let new = ApiKey::parse("made-up-new-key-0123456789").unwrap();
            let value = document.unwrap().with_key(&new, &KeyId::parse("made-up").unwrap());
            let new_value = NewValue { text: &value, key: &new, label: None };
            print(&(&new, &value, &new_value));
            for operation in
                ["DescribeSecret", "GetSecretValue", "PutSecretValue", "UpdateSecretVersionStage", "ListSecrets"]
            {
                world.rule(&format!("{operation}={fault}"));
            }
            let first = version_id(&token("first", 0));
            print(&manager.describe(budget, secret).await);
            print(&manager.read(budget, secret, Which::Id(&first)).await);
            print(&manager.store(budget, secret, &event.version_id, event.rotation_token.as_ref(), &new_value).await);
            print(&manager.promote(budget, secret, &event.version_id, &first).await);
            print(&manager.remove_label(budget, secret, PENDING, &event.version_id).await);
            print(&manager.rotated_by(budget, "made-up").await);
            world.advance(HOUR);
        }
    });
}

/// Where it finds a signature wrong, AWS shows what should have been signed, and the role's session token is among that.
#[test]
fn a_refused_signature_does_not_show_what_was_signed() {
    const SAID: &str = "The request signature we calculated does not match the signature you provided.";
    Testbed::run(async |testbed| {
        let world = testbed.world(&setting());
        let rotation = world.begin_rotation(&token("second", 0)).unwrap();
        let mut refusal = Refusal::new(StatusCode::BAD_REQUEST);
        refusal.code = Some("SignatureDoesNotMatch".to_owned());
        refusal.message =
            Some(format!("{SAID}\n\nThe Canonical String should have been\n'POST\nx-amz-security-token:made-up"));
        world.fault_on("DescribeSecret", Fault::Refuse(refusal));
        let error = world.step(&rotation, "createSecret").await.unwrap_err().to_string();
        assert!(error.contains("SignatureDoesNotMatch") && error.contains(SAID), "{error}");
        assert!(!error.contains("Canonical") && !error.contains("made-up"), "{error}");
    });
}
