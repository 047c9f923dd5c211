//! What somebody else does: a person, at AWS's and Kosli's own calls, or another execution.

use std::collections::BTreeSet;
use std::time::{Duration, UNIX_EPOCH};

use crate::course::{Course, FIELD, Repair};
use crate::excused;
use crate::turns::Turns;
use emulator::kosli::{Key, MintedBy};
use emulator::rotation::{Event, Retries, rotate};
use kosli_key_rotation::marker::Mark;
use serde_json::{Value, json};
use testbed::{ACCOUNT, ADMIN_SECRET, DAY, ORG, Shape, token, version_id};

macro_rules! happenings {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// What happens.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Happening { $($(#[$doc])* $name,)* }

        impl Happening {
            /// All of it.
            pub const ALL: [Self; [$($word),*].len()] = [$(Self::$name,)*];

            /// Its name in a case.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }
    };
}

happenings! {
    /// Another field is edited, with the current key: a plain `put-secret-value`. Of a plain string, the same value is put again.
    Edit = "edit",
    /// A key is made and put in, with its id.
    KeyWithId = "key-with-id",
    /// The same, and the old key's id stays beside it.
    KeyBesideOldId = "key-beside-old-id",
    /// The same, with no id anywhere.
    KeyWithoutId = "key-without-id",
    /// `AWSCURRENT` is moved back to the version before.
    Back = "back-to-previous",
    /// `AWSPENDING` is taken off.
    ClearPending = "clear-pending",
    /// `cancel-rotate-secret`.
    Cancel = "cancel-rotate",
    /// `AWSPENDING` is taken off, and `rotate-secret` called: the new version's rotation comes next.
    RotateAgain = "rotate-again",
    /// The same, and all its steps run before this one goes on.
    RotateAtOnce = "rotate-again-at-once",
    /// The grace period is another one from now on.
    GraceChanged = "tag-grace-changed",
    /// Its tag is no number.
    GraceMalformed = "tag-grace-malformed",
    /// Its tag, which was there, is taken off.
    GraceRemoved = "tag-grace-removed",
    /// The old key is to be revoked at once from now on.
    RevokeChanged = "tag-revoke-changed",
    /// Its tag is no word that is known.
    RevokeMalformed = "tag-revoke-malformed",
    /// The life of a key is no number.
    LifeMalformed = "tag-life-malformed",
    /// Another service account is named.
    AccountChanged = "tag-account-changed",
    /// The service account is no name.
    AccountMalformed = "tag-account-malformed",
    /// The service account is not named any more.
    AccountRemoved = "tag-account-removed",
    /// The key's id is not named any more.
    KeyIdRemoved = "tag-key-id-removed",
    /// The admin secret has a new key; the one before lives on.
    AdminRotated = "admin-rotated",
    /// The same, and the one before is revoked.
    AdminReplaced = "admin-replaced",
    /// The admin secret holds no key.
    AdminEmptied = "admin-emptied",
    /// The admin secret holds the key that is rotated.
    AdminCopies = "admin-copies-key",
    /// The key under `AWSCURRENT` is revoked.
    CurrentRevoked = "current-revoked",
    /// The key under `AWSPENDING` is revoked.
    PendingRevoked = "pending-revoked",
    /// A key that was minted and that no version holds is revoked.
    LostRevoked = "lost-revoked",
    /// Somebody makes a key with the same description.
    StrangerMints = "stranger-mints",
    /// Another secret of the same account is rotated from beginning to end.
    SiblingRotates = "sibling-rotates",
    /// The function's time-out is shorter from the next step on.
    TimeoutShorter = "timeout-shorter",
    /// It is longer.
    TimeoutLonger = "timeout-longer",
}

/// What a person has written, and that may not be undone in silence.
pub struct Write {
    what: What,
    /// How much had been said before.
    since: usize,
    /// The keys that there were when whoever had looked before had ended.
    keys: Option<BTreeSet<String>>,
}

enum What {
    Field,
    /// A key is current: its id, its value, and the version.
    Key(String, String, String),
}

