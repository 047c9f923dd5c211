//! The replacement of a version's key: the one place that mints.
//!
//! A mint cannot be repeated, and its answer may be lost. So this is a loop around *looking*: what is on the account decides
//! what is minted next, a mint whose outcome is unclear is looked for, and a key whose value was lost is itself rotated, for
//! it is the one key that can certainly be rotated, and nobody uses it.

use std::time::{Duration, SystemTime};

use tracing::{info, warn};

use super::credential::{Credential, KEY_ID_LABEL};
use super::{Authority, Invocation, Role, STALE_VIEW_PAUSES, TRY_AGAIN, kosli_failed};
use crate::clock::{from_epoch_seconds, rfc3339};
use crate::config::Policy;
use crate::error::{ErrorKind, RotationError};
use crate::event::{SecretId, VersionId};
use crate::identity::KeyId;
use crate::kosli::{
    KeyEntry, KosliError, LONGEST_DESCRIPTION, LONGEST_MINT, Listing, MintAnswer, Minted, SHORTEST_GRACE_HOURS,
    SHORTEST_MINT,
};
use crate::marker::{Attempt, Mark};
use crate::metrics::count;
use crate::secrets_manager::{Description, STORE_RESERVE, SecretsManagerError, Version, Which};

/// How many mints of one execution may end without a value before it gives up; the next execution goes on from there.
const MOST_LOST_MINTS: usize = 4;

/// The pauses before each look for a key whose mint had an unclear outcome: its effect may come seconds after the client gave
/// up.
const LOOK_PAUSES: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(3), Duration::from_secs(4)];

/// The pauses before a refused and transient mint (409, 429, no connection) is sent again. A refusal that outlasts them is
/// Kosli's answer.
const REFUSAL_PAUSES: [Duration; 5] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];

/// The longest `Retry-After` that is waited for before a mint.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(20);

/// A marked key of another execution is taken over when it is older than the function's time-out and this.
const TAKE_OVER_MARGIN: Duration = Duration::from_secs(15);

/// How often the pending version is looked at while another execution may be about to fill it.
const TWIN_PAUSE: Duration = Duration::from_secs(5);

/// By how much Kosli's clock may be behind Secrets Manager's, when a key's creation is compared with a version's.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(300);

/// The replacement of the key under `AWSCURRENT`.
pub(super) struct Replacement<'a> {
    invocation: &'a Invocation<'a>,
    description: &'a Description,
    /// What is being replaced.
    pub(super) current: Credential,
    previous: Option<Credential>,
    authority: Authority,
    /// Whether Kosli accepts the current key.
    alive: bool,
    policy: Policy,
    marks: Marks,
    /// Key ids that labelled versions hold; `None` until they are needed, since it may take reads.
    held: Option<Vec<KeyId>>,
    /// The attempts of this execution whose outcome is unclear.
    unclear: Vec<Attempt>,
    /// Keys that this execution has minted, by Kosli's own word, and whose value it does not have.
    lost: Vec<KeyId>,
    /// Keys that Kosli refuses to rotate.
    refused: Vec<KeyId>,
    /// When the current key dies, as soon as a grace period may have begun.
    current_key_dies: Option<SystemTime>,
}

/// What came of it.
pub(super) enum Stored {
    /// This execution's key is under `AWSPENDING`.
    Ours(Made),
    /// Another execution's value is: this version.
    ByTwin(Version),
}

/// The new key, stored.
pub(super) struct Made {
    pub(super) id: KeyId,
    pub(super) how: &'static str,
    pub(super) replaced: Option<KeyId>,
    pub(super) current_key_dies: Option<SystemTime>,
    pub(super) revoked: Vec<KeyId>,
    pub(super) warnings: Vec<String>,
}

/// The marks by which keys that were minted to replace a version are recognized.
pub(super) struct Marks(Vec<(Mark, SystemTime)>);

/// What to do next.
enum Plan {
    /// Rotate this key.
    Rotate { id: KeyId, grace_period_hours: u32, head: bool },
    /// Create a key beside those that there are; `beside`: the key that lives on and that nobody ends.
    Create { description: String, beside: Option<Option<KeyId>> },
    /// Another execution may be about to store this key.
    LeaveToTwin { id: KeyId, age: Duration },
}

