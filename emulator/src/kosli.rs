//! Kosli's API for service accounts and their keys, as a state machine without any I/O.
//!
//! It follows Kosli's API reference, its tutorial and the fixtures of its command-line client (`kosli-dev/cli`,
//! `cmd/kosli/testdata/service-account`). What none of them says is a switch in [`Switches`]; the wording of an error that none of
//! them shows is this emulator's own: do not depend on it.
//!
//! | call | request |
//! |---|---|
//! | verify | `GET /api/v2/environments/{org}` |
//! | list | `GET /api/v2/service-accounts/{org}/{account}/api-keys` |
//! | create | `POST /api/v2/service-accounts/{org}/{account}/api-keys` |
//! | get one | `GET /api/v2/service-accounts/{org}/{account}/api-keys/{id}` |
//! | revoke | `DELETE /api/v2/service-accounts/{org}/{account}/api-keys/{id}` |
//! | rotate | `POST /api/v2/service-accounts/{org}/{account}/api-keys/{id}/rotate` |
//! | create-account | `POST /api/v2/service-accounts/{org}` |
//! | list-accounts | `GET /api/v2/service-accounts/{org}` |
//! | get-account | `GET /api/v2/service-accounts/{org}/{account}` |
//! | delete-account | `DELETE /api/v2/service-accounts/{org}/{account}` |

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use serde_json::{Value, json};

use self::account::Account;
pub use self::account::Role;
use self::answer::Refusal;
pub use self::key::{Key, MintedBy, ShownCreation};
pub use self::request::Operation;
use self::request::{KeyRequest, Route, presented_key};
pub use self::switches::{
    CapFrom, CarriedOver, ErrorBody, ExpiredKeys, ExpiresAt, GetInGrace, InvalidRequest, KeyField, KeyManagers,
    KeyValue, LastUsedAt, ListInGrace, ListShape, Never, OddEntries, Quota, RateLimit, RightsInGrace, RotateInGrace,
    RotateStatus, SuccessorId, Switches, Timestamps,
};
use crate::clock::Clock;
use crate::quota::LastSecond;

mod account;
mod accounts;
mod answer;
mod key;
mod request;
mod rules;
mod switches;

/// Kosli shortens every expiry to this (Terraform provider 0.9.4), and uses it for a created key where none is asked for.
const LONGEST_LIFE: Duration = Duration::from_hours(365 * 24);

/// Kosli: its service accounts, and every key that was ever minted.
#[derive(Clone, Debug)]
pub struct Kosli {
    /// The answers to the questions that Kosli's documents leave open. They may change at any time.
    pub switches: Switches,
    clock: Clock,
    random: fastrand::Rng,
    /// By organization and name.
    accounts: BTreeMap<(String, String), Account>,
    /// In the order in which they were minted.
    keys: Vec<Key>,
    /// How many requests have come, for the rate limit.
    requests: usize,
    admitted: LastSecond,
}

/// Set-up and inspection: what a person does in Kosli's web pages, and what a test wants to know.
impl Kosli {
    /// No account, no key, and the default answer to every open question.
    pub fn new(clock: Clock) -> Self {
        Self {
            switches: Switches::default(),
            clock,
            random: fastrand::Rng::new(),
            accounts: BTreeMap::new(),
            keys: Vec::new(),
            requests: 0,
            admitted: LastSecond::default(),
        }
    }

    /// Makes ids and key values repeatable.
    pub fn seed(&mut self, seed: u64) {
        self.random.seed(seed);
    }

    /// Adds a service account, or changes the role of one.
    pub fn add_account(&mut self, org: &str, name: &str, role: Role) {
        let now = self.clock.now();
        let account = self.accounts.entry((org.to_owned(), name.to_owned())).or_insert_with(|| Account::new(role, now));
        account.role = role;
    }

    /// Says which account's key has created an account: Kosli lets that one manage its keys. Where nothing says so, a person did.
    pub fn set_creator(&mut self, org: &str, name: &str, creator: &str) {
        if let Some(account) = self.accounts.get_mut(&(org.to_owned(), name.to_owned())) {
            account.set_creator(creator);
        }
    }

    /// Removes a service account, and revokes its keys.
    pub fn remove_account(&mut self, org: &str, name: &str) {
        self.accounts.remove(&(org.to_owned(), name.to_owned()));
        self.revoke(|key| key.org == org && key.account == name);
    }

