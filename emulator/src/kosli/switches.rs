//! What Kosli's documents leave open. The rotation function must be right under every answer, so each is a switch here.

use std::time::Duration;

/// One answer to each open question. The default is what a plain implementation of Kosli's reference would do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Switches {
    /// Whether a rotation gives the successor an id of its own.
    pub successor_id: SuccessorId,
    /// What a successor takes over from the key that was rotated: with [`SuccessorId::Same`], a rotation in place.
    pub carried_over: CarriedOver,
    /// From when the 365 days of a successor's longest life are counted.
    pub cap_from: CapFrom,
    /// Whether a key's value contains its id.
    pub key_value: KeyValue,
    /// Whether every account has keys of a stranger's whose entries in the list look odd.
    pub odd_entries: OddEntries,
    /// Whether a key whose own expiry has passed is still shown.
    pub expired_keys: ExpiredKeys,
    /// What becomes of a rotation of a key whose grace period already runs.
    pub rotate_in_grace: RotateInGrace,
    /// How a key in its grace period is listed.
    pub list_in_grace: ListInGrace,
    /// Whether a key in its grace period is found by its id.
    pub get_in_grace: GetInGrace,
    /// What a key in its grace period may still do.
    pub rights_in_grace: RightsInGrace,
    /// Whose keys may list, create, rotate and revoke keys.
    pub key_managers: KeyManagers,
    /// Refuses some requests with 429. `None`: no limit.
    pub rate_limit: Option<RateLimit>,
    /// Refuses requests with 429 that come too fast. `None`: no limit.
    pub quota: Option<Quota>,
    /// How many live keys an account may have, those in their grace period included. `None`: no limit.
    pub key_limit: Option<usize>,
    /// How long a minted key is refused before it is accepted everywhere. Keys of the set-up are accepted at once.
    pub new_key_refused_for: Duration,
    /// How long a revoked key is still accepted. It leaves the list at once.
    pub revoked_key_accepted_for: Duration,
    /// List and get-one see the account as it was this long ago: a new key is listed that much later.
    pub list_lag: Duration,
    /// The form of the list.
    pub list_shape: ListShape,
    /// How soon `last_used_at` moves.
    pub last_used_at: LastUsedAt,
    /// What becomes of the `expires_at` in a request.
    pub expires_at: ExpiresAt,
    /// The field in which a new key's value is shown.
    pub key_field: KeyField,
    /// How points in time are written.
    pub timestamps: Timestamps,
    /// How "never" is written, in `expires_at` and `last_used_at`.
    pub never: Never,
    /// The status of a rotation that worked.
    pub rotate_status: RotateStatus,
    /// How a request is refused that is well-formed JSON but not valid.
    pub invalid_request: InvalidRequest,
    /// The form of an error.
    pub error_body: ErrorBody,
}