impl Write {
    /// Whoever looks from now on sees it.
    pub fn has_been_seen(&mut self, course: &Course) {
        if self.keys.is_none() {
            let values = |kosli: &mut emulator::kosli::Kosli| kosli.keys().map(|key| key.value.clone()).collect();
            self.keys = Some(course.world.emulator.with_kosli(values));
        }
    }

    /// What was undone, and nobody was told.
    pub fn undone(&self, course: &Course) -> Option<String> {
        match &self.what {
            What::Field => {
                let kept = course.world.value("AWSCURRENT").is_some_and(|value| value.contains(FIELD));
                let said = course.ledger.was_said(self.since, &[FIELD, "AWSPREVIOUS"]);
                let is_forgiven = || course.is_long && excused::killed_after_the_move(course, self.since);
                (!kept && !said && !is_forgiven()).then(|| "I4: an edited field was undone in silence".to_owned())
            }
            What::Key(id, value, version) => {
                let current = course.key_value("AWSCURRENT")?;
                // A rotation that has seen it has replaced it, as rotations do.
                let seen = self.keys.as_ref().is_none_or(|before| !before.contains(&current));
                let replaced = seen || replaces(course, &current, id, version);
                let said = [id, version].into_iter().any(|word| course.ledger.was_said(self.since, &[word]))
                    || course.ledger.was_said(self.since, &["PendingSuperseded"])
                    || course.ledger.was_said(self.since, &["The current key was not the one", "AWSPREVIOUS"])
                    || course
                        .ledger
                        .was_said(self.since, &["A person put another key under AWSCURRENT", "AWSPREVIOUS"]);
                let undone = current != *value && !replaced;
                let is_forgiven = undone
                    && course.is_long
                    && (excused::what_it_replaces_is_hidden(course, self.since)
                        || excused::killed_after_the_move(course, self.since)
                        || excused::is_dead(course, value));
                (undone && !said && !is_forgiven)
                    .then(|| "I4: a key that a person made current was undone in silence".to_owned())
            }
        }
    }
}

/// Whether this key was minted to replace the version: by its mark, or by the rotation of the version's key; or a key that it replaces.
fn replaces(course: &Course, value: &str, id: &str, version: &str) -> bool {
    let keys: Vec<Key> = course.world.emulator.with_kosli(|kosli| kosli.keys().cloned().collect());
    let mark = Mark::of(&course.world.arn, &version_id(version));
    // A key that was put in beside another's id: that one is what is rotated.
    let text = course.world.emulator.with_secrets_manager(|service| {
        Some(service.secret(&course.world.arn)?.versions.get(version)?.text()?.to_owned())
    });
    let is_named = |of: &String| of == id || text.as_ref().is_some_and(|text| text.contains(of));
    let mut key = keys.iter().find(|key| key.value == value);
    while let Some(successor) = key {
        let expiry = successor.expires_at.map(|at| at.duration_since(UNIX_EPOCH).unwrap().as_secs());
        if expiry.is_some_and(|at| mark.attempt_in(at).is_some()) {
            return true;
        }
        key = match &successor.minted_by {
            MintedBy::Rotate { of } if is_named(of) => return true,
            MintedBy::Rotate { of } => keys.iter().find(|key| key.id == *of && key.value != successor.value),
            MintedBy::Create | MintedBy::SetUp => None,
        };
    }
    false
}

impl Happening {
    /// Whether it is of interest with that history: what was before matters to who goes back.
    pub fn is_of_interest(self, history: bool) -> bool {
        !history || self == Self::Back
    }