impl Marks {
    /// The marks of keys that replace this version. Where the version before it holds the same key, a field was edited
    /// meanwhile, and what was minted to replace that one was minted to replace this one.
    pub(super) fn of(arn: &str, current: &Credential, previous: Option<&Credential>) -> Self {
        let same_key = |other: &&Credential| {
            other.account.same(&current.account)
                && (other.key().same(current.key()) || (other.key_id.is_some() && other.key_id == current.key_id))
        };
        let versions = [Some(current), previous.filter(same_key)];
        Self(versions.into_iter().flatten().map(|seen| (Mark::of(arn, &seen.version), seen.created)).collect())
    }

    /// The mark of keys that replace a version of which nothing but the id is known: enough to suspect, not to act.
    pub(super) fn unproven(arn: &str, version: &VersionId) -> Self {
        Self(vec![(Mark::of(arn, version), SystemTime::UNIX_EPOCH)])
    }

    /// Which attempt minted this key to replace the version; `None`: it is none of ours. Never used, not older than the version.
    pub(super) fn attempt_of(&self, key: &KeyEntry) -> Option<Attempt> {
        let expires_at = key.expires_at?;
        if key.last_used_at.is_some() {
            return None;
        }
        self.0
            .iter()
            .filter(|(_, created)| key.created_at + CLOCK_TOLERANCE >= *created)
            .find_map(|(mark, _)| mark.attempt_in(expires_at))
    }

    /// The mark that a new key gets.
    fn new_key(&self) -> Option<Mark> {
        self.0.first().map(|(mark, _)| *mark)
    }
}

impl<'a> Replacement<'a> {
    /// Prepares a replacement; nothing is sent.
    pub(super) fn new(
        invocation: &'a Invocation<'a>,
        description: &'a Description,
        current: Credential,
        previous: Option<Credential>,
        authority: Authority,
        alive: bool,
        policy: Policy,
    ) -> Self {
        let marks = Marks::of(&description.arn, &current, previous.as_ref());
        Self {
            invocation,
            description,
            current,
            previous,
            authority,
            alive,
            policy,
            marks,
            held: None,
            unclear: Vec::new(),
            lost: Vec::new(),
            refused: Vec::new(),
            current_key_dies: None,
        }
    }

    /// Mints and stores. `stale_labels` are removed before the mint, so that there is room for the new version's.
    ///
    /// # Errors
    /// Everything that can go wrong between here and the stored version; where a key may have been minted, the error says so
    /// and names the instant at which the current key dies.
    pub(super) async fn mint_and_store(
        &mut self,
        listing: Listing,
        stale_labels: &[(VersionId, String)],
    ) -> Result<Stored, RotationError> {
        let result = self.mint_and_store_inner(listing, stale_labels).await;
        result.map_err(|error| {
            let error = error.current_key_dies(self.current_key_dies);
            match (self.lost.last(), self.unclear.is_empty()) {
                (Some(id), _) => error.after(format!(
                    "The new key {id} was minted, and its value is lost; AWSCURRENT was not touched. The next attempt \
                     replaces that key and revokes it."
                )),
                (None, false) => error.after(
                    "A new key may have been minted; AWSCURRENT was not touched. The next attempt looks for it, replaces it \
                     and revokes it.",
                ),
                (None, true) => error,
            }
        })
    }