impl Switches {
    /// These answers, and the other's wherever it has one that is not the default.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let default = Self::default();
        macro_rules! merged {
            ($($field:ident)*) => {
                Self { $($field: if other.$field == default.$field { self } else { other }.$field.clone(),)* }
            };
        }
        merged! {
            successor_id carried_over cap_from key_value odd_entries expired_keys rotate_in_grace list_in_grace
            get_in_grace rights_in_grace key_managers rate_limit quota key_limit new_key_refused_for
            revoked_key_accepted_for list_lag list_shape last_used_at expires_at key_field timestamps never rotate_status
            invalid_request error_body
        }
    }

    /// Every answer to every open question, one at a time: the default with a single switch moved, and that answer's name.
    pub fn variations() -> Vec<(&'static str, Self)> {
        const SOON: Duration = Duration::from_secs(3);
        let default = Self::default;
        vec![
            ("successor_id=same", Self { successor_id: SuccessorId::Same, ..default() }),
            ("rotate_in_grace=keeps-grace", Self { rotate_in_grace: RotateInGrace::KeepsGrace, ..default() }),
            ("rotate_in_grace=ends-grace", Self { rotate_in_grace: RotateInGrace::EndsGrace, ..default() }),
            ("rotate_in_grace=400", Self { rotate_in_grace: RotateInGrace::BadRequest, ..default() }),
            ("rotate_in_grace=404", Self { rotate_in_grace: RotateInGrace::NotFound, ..default() }),
            ("rotate_in_grace=409", Self { rotate_in_grace: RotateInGrace::Conflict, ..default() }),
            ("list_in_grace=hidden", Self { list_in_grace: ListInGrace::Hidden, ..default() }),
            ("list_in_grace=end-of-grace", Self { list_in_grace: ListInGrace::EndOfGrace, ..default() }),
            ("get_in_grace=404", Self { get_in_grace: GetInGrace::NotFound, ..default() }),
            ("rights_in_grace=verify-only", Self { rights_in_grace: RightsInGrace::VerifyOnly, ..default() }),
            ("key_managers=admins", Self { key_managers: KeyManagers::Admins, ..default() }),
            ("key_managers=own-account", Self { key_managers: KeyManagers::OwnAccountToo, ..default() }),
            ("key_managers=own-key", Self { key_managers: KeyManagers::OwnKeyToo, ..default() }),
            ("key_managers=all-but-readers", Self { key_managers: KeyManagers::AllButReaders, ..default() }),
            ("rate_limit=every-3rd", Self { rate_limit: Some(RateLimit { every: 3, retry_after: None }), ..default() }),
            (
                "rate_limit=every-3rd,retry-after",
                Self { rate_limit: Some(RateLimit { every: 3, retry_after: Some(SOON) }), ..default() },
            ),
            ("key_limit=10", Self { key_limit: Some(10), ..default() }),
            ("new_key_refused_for=3s", Self { new_key_refused_for: SOON, ..default() }),
            ("revoked_key_accepted_for=3s", Self { revoked_key_accepted_for: SOON, ..default() }),
            ("list_lag=3s", Self { list_lag: SOON, ..default() }),
            ("list_shape=wrapped", Self { list_shape: ListShape::Wrapped, ..default() }),
            ("list_shape=pages-of-2", Self { list_shape: ListShape::Pages(2), ..default() }),
            ("last_used_at=after-1h", Self { last_used_at: LastUsedAt::After(Duration::from_secs(3600)), ..default() }),
            ("last_used_at=never", Self { last_used_at: LastUsedAt::Never, ..default() }),
            ("expires_at=ignored", Self { expires_at: ExpiresAt::Ignored, ..default() }),
            ("expires_at=start-of-day", Self { expires_at: ExpiresAt::StartOfDay, ..default() }),
            ("key_field=api_key", Self { key_field: KeyField::ApiKey, ..default() }),
            ("key_field=both", Self { key_field: KeyField::Both, ..default() }),
            ("timestamps=integer", Self { timestamps: Timestamps::Integer, ..default() }),
            ("never=zero", Self { never: Never::Zero, ..default() }),
            ("never=null", Self { never: Never::Null, ..default() }),
            ("rotate_status=200", Self { rotate_status: RotateStatus::Ok, ..default() }),
            ("invalid_request=400-errors", Self { invalid_request: InvalidRequest::Errors400, ..default() }),
            ("invalid_request=422-errors", Self { invalid_request: InvalidRequest::Errors422, ..default() }),
            ("error_body=bare-string", Self { error_body: ErrorBody::BareString, ..default() }),
            ("error_body=message-only", Self { error_body: ErrorBody::MessageOnly, ..default() }),
        ]
    }

    /// The variations, and the answers under which the exhaustive tests do not run: everything that has a name.
    pub fn named() -> Vec<(&'static str, Self)> {
        let default = Self::default;
        let in_place = |carried_over| Self { successor_id: SuccessorId::Same, carried_over, ..default() };
        let mut named = Self::variations();
        named.extend([
            ("in_place=created_at", in_place(CarriedOver::CreatedAt)),
            ("in_place=last_used_at", in_place(CarriedOver::LastUsedAt)),
            ("in_place=both", in_place(CarriedOver::CreatedAndLastUsedAt)),
            ("cap_from=rotated-key", Self { cap_from: CapFrom::RotatedKey, ..default() }),
            ("key_value=id.secret", Self { key_value: KeyValue::IdDotSecret, ..default() }),
            ("key_value=id-then-secret", Self { key_value: KeyValue::IdThenSecret, ..default() }),
            ("odd_entries=strangers", Self { odd_entries: OddEntries::Strangers, ..default() }),
            ("expired_keys=listed", Self { expired_keys: ExpiredKeys::Listed, ..default() }),
        ]);
        named
    }
}

/// The tutorial revokes an *old* key id after a rotation; a fixture of Kosli's client shows the *same* id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SuccessorId {
    /// Every key has its own id.
    #[default]
    New,
    /// The successor takes the id over: the id names the newest value, and revoking it ends all of them.
    Same,
}

/// "Rotating a key resets its warnings", says Kosli of the one that it calls *the* key: it may be the same one to it, before and after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CarriedOver {
    /// Nothing but the description.
    #[default]
    Nothing,
    /// `created_at`.
    CreatedAt,
    /// `last_used_at`, until the successor itself is used.
    LastUsedAt,
    /// Both.
    CreatedAndLastUsedAt,
}

/// "365 days from creation": Kosli does not say of which key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CapFrom {
    /// The new one.
    #[default]
    Mint,
    /// The one that is rotated, as its `created_at` is shown. Where that is 365 days ago, the rotation is answered 400.
    RotatedKey,
}

/// Many services' values begin with the id, so that the server finds the hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyValue {
    /// It does not.
    #[default]
    Opaque,
    /// The id, a dot, and the secret part.
    IdDotSecret,
    /// The id and the secret part, with nothing between them.
    IdThenSecret,
}

/// Entries that no call of today's API makes, but that may be as old as Kosli.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OddEntries {
    /// There are none.
    #[default]
    None,
    /// Every account has those of [`Kosli::odd_keys`](super::Kosli::odd_keys).
    Strangers,
}

