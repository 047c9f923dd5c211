//! A key's value where something else belongs, in every place that a person can write to: it gets out nowhere (promise I5). The log is
//! kept at its most verbose, and each world is searched, with the paths of its requests, when the next one begins.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use emulator::kosli::{KeyValue, ListInGrace, Role, Switches};
use emulator::rotation::{STEPS, step_event};
use emulator::runtime_api::FunctionError;
use serde_json::{Value, json};
use testbed::{
    ACCOUNT, ADMIN_SECRET, DAY, DESCRIPTION, ONCE, ORG, Setting, Shape, Testbed, World, refused, second, token,
};

/// Where the key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    IdField,
    IdFieldOfEnvironment,
    /// The key's id stands where the key belongs.
    Swapped,
    SwappedWithTag,
    /// The same, and nothing names an id.
    IdAlone,
    /// With a word before it.
    IdFieldWithAWord,
    IdTag,
    IdTagBesideField,
    IdLabel,
    /// The label of a version that is not in use, which is removed before the mint.
    StaleLabel,
    OrgField,
    OrgTag,
    AccountField,
    AccountTag,
    /// The name of a tag under our prefix.
    TagName,
    OtherField,
    FieldName,
    Description,
    IdFieldOfAdminSecret,
    SwappedAdminSecret,
}

use Place::{
    AccountField, AccountTag, Description, FieldName, IdAlone, IdField, IdFieldOfAdminSecret, IdFieldOfEnvironment,
    IdFieldWithAWord, IdLabel, IdTag, IdTagBesideField, OrgField, OrgTag, OtherField, StaleLabel, Swapped,
    SwappedAdminSecret, SwappedWithTag, TagName,
};

const PLACES: [Place; 20] = [
    IdField,
    IdFieldOfEnvironment,
    Swapped,
    SwappedWithTag,
    IdAlone,
    IdFieldWithAWord,
    IdTag,
    IdTagBesideField,
    IdLabel,
    StaleLabel,
    OrgField,
    OrgTag,
    AccountField,
    AccountTag,
    TagName,
    OtherField,
    FieldName,
    Description,
    IdFieldOfAdminSecret,
    SwappedAdminSecret,
];

/// Whose value it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// The one that the secret itself holds.
    Own,
    /// Another's of the account.
    Other,
    /// The admin's.
    Admin,
    /// One of another organization, which Kosli accepts there.
    Elsewhere,
}

const EVERYBODY: [Whose; 4] = [Whose::Own, Whose::Other, Whose::Admin, Whose::Elsewhere];

fn misplaced(world: &World, whose: Whose) -> String {
    match whose {
        Whose::Own => world.kosli_key(&world.first_key).value,
        Whose::Other => unlike_others(world, &world.strangers[1]),
        Whose::Admin => admin(world).1,
        Whose::Elsewhere => {
            let now = world.emulator.clock().now();
            let (id, _) = world.emulator.with_kosli(|kosli| {
                kosli.add_account("elsewhere", "robot", Role::Admin);
                kosli.add_key("elsewhere", "robot", DESCRIPTION, now - DAY, Some(now + DAY))
            });
            unlike_others(world, &id)
        }
    }
}

/// A value that has nothing in common with the secret's own key, by which it could be told, and that may be an id. It is too long for a
/// name: what is a valid one cannot be told from one (SECURITY.md).
fn unlike_others(world: &World, id: &str) -> String {
    let value: String = id.chars().rev().chain("-Qx7Zr4Wm9Lk2Vn5Hb8Tc1Yp6Jd3Gs0Fa".chars()).collect();
    world.emulator.with_kosli(|kosli| kosli.set_value(id, &value));
    value
}

/// The admin key's id and value.
fn admin(world: &World) -> (String, String) {
    world.emulator.with_kosli(|kosli| {
        let key = kosli.keys().find(|key| key.account == "platform").unwrap();
        (key.id.clone(), key.value.clone())
    })
}

impl Place {
    fn shape(self) -> Shape {
        match self {
            IdTag | IdLabel | OrgTag | AccountTag | SwappedWithTag | IdAlone => Shape::Plain,
            IdFieldOfEnvironment => Shape::Environment,
            _ => Shape::ApiKey,
        }
    }