    /// It happens. `None`: there is nothing to do; `Some(None)`: nothing of it could be undone.
    pub async fn happen(self, course: &Course, turns: &Turns) -> Option<Option<Write>> {
        let world = &course.world;
        let since = course.ledger.said();
        let write = |what| Some(Some(Write { what, since, keys: None }));
        match self {
            Self::Edit => {
                let current = world.value("AWSCURRENT")?;
                let version = course.fresh_version();
                match serde_json::from_str::<Value>(&current) {
                    Ok(Value::Object(mut fields)) => {
                        fields.insert(FIELD.to_owned(), json!("night shift"));
                        world.put(&Value::Object(fields).to_string(), &version);
                        write(What::Field)
                    }
                    _ => {
                        world.put(&current, &version);
                        Some(None)
                    }
                }
            }
            Self::KeyWithId | Self::KeyBesideOldId | Self::KeyWithoutId => {
                let shape = world.setting.shape;
                if self == Self::KeyBesideOldId && shape != Shape::ApiKey {
                    return None;
                }
                excused::replaced_by_hand(course);
                let key = course.make_key();
                let version = if self == Self::KeyWithId {
                    course.put_key(&key)
                } else {
                    let version = course.fresh_version();
                    let value = match serde_json::from_str::<Value>(&world.value("AWSCURRENT")?) {
                        Ok(Value::Object(mut fields)) => {
                            for field in ["api_key", "KOSLI_API_TOKEN"] {
                                fields.entry(field).and_modify(|value| *value = json!(key.value));
                            }
                            if self == Self::KeyWithoutId {
                                fields.remove("key_id");
                                fields.remove("KOSLI_API_KEY_ID");
                            }
                            Value::Object(fields).to_string()
                        }
                        _ => key.value.clone(),
                    };
                    world.put(&value, &version);
                    version
                };
                write(What::Key(key.id, key.value, version))
            }
            Self::Back => {
                let (from, to) = (course.holder("AWSCURRENT")?, course.holder("AWSPREVIOUS")?);
                excused::replaced_by_hand(course);
                let key = world.key("AWSPREVIOUS")?;
                excused::going_back(course, turns, &key);
                let body = json!({"SecretId": world.arn, "VersionStage": "AWSCURRENT", "MoveToVersionId": to,
                                  "RemoveFromVersionId": from});
                world.aws("UpdateSecretVersionStage", body).unwrap();
                write(What::Key(key.id, key.value, to))
            }
            Self::ClearPending => course.clear_pending().then_some(None),
            Self::Cancel => {
                world.aws("CancelRotateSecret", json!({"SecretId": world.arn})).ok()?;
                Some(None)
            }
            Self::RotateAgain => {
                let rotation = course.begin_again(true)?;
                course.begun.borrow_mut().push_back(rotation);
                Some(None)
            }
            Self::RotateAtOnce => {
                let rotation = course.begin_again(true)?;
                course.drive(course.elsewhere, &rotation, 1, async |_| {}).await;
                Some(None)
            }
            Self::GraceChanged => tag(course, "kosli:grace-period-hours", Some("48"), false),
            Self::GraceMalformed => tag(course, "kosli:grace-period-hours", Some("a day"), true),
            Self::GraceRemoved => tag(course, "kosli:grace-period-hours", None, false),
            Self::RevokeChanged => tag(course, "kosli:revoke-old-key", Some("immediately"), false),
            Self::RevokeMalformed => tag(course, "kosli:revoke-old-key", Some("now"), true),
            Self::LifeMalformed => tag(course, "kosli:key-ttl-days", Some("a year"), true),
            Self::AccountChanged => identity(course, "kosli:service-account", Some("platform")),
            Self::AccountMalformed => identity(course, "kosli:service-account", Some("c i")),
            Self::AccountRemoved => identity(course, "kosli:service-account", None),
            Self::KeyIdRemoved => identity(course, "kosli:key-id", None),
            Self::AdminRotated | Self::AdminReplaced | Self::AdminEmptied | Self::AdminCopies => self.to_admin(course),
            Self::CurrentRevoked | Self::PendingRevoked | Self::LostRevoked => self.revoke(course),
            Self::StrangerMints => {
                let key = course.make_key();
                world.probe.add_stranger(key.id);
                Some(None)
            }
            Self::SiblingRotates => {
                let sibling = world.sibling("kosli/other");
                let rotation = sibling.begin_rotation(&token("other", 0)).unwrap();
                let invoke = |event: Value| {
                    let sibling = &sibling;
                    async move {
                        let outcome = sibling.invoke(course.elsewhere, &event).await;
                        course.ledger.note(&outcome);
                        outcome
                    }
                };
                let retries = Retries { attempts: 2, spacing: Duration::from_secs(120) };
                let observe = |_: &_, event: &Event| course.tell(&format!("the other secret: {event}"));
                let end = rotate(&world.emulator, &rotation, retries, invoke, observe).await;
                if end != Event::Succeeded {
                    world.probe.report(format!("I6: the other secret's rotation ended so: {end}"));
                }
                course.siblings.borrow_mut().push(sibling);
                Some(None)
            }
            Self::TimeoutShorter => {
                course.timeout.set(Duration::from_secs(45));
                Some(None)
            }
            Self::TimeoutLonger => {
                course.timeout.set(Duration::from_secs(300));
                Some(None)
            }
        }
    }