/// The list holds "active keys"; Kosli does not say how soon one that has expired is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExpiredKeys {
    /// At once.
    #[default]
    Gone,
    /// Never: list and get-one show it, until it is revoked. It is dead all the same.
    Listed,
}

/// A rotation of an id that a key in its grace period has: the key itself, or with [`SuccessorId::Same`] an older value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RotateInGrace {
    /// Works; the older key's grace period starts again, with the new length.
    #[default]
    RestartsGrace,
    /// Works; the older key still dies when its first grace period ends.
    KeepsGrace,
    /// Works; the older key dies at once.
    EndsGrace,
    /// 400.
    BadRequest,
    /// 404, as for a key that does not exist.
    NotFound,
    /// 409, the status that Kosli's command-line client takes for a lock conflict and repeats.
    Conflict,
}

/// The list holds "active keys"; Kosli does not say whether one in its grace period is active.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListInGrace {
    /// Listed with its own `expires_at`.
    #[default]
    OwnExpiry,
    /// Listed with the end of its grace period as `expires_at`.
    EndOfGrace,
    /// Not listed.
    Hidden,
}

/// Get-one of a key in its grace period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GetInGrace {
    /// 200, with `expires_at` as [`ListInGrace`] says.
    #[default]
    Found,
    /// 404.
    NotFound,
}

/// Decides whether self-rotation can be picked up again after its answer was lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RightsInGrace {
    /// As before the rotation.
    #[default]
    Unchanged,
    /// It reads environments; every call about keys is answered 403.
    VerifyOnly,
}

/// Who may manage an account's keys. The page about roles (July 2026) and the Terraform provider's documentation say "an
/// organization admin or whoever created the account"; the tutorial asks for an admin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyManagers {
    /// Admins for every account, and the creator of an account for that one, whatever its role. No account creates itself:
    /// self-rotation is answered 403, unless the account is an admin's.
    #[default]
    AdminsAndCreator,
    /// The same, and any key for its own account.
    OwnAccountToo,
    /// The same, and any key for itself. It may list its account, but not create.
    OwnKeyToo,
    /// The same, and everyone else in the organization but readers.
    AllButReaders,
    /// Admins alone.
    Admins,
}

/// Every so many requests, one is answered 429 and has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Which requests: 3 is the third, the sixth, and so on. Zero limits nothing.
    pub every: usize,
    /// What `Retry-After` says, in whole seconds. `None`: the header is left out.
    pub retry_after: Option<Duration>,
}

/// In any one second on the clock, at most so many requests are answered; one more is answered 429 and has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// How many requests, of all callers together.
    pub per_second: usize,
    /// What `Retry-After` says, in whole seconds. `None`: the header is left out.
    pub retry_after: Option<Duration>,
}

/// The form of the list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListShape {
    /// A plain array of all keys.
    #[default]
    Array,
    /// `{"api_keys": […]}`.
    Wrapped,
    /// A plain array of so many keys, oldest first, that does not say that there are more; `?page=2` has the next ones.
    Pages(usize),
}

/// How soon a use of a key shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LastUsedAt {
    /// At once.
    #[default]
    AtOnce,
    /// This long afterwards.
    After(Duration),
    /// Not at all.
    Never,
}

/// What becomes of a requested expiry that is within Kosli's cap. Beyond the cap it is always shortened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExpiresAt {
    /// Kept to the second, as the Terraform provider's acceptance tests against the live API demand.
    #[default]
    AsSent,
    /// Replaced by the cap.
    Ignored,
    /// Rounded down to midnight, UTC. A key that was to live for hours may be dead at once.
    StartOfDay,
}

/// `key` in the API reference and the clients, `api_key` in the tutorial.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyField {
    /// `key`.
    #[default]
    Key,
    /// `api_key`.
    ApiKey,
    /// `key` and `api_key`, with the same value.
    Both,
}

/// Kosli's clients accept both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Timestamps {
    /// Seconds with a fraction.
    #[default]
    Float,
    /// Whole seconds.
    Integer,
}

/// The API reference leaves `last_used_at` out of a key that was never used; Kosli's clients accept all of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Never {
    /// The field is left out.
    #[default]
    Absent,
    /// `0`.
    Zero,
    /// `null`.
    Null,
}

/// 201 in the fixtures of Kosli's client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RotateStatus {
    /// 201.
    #[default]
    Created,
    /// 200.
    Ok,
}

/// How a request is refused that is well-formed JSON but not valid. An expiry in the past is always 400 with a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InvalidRequest {
    /// 422 with `{"detail": [{"loc": ["body", field], "msg": text, "type": word}]}`.
    #[default]
    Detail,
    /// 400 with `{"message": …, "errors": {field: text}}`.
    Errors400,
    /// 422 with the same.
    Errors422,
}

/// All three are read by Kosli's clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ErrorBody {
    /// `{"message": …}`, and what [`InvalidRequest`] says for a request that is not valid.
    #[default]
    Object,
    /// `{"message": …}` alone.
    MessageOnly,
    /// The message as a bare JSON string.
    BareString,
}