    /// Adds a key to an account, and answers its id and its value. `expires_at: None` is a key that never expires.
    ///
    /// An account that does not exist is added as a [`Role::Member`].
    pub fn add_key(
        &mut self,
        org: &str,
        account: &str,
        description: &str,
        created_at: SystemTime,
        expires_at: Option<SystemTime>,
    ) -> (String, String) {
        let now = self.clock.now();
        let made = || Account::new(Role::Member, now);
        self.accounts.entry((org.to_owned(), account.to_owned())).or_insert_with(made);
        let id = self.new_id();
        let minted = self.new_key(id, (org, account), description, MintedBy::SetUp);
        let key = Key { created_at, shown_as_created: ShownCreation::At(created_at), expires_at, ..minted };
        let shown = (key.id.clone(), key.value.clone());
        self.keys.push(key);
        shown
    }

    /// Gives a key another value: the emulator's own all begin alike.
    pub fn set_value(&mut self, id: &str, value: &str) {
        self.keys.iter_mut().filter(|key| key.id == id).for_each(|key| value.clone_into(&mut key.value));
    }

    /// The ids of an account's odd keys, which are a stranger's: an id with other characters and no creation, a creation of 0
    /// and no end, and points in time with a fraction. They are made when they are first asked for, here or, with
    /// [`OddEntries::Strangers`], by any call about the account.
    pub fn odd_keys(&mut self, org: &str, account: &str) -> Vec<String> {
        let now = self.clock.now();
        let day = Duration::from_hours(24);
        let quarter = Duration::from_millis(250);
        let before = now.checked_sub(400 * day + quarter).unwrap_or(UNIX_EPOCH);
        [
            (format!("{account}/b+c=="), ShownCreation::Null, Some(now + 100 * day)),
            (format!("{account}:0 é"), ShownCreation::Zero, None),
            (format!("{account}.25"), ShownCreation::At(before), Some(now + 100 * day + quarter)),
        ]
        .into_iter()
        .map(|(id, shown_as_created, expires_at)| {
            if !self.keys.iter().any(|key| key.org == org && key.account == account && key.id == id) {
                let minted = self.new_key(id.clone(), (org, account), "from long ago", MintedBy::SetUp);
                self.keys.push(Key { created_at: before, shown_as_created, expires_at, ..minted });
            }
            id
        })
        .collect()
    }

    /// Revokes a key. False where no live key has that id.
    pub fn revoke_key(&mut self, id: &str) -> bool {
        self.revoke(|key| key.id == id)
    }

    /// Every key that was ever minted, dead ones included, oldest first.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter()
    }

    /// Whether Kosli would accept this key value now. Asking is not a use of the key.
    pub fn accepts(&self, value: &str) -> bool {
        self.accepted(value).is_some()
    }

    /// Whether a service account may have this name: `^[a-zA-Z0-9-]{1,64}$`, as Kosli's Terraform provider checks it.
    pub fn is_account_name(name: &str) -> bool {
        (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    }
}

/// The API.
impl Kosli {
    /// Answers a request. Every answer has a `Date` header, from the emulator's clock.
    pub fn handle(&mut self, request: &Request<Bytes>) -> Response<Bytes> {
        match self.answer(request) {
            Ok((status, body)) => answer::response(status, &body, self.clock.now()),
            Err(refusal) => self.switches.refuse(&refusal, self.clock.now()),
        }
    }

    /// What a request asks for. `None`: the API has no such call.
    pub fn operation(request: &Request<Bytes>) -> Option<Operation> {
        Route::of(request).map(|route| route.operation)
    }

    /// An error in Kosli's form, for a fault that has nothing to do with the request.
    pub fn error(&self, status: StatusCode, message: &str) -> Response<Bytes> {
        self.switches.refuse(&Refusal::new(status, message), self.clock.now())
    }

