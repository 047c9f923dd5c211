//! One step in one invocation: what it looks at before it decides, and what it answers.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::credential::Credential;
use super::failures::{Role, current_unreadable, estimated_death, pending_value_missing};
use super::marks::Marks;
use super::session::{AdminKey, Session};
use crate::by_hand;
use crate::clock::rfc3339;
use crate::error::RotationError;
use crate::event::{RotationEvent, VersionId};
use crate::secrets_manager::{CURRENT, Description, PREVIOUS, Version, Which};
use crate::staging::Standing;
use crate::words::words;

/// The pauses between looks at Secrets Manager where something should be visible and is not: what was written a moment ago
/// may not be readable yet.
pub(super) const STALE_VIEW_PAUSES: [Duration; 4] =
    [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];

/// One invocation for one step.
pub(super) struct Invocation<'a> {
    pub(super) session: Session<'a>,
    pub(super) event: &'a RotationEvent,
}

/// What a step looks at before it decides, read side by side.
pub(super) struct View {
    pub(super) description: Description,
    pub(super) standing: Standing,
    /// The event's version; `None`: it has no value (yet).
    pub(super) pending: Option<Version>,
    /// The version under `AWSCURRENT`, where it was asked for and is another one than the event's.
    pub(super) current: Option<Version>,
    /// The version under `AWSPREVIOUS`, where it was asked for.
    pub(super) previous: Option<Version>,
    /// The admin key, where it was asked for and one is configured. That it cannot be had is an error only where it is needed:
    /// a broken admin secret must not block a promotion.
    pub(super) admin: Result<Option<AdminKey>, RotationError>,
}

/// What a step needs to see beyond labels and the event's version.
#[derive(Clone, Copy, Default)]
pub(super) struct Needs {
    pub(super) current: bool,
    pub(super) previous: bool,
    pub(super) admin: bool,
    /// The step comes after `createSecret`: the event's version should have a value.
    pub(super) pending_value: bool,
}

words! {
    /// What a step did, in a word.
    pub enum Outcome {
        /// `createSecret`: the current key was rotated.
        Rotated = "rotated",
        /// `createSecret`: a lost key was replaced.
        Recovered = "recovered",
        /// `createSecret`: a key was created.
        Created = "created",
        /// `createSecret`: the pending version has a key that works.
        AlreadyCreated = "already created",
        /// `setSecret`: both versions belong to one account.
        Checked = "checked",
        /// `testSecret`: Kosli accepts the new key.
        Tested = "tested",
        /// `testSecret` alone: Kosli accepts the current key.
        TestedCurrent = "tested the current key",
        /// `finishSecret`: the new version is current.
        Promoted = "promoted",
        /// Any step: the version was current before.
        AlreadyCurrent = "already current",
    }
}

words! {
    /// What became of the old key when it was revoked at once.
    pub enum OldKey {
        /// Kosli refuses it.
        Dead = "dead",
        /// Kosli still accepts it.
        Alive = "alive",
        /// It was not revoked, or Kosli does not say.
        CannotTell = "cannot tell",
    }
}

/// What a step did.
#[derive(Debug, Serialize)]
pub(super) struct StepAnswer {
    pub(super) step: &'static str,
    pub(super) secret_id: String,
    pub(super) version_id: String,
    pub(super) outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) replaced_key_id: Option<String>,
    /// Until when the key under `AWSCURRENT` goes on working.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) current_key_dies_at: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) revoked_key_ids: Vec<String>,
    /// With immediate revocation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) old_key: Option<OldKey>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) warnings: Vec<String>,
}