    async fn mint_and_store_inner(
        &mut self,
        mut listing: Listing,
        stale_labels: &[(VersionId, String)],
    ) -> Result<Stored, RotationError> {
        let mut stale_labels = stale_labels.iter();
        let mut refusal_pauses = REFUSAL_PAUSES.iter();
        loop {
            let plan = self.plan(&listing).await?;
            if let Plan::LeaveToTwin { id, age } = &plan {
                match self.wait_for_twin(id, *age).await? {
                    Some(version) => return Ok(Stored::ByTwin(version)),
                    None => {
                        listing = self.list().await?;
                        continue;
                    }
                }
            }
            for (version, label) in stale_labels.by_ref() {
                let manager = &self.invocation.session.function.secrets_manager;
                manager
                    .remove_label(&self.invocation.session.budget, self.invocation.session.secret, label, version)
                    .await
                    .map_err(|error| self.invocation.session.aws_failed(&error))?;
                info!(label, version_id = %version, "removed a stale staging label");
            }
            // Right before every mint: another execution may have stored its key.
            if let Some(version) = self.invocation.session.read(Which::Id(self.invocation.token())).await? {
                return Ok(Stored::ByTwin(version));
            }
            let attempt = self.fresh_attempt(&listing);
            let error = match self.mint(&plan, attempt, &listing).await? {
                Ok((MintAnswer::Minted(minted), expires_at)) => {
                    return self.store(minted, expires_at, &plan, &listing).await;
                }
                Ok((MintAnswer::Lost(id), _)) => {
                    warn!(key_id = %id, "Kosli minted a key and did not show its value");
                    self.lost.push(id);
                    self.give_up_after_too_many()?;
                    listing = self.list().await?;
                    continue;
                }
                Err(error) => error,
            };
            match &error {
                KosliError::Unclear(_) => {
                    warn!(%error, "a key may have been minted whose answer was lost: looking for it");
                    self.unclear.push(attempt);
                    listing = self.look().await?;
                    self.give_up_after_too_many()?;
                    refusal_pauses = REFUSAL_PAUSES.iter();
                }
                // Nothing happened, and it may pass.
                _ if passing(&error).is_some_and(|asked| asked > LONGEST_RETRY_AFTER) => {
                    return Err(kosli_failed(&error, self.authority.role, "minting a key"));
                }
                _ if let Some(asked) = passing(&error)
                    && let Some(&pause) = refusal_pauses.next() =>
                {
                    info!(%error, "Kosli refused a mint for the moment");
                    if !self.invocation.session.budget.pause(asked + pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await {
                        return Err(kosli_failed(&error, self.authority.role, "minting a key"));
                    }
                    listing = self.list().await?;
                }
                _ => {
                    info!(%error, "Kosli refused a mint");
                    // A refusal after an unclear outcome may mean that the first one had its effect: look before believing it.
                    listing = if self.unclear.is_empty() { self.list().await? } else { self.look().await? };
                    // Or another execution was faster: what it minted comes next, or it has stored that already.
                    let superseded =
                        !matches!(plan, Plan::Rotate { head: true, .. }) && !self.marked(&listing).await?.is_empty();
                    if !superseded {
                        if let Some(version) = self.invocation.session.read(Which::Id(self.invocation.token())).await? {
                            return Ok(Stored::ByTwin(version));
                        }
                        self.believe_refusal(plan, &error)?;
                    }
                    refusal_pauses = REFUSAL_PAUSES.iter();
                }
            }
        }
    }

    /// Decides what comes next. The order is the design's: the head of a chain first, then by where the current key stands.
    async fn plan(&mut self, listing: &Listing) -> Result<Plan, RotationError> {
        let marked = self.marked(listing).await?;
        if let Some((key, _)) = marked.first() {
            // The first lost key began the current key's grace period, if it was minted by rotating the current key.
            let grace = Duration::from_secs(u64::from(self.policy.grace_period_hours) * 3_600);
            let first = marked.iter().map(|(key, _)| key.created_at).min().unwrap_or(key.created_at);
            self.note_current_key_dies(first + grace, listing);
        }
        let age_limit = self.invocation.session.budget.function_timeout() + TAKE_OVER_MARGIN;
        for (key, attempt) in &marked {
            let age = listing.at.duration_since(key.created_at).unwrap_or_default();
            if !self.unclear.contains(attempt) && !self.lost.contains(&key.id) && age < age_limit {
                return Ok(Plan::LeaveToTwin { id: key.id.clone(), age });
            }
        }
        // The newest has certainly not been rotated before. A key that Kosli itself has named needs no mark.
        let newest = marked.iter().max_by_key(|(key, _)| key.created_at).map(|(key, _)| &key.id);
        let named =
            self.lost.last().filter(|id| !self.refused.contains(id) && self.current.key_id.as_ref() != Some(*id));
        if let Some(head) = named.or(newest) {
            return Ok(Plan::Rotate { id: head.clone(), grace_period_hours: SHORTEST_GRACE_HOURS, head: true });
        }
        match self.current.key_id.clone() {
            Some(id) => self.plan_by_id(id, listing).await,
            None => self.plan_without_id(listing),
        }
    }

    async fn plan_by_id(&self, id: KeyId, listing: &Listing) -> Result<Plan, RotationError> {
        let invocation = self.invocation;
        let entry = listing.keys.iter().find(|key| key.id == id);
        let rotate = Plan::Rotate { id: id.clone(), grace_period_hours: self.policy.grace_period_hours, head: false };
        let refused = self.refused.contains(&id);
        if self.alive {
            return Ok(if refused { self.create(listing, Some(Some(id))) } else { rotate });
        }
        if entry.is_some_and(|entry| self.marks.attempt_of(entry).is_some()) && !refused {
            // The successor kept the id, and its value was lost: proven to be ours.
            return Ok(rotate);
        }
        let on_account = entry.is_some()
            || invocation
                .session
                .kosli(&self.authority.key)
                .get(&self.current.account, &id)
                .await
                .map_err(|error| kosli_failed(&error, self.authority.role, &format!("looking up the key {id}")))?
                .is_some();
        if on_account {
            return Err(RotationError::new(
                ErrorKind::KeyIdMismatch,
                format!(
                    "Kosli does not accept the key under AWSCURRENT, yet its key id {id} is on the service account {}: value \
                     and id do not belong together.",
                    self.current.account
                ),
                "Correct the value or the key id in the secret, then rotate again. Nothing was minted.",
            ));
        }
        if self.authority.role == Role::Admin {
            info!(key_id = %id, "the current key was revoked: creating a new one");
            return Ok(self.create(listing, None));
        }
        Err(super::create_secret::dead_without_admin(&self.current))
    }

    fn plan_without_id(&self, listing: &Listing) -> Result<Plan, RotationError> {
        let strangers: Vec<&KeyEntry> =
            listing.keys.iter().filter(|key| self.marks.attempt_of(key).is_none()).collect();
        match strangers.as_slice() {
            [only] if self.alive && !self.is_held_elsewhere(&only.id) => Ok(if self.refused.contains(&only.id) {
                self.create(listing, Some(Some(only.id.clone())))
            } else {
                Plan::Rotate { id: only.id.clone(), grace_period_hours: self.policy.grace_period_hours, head: false }
            }),
            [] if !self.alive && self.authority.role == Role::Admin => Ok(self.create(listing, None)),
            _ if !self.alive && self.authority.role != Role::Admin => {
                Err(super::create_secret::dead_without_admin(&self.current))
            }
            _ => Err(key_id_unknown(self.invocation.session.secret, &self.current, self.alive, &strangers)),
        }
    }

    /// Whether a version that holds another key than the current one has this id. The current key may be on the account and
    /// not on the list, in its grace period: the only key that is listed is then not the one that is looked for.
    fn is_held_elsewhere(&self, id: &KeyId) -> bool {
        let labelled = |label: &String| label.strip_prefix(KEY_ID_LABEL) == Some(id.as_str());
        self.description.versions.values().flatten().any(labelled)
            || self.previous.as_ref().is_some_and(|previous| previous.key_id.as_ref() == Some(id))
    }

    fn create(&self, listing: &Listing, beside: Option<Option<KeyId>>) -> Plan {
        let described = |credential: &Credential| {
            let id = credential.key_id.as_ref()?;
            let entry = listing.keys.iter().find(|key| key.id == *id)?;
            Some(entry.description.clone()).filter(|description| !description.is_empty())
        };
        let previous = self.previous.as_ref().filter(|previous| previous.account.same(&self.current.account));
        let description = described(&self.current)
            .or_else(|| previous.and_then(described))
            .unwrap_or_else(|| format!("AWS Secrets Manager: {}", self.description.name));
        Plan::Create { description: description.chars().take(LONGEST_DESCRIPTION).collect(), beside }
    }

    /// The keys that were minted to replace the current version and that no version holds: lost, or a twin's.
    async fn marked(&mut self, listing: &Listing) -> Result<Vec<(KeyEntry, Attempt)>, RotationError> {
        let current_entry = self.current.key_id.as_ref().and_then(|id| listing.keys.iter().find(|key| key.id == *id));
        let marked: Vec<(KeyEntry, Attempt)> = listing
            .keys
            .iter()
            .filter(|key| self.current.key_id.as_ref() != Some(&key.id) && !self.refused.contains(&key.id))
            .filter(|key| may_succeed(current_entry, key))
            .filter_map(|key| Some((key.clone(), self.marks.attempt_of(key)?)))
            .collect();
        if marked.is_empty() {
            return Ok(marked);
        }
        let held = match self.held.take() {
            Some(held) => held,
            None => {
                let known: Vec<&Credential> = [&self.current].into_iter().chain(self.previous.as_ref()).collect();
                self.invocation.session.held_key_ids(self.description, &known).await?
            }
        };
        let unheld = marked.into_iter().filter(|(key, _)| !held.contains(&key.id)).collect();
        self.held = Some(held);
        Ok(unheld)
    }

    fn fresh_attempt(&self, listing: &Listing) -> Attempt {
        let mut seen = self.unclear.clone();
        seen.extend(listing.keys.iter().filter_map(|key| self.marks.attempt_of(key)));
        Attempt::fresh(&seen)
    }

    /// Sends one mint. The outer error means that it was not sent.
    async fn mint(
        &mut self,
        plan: &Plan,
        attempt: Attempt,
        listing: &Listing,
    ) -> Result<Result<(MintAnswer, u64), KosliError>, RotationError> {
        let budget = &self.invocation.session.budget;
        let remaining = budget.remaining();
        if remaining < SHORTEST_MINT + STORE_RESERVE {
            return Err(RotationError::new(
                ErrorKind::OutOfTime,
                format!(
                    "{} s of this invocation were left, and minting and storing a key takes up to {} s.",
                    remaining.as_secs(),
                    (SHORTEST_MINT + STORE_RESERVE).as_secs()
                ),
                format!("Set the function's time-out to 90 s. {TRY_AGAIN}"),
            ));
        }
        let limit = LONGEST_MINT.min(remaining - STORE_RESERVE);
        let life = Duration::from_secs(u64::from(self.policy.key_ttl_days) * 86_400);
        let Some(mark) = self.marks.new_key() else { return Ok(Err(KosliError::NotSent("no mark".to_owned()))) };
        let expires_at = mark.expires_at(attempt, listing.at, life);
        let kosli = self.invocation.session.kosli(&self.authority.key);
        let account = &self.current.account;
        let answer = match plan {
            Plan::Rotate { id, grace_period_hours, head } => {
                info!(key_id = %id, grace_period_hours, expires_at, lost = head, "rotating a key");
                let answer = kosli.rotate(limit, account, id, *grace_period_hours, expires_at).await;
                if !head && !matches!(answer, Err(KosliError::Refused { .. } | KosliError::NotSent(_))) {
                    let grace = Duration::from_secs(u64::from(*grace_period_hours) * 3_600);
                    self.note_current_key_dies(budget.now() + grace, listing);
                }
                answer
            }
            Plan::Create { description, .. } => {
                info!(expires_at, "creating a key");
                kosli.create(limit, account, description, expires_at).await
            }
            Plan::LeaveToTwin { .. } => return Ok(Err(KosliError::NotSent("left to a twin".to_owned()))),
        };
        Ok(answer.map(|answer| (answer, expires_at)))
    }

    /// Looks for a key whose mint had an unclear outcome, for long enough that a late effect is seen.
    async fn look(&self) -> Result<Listing, RotationError> {
        let mut last = None;
        for pause in LOOK_PAUSES {
            if !self.invocation.session.budget.pause(pause).await {
                return Err(mint_unclear("there is no time left to look for it"));
            }
            let listing = self.list().await;
            if let Ok(listing) = &listing
                && listing
                    .keys
                    .iter()
                    .filter_map(|key| self.marks.attempt_of(key))
                    .any(|attempt| self.unclear.contains(&attempt))
            {
                return Ok(listing.clone());
            }
            last = Some(listing);
        }
        // Only a list that came after the whole wait says that nothing was minted.
        match last {
            Some(Ok(listing)) => Ok(listing),
            _ => Err(mint_unclear("the keys of the account cannot be listed")),
        }
    }

    async fn list(&self) -> Result<Listing, RotationError> {
        self.invocation.session.list(&self.current.account, &self.authority).await
    }

    /// Takes a refusal that lasted as Kosli's answer: this key cannot be rotated. Ok: there is another way.
    fn believe_refusal(&mut self, plan: Plan, error: &KosliError) -> Result<(), RotationError> {
        let call = match &plan {
            Plan::Rotate { id, .. } => format!("rotating the key {id}"),
            _ => "creating a key".to_owned(),
        };
        match (plan, error.status()) {
            // A lost key that has died, or that was rotated before after all: the next best.
            (Plan::Rotate { id, head: true, .. }, Some(400 | 404 | 409)) => {
                self.refused.push(id);
                Ok(())
            }
            (Plan::Rotate { id, head: false, .. }, Some(404)) => Err(RotationError::new(
                ErrorKind::KeyNotOnAccount,
                format!(
                    "Kosli accepts the key under AWSCURRENT, and does not find its key id {id} on the service account {}. \
                     Either the id is mistyped, or the key is in its grace period after a rotation that was abandoned.",
                    self.current.account
                ),
                format!(
                    "Compare the id with the account's keys (`kosli list api-keys`). If the key is in its grace period, make a \
                     new one by hand and put it with its id into the secret. {TRY_AGAIN}"
                ),
            )),
            // It exists, and it was rotated before.
            (Plan::Rotate { id, head: false, .. }, Some(400 | 409)) => {
                self.refused.push(id);
                Ok(())
            }
            _ => Err(kosli_failed(error, self.authority.role, &call)),
        }
    }

    /// Waits until another execution has stored its key, or can no longer live. `None`: it can no longer live.
    async fn wait_for_twin(&self, id: &KeyId, age: Duration) -> Result<Option<Version>, RotationError> {
        let budget = &self.invocation.session.budget;
        let wait = (budget.function_timeout() + TAKE_OVER_MARGIN).saturating_sub(age);
        let has_room = budget.remaining() > wait + SHORTEST_MINT + STORE_RESERVE;
        info!(key_id = %id, wait_s = wait.as_secs(), has_room, "another execution may be about to store its key");
        let until = budget.now() + wait;
        while has_room && let Ok(left) = until.duration_since(budget.now()) {
            if left.is_zero() || !budget.pause(left.min(TWIN_PAUSE)).await {
                break;
            }
            if let Some(version) = self.invocation.session.read(Which::Id(self.invocation.token())).await? {
                return Ok(Some(version));
            }
        }
        if has_room {
            return Ok(None);
        }
        // One more look: the other execution may have been faster than this one's reads.
        if let Some(version) = self.invocation.session.read(Which::Id(self.invocation.token())).await? {
            return Ok(Some(version));
        }
        Err(RotationError::new(
            ErrorKind::TwinExecution,
            format!(
                "The key {id} was minted for this rotation {} s ago, and the execution that minted it may still be about to \
                 store it.",
                age.as_secs()
            ),
            format!("This resolves itself: in {} s the key counts as lost and is replaced. {TRY_AGAIN}", wait.as_secs()),
        )
        .after("This execution changed nothing."))
    }

    /// Stores a new key, and nothing comes between the mint and this.
    async fn store(
        &mut self,
        minted: Minted,
        expires_at: u64,
        plan: &Plan,
        listing: &Listing,
    ) -> Result<Stored, RotationError> {
        let Invocation { session, event } = self.invocation;
        let token = self.invocation.token();
        if let (Plan::Rotate { head: false, .. }, Some(at)) = (plan, minted.grace_period_expires_at) {
            self.current_key_dies = Some(at);
        }
        let value = self.current.document.with_key(&minted.key, &minted.id);
        let label = (!self.current.document.has_key_id_field()).then(|| format!("{KEY_ID_LABEL}{}", minted.id));
        let stored = session
            .function
            .secrets_manager
            .store(&session.budget, session.secret, token, &value, label.as_deref(), event.rotation_token.as_ref())
            .await;
        if let Err(error) = stored {
            // The answer may have been lost, or another execution may have been faster: only the version itself tells.
            let mut version = self.invocation.session.read(Which::Id(token)).await.ok().flatten();
            // There is another value, and a read may not see it yet.
            let mut pauses = STALE_VIEW_PAUSES.iter().filter(|_| error.is("ResourceExistsException"));
            while version.is_none()
                && let Some(&pause) = pauses.next()
                && self.invocation.session.budget.pause(pause).await
            {
                version = self.invocation.session.read(Which::Id(token)).await.ok().flatten();
            }
            let Some(version) = version else { return Err(self.store_failed(minted.id, &error)) };
            let winner = Credential::parse(&version, self.description, "AWSPENDING").ok();
            if winner.as_ref().is_none_or(|winner| !winner.key().same(&minted.key)) {
                return self.lose_to_twin(version, winner, &minted, plan).await;
            }
        }
        let tally = &session.tally;
        count(&tally.minted);
        let mut warnings = self.check_marker(&minted, expires_at, listing);
        let mut revoked = Vec::new();
        let (how, replaced) = match plan {
            Plan::Rotate { id, head: true, .. } => {
                // It has been replaced, so nobody needs it any more; where that fails, the sweep does it.
                match self.revoke(id, &minted.id).await {
                    Ok(true) => revoked.push(id.clone()),
                    Ok(false) => {}
                    Err(error) => warnings.push(format!("The lost key {id} could not be revoked yet: {error}.")),
                }
                count(&tally.recovered);
                ("recovered", self.current.key_id.clone())
            }
            Plan::Rotate { id, .. } => ("rotated", Some(id.clone())),
            Plan::Create { beside, .. } => {
                if let Some(id) = beside {
                    let id = id.as_ref().map_or_else(|| "(unknown id)".to_owned(), ToString::to_string);
                    warnings.push(format!(
                        "Kosli refused to rotate the current key {id}, so a new key was created beside it: nobody ends the old \
                         one. Revoke it in Kosli when nobody uses it any more."
                    ));
                }
                ("created", self.current.key_id.clone())
            }
            Plan::LeaveToTwin { .. } => ("rotated", None),
        };
        Ok(Stored::Ours(Made {
            id: minted.id,
            how,
            replaced,
            current_key_dies: self.current_key_dies,
            revoked,
            warnings,
        }))
    }

    /// The version has another value than ours. Our key is superfluous, unless minting it has put the winner's in its grace
    /// period.
    async fn lose_to_twin(
        &self,
        version: Version,
        winner: Option<Credential>,
        minted: &Minted,
        plan: &Plan,
    ) -> Result<Stored, RotationError> {
        let Some(winner_id) = winner.and_then(|winner| winner.key_id) else {
            // Without its id nothing is proven; the sweep after the promotion takes care of ours.
            return Ok(Stored::ByTwin(version));
        };
        let rotated = match plan {
            Plan::Rotate { id, .. } => Some(id),
            _ => None,
        };
        if winner_id == minted.id || rotated == Some(&winner_id) {
            let at = minted.grace_period_expires_at.map_or_else(|| "soon".to_owned(), rfc3339);
            return Err(RotationError::new(
                ErrorKind::PendingKeyDying,
                format!("Another execution stored the key {winner_id}, and this one has put that key in its grace period: it \
                     dies {at}."),
                "Let this rotation end, then rotate once more at once (`aws secretsmanager rotate-secret`).",
            )
            .after(format!("The key {} was minted and not stored.", minted.id)));
        }
        match self.revoke(&minted.id, &winner_id).await {
            Ok(_) => info!(key_id = %minted.id, "another execution was faster: revoked the superfluous key"),
            Err(error) => warn!(key_id = %minted.id, %error, "a superfluous key could not be revoked yet"),
        }
        Ok(Stored::ByTwin(version))
    }

    /// Revokes a key of this replacement, never one that the current or the pending version holds.
    async fn revoke(&self, id: &KeyId, pending: &KeyId) -> Result<bool, KosliError> {
        if id == pending || self.current.key_id.as_ref() == Some(id) {
            return Ok(false);
        }
        let revoked = self.invocation.session.kosli(&self.authority.key).revoke(&self.current.account, id).await?;
        count(&self.invocation.session.tally.revoked);
        info!(key_id = %id, "revoked a key that nobody holds");
        Ok(revoked)
    }

    fn store_failed(&mut self, id: KeyId, error: &SecretsManagerError) -> RotationError {
        let what = format!("The new key {id} could not be stored: {error}.");
        let action = if error.is_unclear() {
            TRY_AGAIN.to_owned()
        } else {
            format!("{} Then rotate again.", self.invocation.session.aws_failed(error).action())
        };
        self.lost.push(id);
        RotationError::new(ErrorKind::StoreFailed, what, action)
    }

    /// Notices when Kosli has changed the expiry that carries the mark, and names the keys that may then be ours unseen.
    fn check_marker(&self, minted: &Minted, expires_at: u64, listing: &Listing) -> Vec<String> {
        if minted.expires_at.is_none_or(|answered| answered == expires_at) {
            return Vec::new();
        }
        count(&self.invocation.session.tally.marker_changed);
        warn!(sent = expires_at, answered = minted.expires_at, "Kosli changed the expiry of the new key");
        let current_entry = self.current.key_id.as_ref().and_then(|id| listing.keys.iter().find(|key| key.id == *id));
        listing
            .keys
            .iter()
            .filter(|key| key.id != minted.id && self.current.key_id.as_ref() != Some(&key.id))
            .filter(|key| key.last_used_at.is_none() && key.created_at + CLOCK_TOLERANCE >= self.current.created)
            .filter(|key| may_succeed(current_entry, key))
            .map(|key| {
                count(&self.invocation.session.tally.suspected_orphans);
                warn!(key_id = %key.id, "a key that may have been minted here was left alone");
                format!(
                    "Kosli changed the expiry of the new key, so lost keys cannot be recognized. The key {} was never used and \
                     may be one: it was not touched. Revoke it in Kosli if nobody holds it.",
                    key.id
                )
            })
            .collect()
    }

    fn note_current_key_dies(&mut self, at: SystemTime, listing: &Listing) {
        if !self.alive {
            return;
        }
        let own_expiry = self
            .current
            .key_id
            .as_ref()
            .and_then(|id| listing.keys.iter().find(|key| key.id == *id))
            .and_then(|key| key.expires_at)
            .map(from_epoch_seconds);
        let at = own_expiry.map_or(at, |expiry| at.min(expiry));
        self.current_key_dies = Some(self.current_key_dies.map_or(at, |known| known.min(at)));
    }

    fn give_up_after_too_many(&self) -> Result<(), RotationError> {
        if self.unclear.len() + self.lost.len() < MOST_LOST_MINTS {
            return Ok(());
        }
        Err(mint_unclear("too many attempts have ended without a key's value"))
    }
}

/// Whether a key's description is one that the successor of `replaced` may have: the same, where that is listed and has one.
pub(super) fn may_succeed(replaced: Option<&KeyEntry>, key: &KeyEntry) -> bool {
    replaced.is_none_or(|replaced| replaced.description.is_empty() || replaced.description == key.description)
}

/// How long Kosli asks to be left alone after a refusal that may pass; `None`: it is another kind of failure.
fn passing(error: &KosliError) -> Option<Duration> {
    match error {
        KosliError::Refused { status, retry_after, .. } if matches!(status.as_u16(), 409 | 429) => {
            Some(retry_after.unwrap_or_default())
        }
        KosliError::NotSent(_) => Some(Duration::ZERO),
        _ => None,
    }
}

fn mint_unclear(why: &str) -> RotationError {
    RotationError::new(ErrorKind::MintUnclear, format!("Whether Kosli minted a key is not known: {why}."), TRY_AGAIN)
}

fn key_id_unknown(secret: &SecretId, current: &Credential, alive: bool, candidates: &[&KeyEntry]) -> RotationError {
    let listed: Vec<String> = candidates
        .iter()
        .take(20)
        .map(|key| {
            let used =
                key.last_used_at.map_or_else(|| "never used".to_owned(), |at| format!("last used {}", rfc3339(at)));
            let description: String = key.description.chars().take(60).flat_map(char::escape_default).collect();
            format!("{} (\"{description}\", created {}, {used})", key.id, rfc3339(key.created_at))
        })
        .collect();
    let works = if alive { "works" } else { "does not work" };
    RotationError::new(
        ErrorKind::KeyIdUnknown,
        format!(
            "Nothing says which key the secret holds: the value and the tags name no key id, and the service account {} has {} \
             keys. The secret's key {works}. Candidates: {}.",
            current.account,
            candidates.len(),
            if listed.is_empty() { "none".to_owned() } else { listed.join("; ") }
        ),
        format!(
            "Put the key's id into the value (`key_id`, `KOSLI_API_KEY_ID`); or, before the first rotation, into the tag \
             kosli:key-id; or attach it to the version: `aws secretsmanager update-secret-version-stage --secret-id {secret} \
             --version-stage {KEY_ID_LABEL}ID --move-to-version-id {}`. Then rotate again.",
            current.version
        ),
    )
}