    /// Such a value of the key with this id, with the key that is misplaced in it.
    fn value(self, id: &str, key: &str, misplaced: &str) -> String {
        let whole = |change: &dyn Fn(&mut Value)| {
            let mut value = serde_json::from_str(&self.shape().value(id, key)).unwrap();
            change(&mut value);
            value.to_string()
        };
        match self {
            IdField => whole(&|value| value["key_id"] = misplaced.into()),
            IdFieldOfEnvironment => whole(&|value| value["KOSLI_API_KEY_ID"] = misplaced.into()),
            Swapped => whole(&|value| {
                value["api_key"] = id.into();
                value["key_id"] = misplaced.into();
            }),
            IdFieldWithAWord => whole(&|value| value["key_id"] = format!("token:{misplaced}").into()),
            SwappedWithTag | IdAlone => id.to_owned(),
            OrgField => whole(&|value| value["org"] = misplaced.into()),
            AccountField => whole(&|value| value["service_account"] = misplaced.into()),
            OtherField => whole(&|value| value["note"] = misplaced.into()),
            // Which key it is has to be found out: the candidates are listed with their descriptions.
            Description => whole(&|value| value["key_id"] = Value::Null),
            FieldName => whole(&|value| value[misplaced] = "a note".into()),
            _ => self.shape().value(id, key),
        }
    }

    /// Writes it.
    fn write(self, world: &World, misplaced: &str) {
        let tag = |name: &str| world.tag(name, misplaced);
        match self {
            IdTag | IdTagBesideField | SwappedWithTag => tag("kosli:key-id"),
            IdAlone => world.untag("kosli:key-id"),
            OrgTag => tag("kosli:org"),
            AccountTag => tag("kosli:service-account"),
            TagName => world.tag(&format!("kosli:{misplaced}"), "a note"),
            IdLabel => label(world, misplaced, &token("hand", 0)),
            StaleLabel => {
                label(world, misplaced, &token("first", 0));
                // Whoever refuses may echo what was asked.
                world.rule("UpdateSecretVersionStage#1=refuse:400:AccessDeniedException");
            }
            Description => {
                let now = world.emulator.clock().now();
                let add = |description: &str| {
                    world
                        .emulator
                        .with_kosli(|kosli| kosli.add_key(ORG, ACCOUNT, description, now - DAY, Some(now + DAY)))
                };
                add(misplaced);
                add(&format!("token={misplaced};"));
            }
            IdFieldOfAdminSecret | SwappedAdminSecret => {
                let (id, key) = admin(world);
                let (key, id) = if self == SwappedAdminSecret { (id, key) } else { (key, misplaced.to_owned()) };
                let value = json!({"api_key": key, "key_id": id, "org": ORG, "service_account": "platform"});
                world
                    .aws("PutSecretValue", json!({"SecretId": ADMIN_SECRET, "SecretString": value.to_string(), "ClientRequestToken": token("admin", 1)}))
                    .unwrap();
            }
            _ => {}
        }
    }
}

fn label(world: &World, id: &str, version: &str) {
    let label = format!("kosli-key-id:{id}");
    world
        .aws(
            "UpdateSecretVersionStage",
            json!({"SecretId": world.arn, "VersionStage": label, "MoveToVersionId": version}),
        )
        .unwrap();
}

fn put_pending(world: &World, value: &str) {
    let body = json!({"SecretId": world.arn, "SecretString": value, "ClientRequestToken": second(),
                      "VersionStages": ["AWSPENDING"]});
    world.aws("PutSecretValue", body).unwrap();
}

/// A world in which the version under `AWSCURRENT` has such a mistake in it.
fn begin(testbed: &Testbed, place: Place, whose: Whose, admin: bool) -> (World, String) {
    let world = testbed.world(&Setting {
        shape: place.shape(),
        admin,
        revoke_immediately: true,
        name: format!("{place:?} {whose:?}"),
        ..Setting::default()
    });
    let misplaced = misplaced(&world, whose);
    let key = world.kosli_key(&world.first_key).value;
    world.put(&place.value(&world.first_key, &key, &misplaced), &token("hand", 0));
    // Beside a version with the same key, or one that works, the tag would be out of date.
    let body = json!({"SecretId": world.arn, "VersionStage": "AWSPREVIOUS", "RemoveFromVersionId": token("first", 0)});
    world.aws("UpdateSecretVersionStage", body).unwrap();
    place.write(&world, &misplaced);
    (world, misplaced)
}

async fn check(world: &World) {
    for event in [json!({"Step": "checkSecret", "SecretId": world.arn}), json!({"Step": "checkSecret"})] {
        let _ = world.invoke(0, &event).await;
    }
}

/// With an admin key or without. The old key is revoked at once: that is what does the most.
const MODES: [bool; 2] = [true, false];