    fn answer(&mut self, request: &Request<Bytes>) -> Result<(StatusCode, Value), Refusal> {
        self.limit_rate()?;
        let route = Route::of(request).ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "Not found"))?;
        let caller = self.authenticate(request.headers())?;
        if !self.may(&caller, &route) {
            return Err(Refusal::forbidden());
        }
        let of_an_org = [Operation::Verify, Operation::CreateAccount, Operation::ListAccounts];
        if !of_an_org.contains(&route.operation) && self.account(&route).is_none() {
            return Err(Refusal::account_not_found());
        }
        if self.switches.odd_entries == OddEntries::Strangers && self.account(&route).is_some() {
            self.odd_keys(&route.org, &route.account);
        }
        match route.operation {
            Operation::Create => self.create(&route, request.body()),
            Operation::Get => self.get(&route),
            Operation::List => Ok((StatusCode::OK, self.list(&route))),
            Operation::Revoke if self.revoke(|key| route.names(key)) => Ok((StatusCode::OK, json!("revoked"))),
            Operation::Revoke => Err(Refusal::key_not_found()),
            Operation::Rotate => self.rotate(&route, request.body()),
            Operation::Verify => Ok((StatusCode::OK, json!([]))),
            Operation::CreateAccount => self.create_account(&route, &caller, request.body()),
            Operation::ListAccounts => Ok((StatusCode::OK, self.list_accounts(&route))),
            Operation::GetAccount => Ok((StatusCode::OK, self.get_account(&route)?)),
            Operation::DeleteAccount => Ok((StatusCode::OK, self.delete_account(&route))),
        }
    }

    fn limit_rate(&mut self) -> Result<(), Refusal> {
        self.requests += 1;
        match self.switches.rate_limit {
            Some(limit) if limit.every > 0 && self.requests.is_multiple_of(limit.every) => {
                return Err(Refusal::rate_limited(limit.retry_after));
            }
            _ => {}
        }
        match self.switches.quota {
            Some(quota) if !self.admitted.admits(quota.per_second, self.clock.now()) => {
                Err(Refusal::rate_limited(quota.retry_after))
            }
            _ => Ok(()),
        }
    }

    /// Whose request this is. From here on its key counts as used, even if the request is then refused.
    fn authenticate(&mut self, headers: &HeaderMap) -> Result<Caller, Refusal> {
        let refusal = || Refusal::new(StatusCode::UNAUTHORIZED, "Invalid or missing API key");
        let (index, role) = presented_key(headers).and_then(|value| self.accepted(&value)).ok_or_else(refusal)?;
        let now = self.clock.now();
        let key = &mut self.keys[index];
        key.used_at.push(now);
        Ok(Caller {
            id: key.id.clone(),
            org: key.org.clone(),
            account: key.account.clone(),
            role,
            in_grace: key.rotated_at.is_some(),
        })
    }

    fn may(&self, caller: &Caller, route: &Route) -> bool {
        if caller.org != route.org {
            return false;
        }
        if route.operation == Operation::Verify {
            return true;
        }
        if caller.in_grace && self.switches.rights_in_grace == RightsInGrace::VerifyOnly {
            return false;
        }
        match route.operation {
            Operation::ListAccounts | Operation::GetAccount => return true,
            Operation::CreateAccount => return caller.role != Role::Reader,
            _ => {}
        }
        let created_it = self.account(route).is_some_and(|account| account.was_created_by(&caller.account));
        let own_account = caller.account == route.account;
        let managers = self.switches.key_managers;
        caller.role == Role::Admin
            || (created_it && managers != KeyManagers::Admins)
            // None but the two may remove an account, whatever Kosli leaves open.
            || route.operation != Operation::DeleteAccount
                && match managers {
                    KeyManagers::Admins | KeyManagers::AdminsAndCreator => false,
                    KeyManagers::OwnAccountToo => own_account,
                    KeyManagers::OwnKeyToo => {
                        own_account && (route.operation == Operation::List || caller.id == route.key_id)
                    }
                    KeyManagers::AllButReaders => caller.role != Role::Reader,
                }
    }

    fn create(&mut self, route: &Route, body: &Bytes) -> Result<(StatusCode, Value), Refusal> {
        let request = KeyRequest::parse(body, route.operation, self.clock.now())?;
        self.check_room(route)?;
        let id = self.new_id();
        let minted = self.new_key(id, (&route.org, &route.account), &request.description, MintedBy::Create);
        let expires_at = self.expiry(request.expires_at, self.clock.now());
        let key = Key { expires_at: Some(expires_at), ..minted };
        let answer = self.switches.minted(&key);
        self.keys.push(key);
        Ok((StatusCode::CREATED, answer))
    }

    fn list(&self, route: &Route) -> Value {
        let seen_at = self.seen_at();
        let listed = |key: &&Key| self.switches.list_in_grace != ListInGrace::Hidden || !key.is_in_grace_at(seen_at);
        let keys = self.visible(route, seen_at).into_iter().filter(listed);
        let entries: Vec<Value> = match self.switches.list_shape {
            ListShape::Pages(size) => {
                let skipped = size.saturating_mul(route.page.saturating_sub(1));
                keys.skip(skipped).take(size).map(|key| self.switches.listed(key, seen_at)).collect()
            }
            ListShape::Array | ListShape::Wrapped => keys.map(|key| self.switches.listed(key, seen_at)).collect(),
        };
        if self.switches.list_shape == ListShape::Wrapped { json!({ "api_keys": entries }) } else { json!(entries) }
    }

    fn get(&self, route: &Route) -> Result<(StatusCode, Value), Refusal> {
        let seen_at = self.seen_at();
        let found = |key: &&Key| self.switches.get_in_grace == GetInGrace::Found || !key.is_in_grace_at(seen_at);
        let mut keys = self.visible(route, seen_at).into_iter();
        let key = keys.find(|key| route.names(key)).filter(found).ok_or_else(Refusal::key_not_found)?;
        Ok((StatusCode::OK, self.switches.listed(key, seen_at)))
    }

    fn rotate(&mut self, route: &Route, body: &Bytes) -> Result<(StatusCode, Value), Refusal> {
        let now = self.clock.now();
        let request = KeyRequest::parse(body, route.operation, now)?;
        let named = |key: &&Key| route.names(key) && key.is_live_at(now);
        // Where ids are handed on, the newest key with the id is the one that is rotated.
        let old = self.keys.iter().rfind(named).ok_or_else(Refusal::key_not_found)?;
        let description = old.description.clone();
        // "Rotation on its own does not extend the credential."
        let own_expiry = old.expires_at;
        let carried = self.switches.carried_over;
        let shown_as_created = match carried {
            CarriedOver::CreatedAt | CarriedOver::CreatedAndLastUsedAt => old.shown_as_created,
            CarriedOver::Nothing | CarriedOver::LastUsedAt => ShownCreation::At(now),
        };
        let carried_used_at = match carried {
            CarriedOver::LastUsedAt | CarriedOver::CreatedAndLastUsedAt => old.last_used_at().or(old.carried_used_at),
            CarriedOver::Nothing | CarriedOver::CreatedAt => None,
        };
        let created = match (self.switches.cap_from, old.shown_as_created) {
            (CapFrom::Mint, _) => now,
            (CapFrom::RotatedKey, ShownCreation::At(time)) => time,
            (CapFrom::RotatedKey, ShownCreation::Zero | ShownCreation::Null) => old.created_at,
        };
        let in_grace = self.keys.iter().filter(named).any(|key| key.is_in_grace_at(now));
        if in_grace {
            self.check_rotate_in_grace()?;
        }
        self.check_room(route)?;
        if created + LONGEST_LIFE <= now {
            return Err(Refusal::expiry_in_the_past());
        }

        let grace_ends_at = self.begin_grace(route, now, now + request.grace_period);
        let id = match self.switches.successor_id {
            SuccessorId::New => self.new_id(),
            SuccessorId::Same => route.key_id.clone(),
        };
        let minted_by = MintedBy::Rotate { of: route.key_id.clone() };
        let minted = self.new_key(id, (&route.org, &route.account), &description, minted_by);
        let expires_at = Some(self.expiry(request.expires_at.or(own_expiry), created));
        let successor = Key { shown_as_created, carried_used_at, expires_at, ..minted };
        let answer = self.switches.rotated(&successor, grace_ends_at);
        self.keys.push(successor);
        let status = match self.switches.rotate_status {
            RotateStatus::Created => StatusCode::CREATED,
            RotateStatus::Ok => StatusCode::OK,
        };
        Ok((status, answer))
    }
}

/// Whose key authenticated a request.
struct Caller {
    id: String,
    org: String,
    account: String,
    role: Role,
    in_grace: bool,
}