    fn to_admin(self, course: &Course) -> Option<Option<Write>> {
        let world = &course.world;
        if !world.setting.admin {
            return None;
        }
        let before = world.emulator.with_secrets_manager(|service| {
            Some(service.secret(ADMIN_SECRET)?.versions.labelled("AWSCURRENT")?.text()?.to_owned())
        })?;
        // Once it is broken, nobody breaks it again before it has been put right.
        let key = world.emulator.with_kosli(|kosli| kosli.keys().find(|key| key.value == before).cloned());
        let key = key.filter(|key| key.account != ACCOUNT)?;
        let put = |course: &Course, value: &str| {
            let version = course.fresh_version();
            let body = json!({"SecretId": ADMIN_SECRET, "SecretString": value, "ClientRequestToken": version});
            course.world.aws("PutSecretValue", body).unwrap();
        };
        let restore: Repair = {
            let before = before.clone();
            Box::new(move |course| {
                course.tell("the admin secret is put right");
                put(course, &before);
            })
        };
        match self {
            Self::AdminEmptied => {
                put(course, "{}");
                course.repairs.borrow_mut().push(restore);
            }
            Self::AdminCopies => {
                put(course, &course.key_value("AWSCURRENT")?);
                course.repairs.borrow_mut().push(restore);
            }
            _ => {
                let now = world.emulator.clock().now();
                let (_, value) = world
                    .emulator
                    .with_kosli(|kosli| kosli.add_key(ORG, "platform", "rotates", now, Some(now + DAY * 190)));
                put(course, &value);
                if self == Self::AdminReplaced {
                    world.emulator.with_kosli(|kosli| kosli.revoke_key(&key.id));
                }
            }
        }
        Some(None)
    }

    fn revoke(self, course: &Course) -> Option<Option<Write>> {
        let world = &course.world;
        let now = world.emulator.clock().now();
        let key = match self {
            Self::CurrentRevoked => world.key("AWSCURRENT"),
            Self::PendingRevoked if course.holder("AWSPENDING") != course.holder("AWSCURRENT") => {
                world.key("AWSPENDING")
            }
            Self::PendingRevoked => None,
            _ => {
                let held = course.ledger.held();
                world.minted().into_iter().find(|key| key.is_live_at(now) && !held.contains(&key.value))
            }
        }?;
        if !world.emulator.with_kosli(|kosli| kosli.revoke_key(&key.id)) {
            return None;
        }
        course.tell(&format!("a person revokes {}", key.id));
        excused::revoked_by_hand(course, &key.id);
        Some(None)
    }
}

/// A tag of the policy; `repaired`: a person takes it off again once something has failed.
fn tag(course: &Course, key: &'static str, value: Option<&str>, repaired: bool) -> Option<Option<Write>> {
    match value {
        Some(value) => course.world.tag(key, value),
        None => course.world.untag(key),
    }
    if repaired {
        course.repairs.borrow_mut().push(Box::new(move |course| {
            course.tell(&format!("the tag {key} is taken off"));
            course.world.untag(key);
        }));
    }
    Some(None)
}

/// A tag that says what the value does not; it is put right once something has failed.
fn identity(course: &Course, key: &'static str, value: Option<&str>) -> Option<Option<Write>> {
    let world = &course.world;
    if !matches!(world.setting.shape, Shape::WithoutId | Shape::Plain) {
        return None;
    }
    match value {
        Some(value) => world.tag(key, value),
        None => world.untag(key),
    }
    let right = if key == "kosli:key-id" { world.first_key.clone() } else { ACCOUNT.to_owned() };
    // The key's id is wanted for the first version alone.
    if key != "kosli:key-id" {
        course.repairs.borrow_mut().push(Box::new(move |course| {
            course.tell(&format!("the tag {key} is put right"));
            course.world.tag(key, &right);
        }));
    }
    Some(None)
}
