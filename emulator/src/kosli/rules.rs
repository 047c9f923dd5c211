//! The rules behind the calls: who is accepted, what is shown, how keys are made and how they end.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::StatusCode;

use super::account::Role;
use super::answer::Refusal;
use super::key::{Key, MintedBy, ShownCreation};
use super::request::Route;
use super::switches::{ExpiresAt, KeyValue, RotateInGrace};
use super::{Kosli, LONGEST_LIFE};

impl Kosli {
    pub(super) fn check_rotate_in_grace(&self) -> Result<(), Refusal> {
        match self.switches.rotate_in_grace {
            RotateInGrace::RestartsGrace | RotateInGrace::KeepsGrace | RotateInGrace::EndsGrace => Ok(()),
            RotateInGrace::BadRequest => Err(Refusal::new(StatusCode::BAD_REQUEST, "API key has already been rotated")),
            RotateInGrace::NotFound => Err(Refusal::key_not_found()),
            RotateInGrace::Conflict => Err(Refusal::new(StatusCode::CONFLICT, "API key has already been rotated")),
        }
    }

    pub(super) fn check_room(&self, route: &Route) -> Result<(), Refusal> {
        let now = self.clock.now();
        let live = self.keys.iter().filter(|key| route.names_account_of(key) && key.is_live_at(now)).count();
        match self.switches.key_limit {
            Some(limit) if live >= limit => {
                Err(Refusal::new(StatusCode::BAD_REQUEST, "Service account has too many API keys"))
            }
            _ => Ok(()),
        }
    }

    /// Gives every live key with the route's id its grace period, and answers when that of the rotated one ends.
    pub(super) fn begin_grace(&mut self, route: &Route, now: SystemTime, ends_at: SystemTime) -> SystemTime {
        let again = self.switches.rotate_in_grace;
        let mut ends = ends_at;
        for key in self.keys.iter_mut().filter(|key| route.names(key) && key.is_live_at(now)) {
            ends = match key.grace_ends_at {
                Some(first) if again == RotateInGrace::KeepsGrace => first,
                Some(_) if again == RotateInGrace::EndsGrace => now,
                _ => ends_at,
            };
            key.grace_ends_at = Some(ends);
            key.rotated_at.get_or_insert(now);
        }
        // The newest comes last.
        ends
    }

    /// When a new key expires that is asked to expire at `wanted`; its longest life is counted from `created`.
    pub(super) fn expiry(&self, wanted: Option<SystemTime>, created: SystemTime) -> SystemTime {
        let cap = created + LONGEST_LIFE;
        let within_cap = wanted.map_or(cap, |wanted| wanted.min(cap));
        match self.switches.expires_at {
            ExpiresAt::AsSent => within_cap,
            ExpiresAt::Ignored => cap,
            ExpiresAt::StartOfDay => {
                const DAY: u64 = 24 * 60 * 60;
                let days = within_cap.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / DAY;
                UNIX_EPOCH + Duration::from_secs(days * DAY)
            }
        }
    }

    /// A key that is minted now, with a value that no other key has.
    pub(super) fn new_key(
        &mut self,
        id: String,
        (org, account): (&str, &str),
        description: &str,
        minted_by: MintedBy,
    ) -> Key {
        let random: String = std::iter::repeat_with(|| self.random.alphanumeric()).take(48).collect();
        // With the 0 no twelve characters of it can be those of the function's name, which is in the logs that tests search.
        let secret = format!("emulated-kosli-key-0{random}");
        let now = self.clock.now();
        Key {
            value: match self.switches.key_value {
                KeyValue::Opaque => secret,
                KeyValue::IdDotSecret => format!("{id}.{secret}"),
                KeyValue::IdThenSecret => format!("{id}{secret}"),
            },
            id,
            org: org.to_owned(),
            account: account.to_owned(),
            description: description.to_owned(),
            created_at: now,
            shown_as_created: ShownCreation::At(now),
            expires_at: None,
            rotated_at: None,
            grace_ends_at: None,
            revoked_at: None,
            used_at: Vec::new(),
            carried_used_at: None,
            minted_by,
        }
    }

    /// An id in the form of Kosli's own, such as `7980eb22-1fe1-4172-ae30-97d5ac0b`.
    pub(super) fn new_id(&mut self) -> String {
        let mut group =
            |digits: usize| -> String { std::iter::repeat_with(|| self.random.digit(16)).take(digits).collect() };
        [group(8), group(4), group(4), group(4), group(8)].join("-")
    }

    /// Revokes every key that matches and is shown. False where there is none.
    pub(super) fn revoke(&mut self, matches: impl Fn(&Key) -> bool) -> bool {
        let now = self.clock.now();
        let switches = self.switches.clone();
        let mut any = false;
        for key in self.keys.iter_mut().filter(|key| switches.shows(key, now) && matches(key)) {
            key.revoked_at = Some(now);
            any = true;
        }
        any
    }

    /// The place of the key that this value belongs to, and its account's role, if the key is accepted now.
    pub(super) fn accepted(&self, value: &str) -> Option<(usize, Role)> {
        let now = self.clock.now();
        let index = self.keys.iter().position(|key| key.value == value)?;
        let key = &self.keys[index];
        let role = self.accounts.get(&(key.org.clone(), key.account.clone()))?.role;
        let known_from = match key.minted_by {
            MintedBy::SetUp => key.created_at,
            MintedBy::Create | MintedBy::Rotate { .. } => key.created_at + self.switches.new_key_refused_for,
        };
        let revoked_at = key.revoked_at.map(|revoked| revoked + self.switches.revoked_key_accepted_for);
        let refused_from = [key.expires_at, key.grace_ends_at, revoked_at].into_iter().flatten().min();
        (known_from <= now && refused_from.is_none_or(|from| now < from)).then_some((index, role))
    }

    /// The instant whose keys list and get-one show.
    pub(super) fn seen_at(&self) -> SystemTime {
        self.clock.now().checked_sub(self.switches.list_lag).unwrap_or(UNIX_EPOCH)
    }

    /// The account's keys that were live at an instant, and what else the switches show; of those that share an id, the newest.
    pub(super) fn visible(&self, route: &Route, seen_at: SystemTime) -> Vec<&Key> {
        let mut visible: Vec<&Key> = Vec::new();
        for key in self.keys.iter().filter(|key| route.names_account_of(key) && self.switches.shows(key, seen_at)) {
            visible.retain(|older| older.id != key.id);
            visible.push(key);
        }
        visible
    }
}