/// Every place, every step and the report, with an admin key and without, whosever key it is. The mistake is in the version under
/// `AWSCURRENT`, and maybe in one that somebody puts under `AWSPENDING`.
#[test]
fn it_gets_out_of_no_step_and_of_no_report() {
    Testbed::run(async |testbed| {
        for place in PLACES {
            // Whether it is a key matters where an id belongs; anywhere else one is as good as another.
            let is_for_an_id = [IdField, IdTag, IdLabel, IdFieldOfAdminSecret].contains(&place);
            let whose: &[Whose] = match place {
                _ if is_for_an_id => &EVERYBODY,
                // Of another's key nobody can tell that such an id has it in it.
                IdFieldWithAWord => &[Whose::Own],
                _ => &[Whose::Own, Whose::Other],
            };
            for &whose in whose {
                for admin in MODES {
                    let (world, misplaced) = begin(testbed, place, whose, admin);
                    check(&world).await;
                    let rotation = world.begin_rotation(&second()).unwrap();
                    for _ in 0..2 {
                        let _ = world.step(&rotation, "createSecret").await;
                    }
                    if world.value("AWSPENDING").is_none() {
                        let now = world.emulator.clock().now();
                        let (id, key) = world
                            .emulator
                            .with_kosli(|kosli| kosli.add_key(ORG, ACCOUNT, DESCRIPTION, now, Some(now + DAY * 300)));
                        // The mistake is in both versions, or in the one alone whose key is revoked then.
                        let value =
                            if admin { place.value(&id, &key, &misplaced) } else { place.shape().value(&id, &key) };
                        put_pending(&world, &value);
                    }
                    check(&world).await;
                    for step in STEPS.into_iter().chain(["finishSecret"]) {
                        let _ = world.invoke(0, &step_event(&rotation, step)).await;
                    }
                    check(&world).await;
                }
            }
        }
    });
}

/// The mistake is found before anything is minted, and the error says which it is.
#[test]
fn the_mistake_is_named() {
    Testbed::run(async |testbed| {
        for whose in EVERYBODY {
            for place in [IdField, IdFieldOfEnvironment, Swapped, SwappedWithTag, IdTag, IdLabel] {
                for admin in MODES {
                    let (world, _) = begin(testbed, place, whose, admin);
                    let minted = world.minted().len();
                    let rotation = world.begin_rotation(&second()).unwrap();
                    let FunctionError { error_type, error_message } =
                        world.step(&rotation, "createSecret").await.unwrap_err();
                    let what = format!("{place:?} {whose:?} admin={admin}: {error_type}: {error_message}");
                    assert_eq!(error_type, "InvalidSecret", "{what}");
                    assert!(
                        error_message.contains("swapped") && error_message.contains("Nothing was changed."),
                        "{what}"
                    );
                    assert_eq!(world.minted().len(), minted, "{what}");
                }
            }
        }
    });
}

/// A person has put a key into a label of the version before: a step that comes late for it names no labels but AWS's.
#[test]
fn a_late_step_prints_no_label_with_a_key_in_it() {
    Testbed::run(async |testbed| {
        for prefix in ["kosli-key-id:", ""] {
            let world = testbed.world(&Setting { shape: Shape::Plain, ..Setting::default() });
            let rotation = world.begin_rotation(&second()).unwrap();
            world.complete(&rotation, ONCE).await;
            world.rotate_completely(&token("third", 0)).await;
            let misplaced = unlike_others(&world, &world.strangers[1]);
            world.move_label(&format!("{prefix}{misplaced}"), &second(), None);
            for step in STEPS {
                let text = refused(world.step(&rotation, step).await, "TokenNotPending");
                assert!(text.contains("AWSPREVIOUS") && !text.contains(&misplaced), "{text}");
            }
        }
    });
}

/// Without anything that names an id, the list tells.
#[test]
fn an_id_alone_is_no_key() {
    Testbed::run(async |testbed| {
        for (place, word) in [
            (IdAlone, "the id of a key where the key itself belongs"),
            (IdFieldWithAWord, "a key where a key's id belongs"),
        ] {
            let (world, _) = begin(testbed, place, Whose::Own, true);
            let rotation = world.begin_rotation(&second()).unwrap();
            let message = refused(world.step(&rotation, "createSecret").await, "InvalidSecret");
            assert!(message.contains(word), "{message}");
            assert_eq!(world.minted().len(), 0, "{}", world.story());
        }
    });
}

/// A key's value may have its id in it, as many services' do: that is no key where an id belongs.
#[test]
fn an_id_that_its_own_key_contains_is_an_id() {
    Testbed::run(async |testbed| {
        for key_value in [KeyValue::IdDotSecret, KeyValue::IdThenSecret] {
            for shape in [Shape::ApiKey, Shape::Plain] {
                for list_in_grace in [ListInGrace::OwnExpiry, ListInGrace::Hidden] {
                    let switches = Switches { key_value, list_in_grace, ..Switches::default() };
                    let world =
                        testbed.world(&Setting { shape, switches, revoke_immediately: true, ..Setting::default() });
                    world.rotate_completely(&second()).await;
                    world.assert_completed();
                }
            }
        }
    });
}