impl Invocation<'_> {
    pub(super) fn version_id(&self) -> &VersionId {
        &self.event.version_id
    }

    /// What a failure after the mint also says: when the current key dies, worked out from the age of the pending value.
    pub(super) fn with_death(&self, view: &View) -> impl Fn(RotationError) -> RotationError + use<> {
        let (policy, _) = self.session.function.config.policy.with_readable_tags(&view.description.tags);
        let pending = view.pending.as_ref().filter(|_| matches!(view.standing, Standing::Pending { .. }));
        let dies = pending.map(|version| estimated_death(version.created, policy));
        move |error| match dies {
            Some(at) => error.current_key_dies_about(at),
            None => error,
        }
    }

    pub(super) fn answer(&self, outcome: Outcome) -> StepAnswer {
        StepAnswer {
            step: self.event.step.name(),
            secret_id: self.event.secret_id.to_string(),
            version_id: self.event.version_id.to_string(),
            outcome,
            key_id: None,
            replaced_key_id: None,
            current_key_dies_at: None,
            revoked_key_ids: Vec::new(),
            old_key: None,
            warnings: Vec::new(),
        }
    }

    /// A step that comes late, for a version that is not pending any more, while the key under `AWSCURRENT` is dying of a rotation: that
    /// something needs to be done (the design's decision 16).
    async fn unless_current_is_dying(
        &self,
        error: RotationError,
        description: &Description,
        version: Option<&Version>,
    ) -> RotationError {
        let Some(dies) = self.death_of_current(description, version).await else { return error };
        let rotate = by_hand::rotate(self.session.secret);
        if dies > self.session.budget.now() {
            return error.with_action(format!("Rotate now: {rotate}.")).current_key_dies_about(dies);
        }
        error.with_action(format!(
            "A rotation that was abandoned has minted the successor of the key under AWSCURRENT, which may have stopped working at \
             about {}. Rotate now: {rotate}.",
            rfc3339(dies)
        ))
    }

    /// The pending version has no value, long after it should have.
    pub(super) async fn pending_value_missing(&self, description: &Description) -> RotationError {
        self.naming_death(pending_value_missing(self.session.secret), description).await
    }

    /// What an error for a version without a value also says: when the current key dies, if what was minted for it is lost.
    pub(super) async fn naming_death(&self, error: RotationError, description: &Description) -> RotationError {
        match self.death_of_current(description, None).await.filter(|dies| *dies > self.session.budget.now()) {
            Some(dies) => error.current_key_dies_about(dies),
            None => error,
        }
    }

    /// When the current key dies of a rotation that has minted its successor: by the account's keys; or, where they cannot be had or do
    /// not show it, by the age of this event's version, if that holds another key. `None`: of none, as far as can be told.
    async fn death_of_current(&self, description: &Description, version: Option<&Version>) -> Option<SystemTime> {
        let session = &self.session;
        let (policy, _) = session.function.config.policy.with_readable_tags(&description.tags);
        let (current, previous, admin) = tokio::join!(
            session.read(Which::Label(CURRENT)),
            session.read(Which::Label(PREVIOUS)),
            session.admin_key(true)
        );
        let parse = |version: &Version| Credential::parse(version, description, CURRENT).ok();
        let labelled = |read: Result<Option<Version>, RotationError>| read.ok().flatten().as_ref().and_then(parse);
        let (current, previous, version) = (labelled(current)?, labelled(previous), version.and_then(parse));
        // A version with the current key itself is no rotation's: nothing was minted for it.
        let successor = version.filter(|version| !version.key().same(current.key()));
        if let (Ok(()), Ok(admin)) = (session.permit(&current.account), admin) {
            let (own, role) = match &successor {
                Some(successor) => (successor.key(), Role::New),
                None => (current.key(), Role::Current),
            };
            let listing = session.list(&current.account, &session.authority(admin, own, role)).await;
            let marks = Marks::of(&description.arn, &current, previous.as_ref());
            let keys = listing.as_ref().map_or(&[][..], |listing| &listing.keys);
            if let Some(dies) = marks.death(keys, current.key_id.as_ref(), policy.grace()) {
                return Some(dies);
            }
        }
        // It was current when the successor was stored; or somebody has edited a field since.
        let edited = previous.is_some_and(|previous| previous.key().same(current.key()));
        let replaced = |successor: &Credential| current.created < successor.created || edited;
        successor.filter(replaced).map(|successor| estimated_death(successor.created, policy))
    }

    /// Reads what the step needs, side by side, and again while what should be visible is not.
    pub(super) async fn observe(&self, needs: Needs) -> Result<View, RotationError> {
        let session = &self.session;
        let mut pauses = STALE_VIEW_PAUSES.iter();
        loop {
            let (description, pending, current, previous, admin) = tokio::join!(
                session.function.secrets_manager.describe(&session.budget, session.secret),
                session.read(Which::Id(self.version_id())),
                read_if(needs.current, session.read(Which::Label(CURRENT))),
                read_if(needs.previous, session.read(Which::Label(PREVIOUS))),
                session.admin_key(needs.admin),
            );
            let description = description.map_err(|error| session.aws_failed(&error))?;
            let (pending, current, previous) = (pending?, current?, previous?);
            let standing = Standing::of(&description, self.version_id());
            let settled = match &standing {
                Err(_) => false,
                Ok(Standing::Current { .. }) => true,
                Ok(Standing::Pending { current: holder }) => {
                    let seen = current.as_ref().map(|version| &version.id);
                    (!needs.current || seen == Some(holder)) && (pending.is_some() || !needs.pending_value)
                }
            };
            if !settled
                && let Some(&pause) = pauses.next()
                && session.budget.pause(pause).await
            {
                continue;
            }
            let standing = match standing {
                Ok(standing) => standing,
                Err(error) => return Err(self.unless_current_is_dying(error, &description, pending.as_ref()).await),
            };
            let current = current.filter(|version| version.id != *self.version_id());
            if let Standing::Pending { current: holder } = &standing
                && needs.current
                && current.as_ref().is_none_or(|version| version.id != *holder)
            {
                return Err(current_unreadable(current.as_ref(), holder, session.secret));
            }
            return Ok(View { description, standing, pending, current, previous, admin });
        }
    }
}

async fn read_if<T>(
    wanted: bool,
    read: impl Future<Output = Result<Option<T>, RotationError>>,
) -> Result<Option<T>, RotationError> {
    if wanted { read.await } else { Ok(None) }
}
