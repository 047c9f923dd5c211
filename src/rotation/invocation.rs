//! One step in one invocation: what it looks at before it decides, and what it answers.

use std::time::Duration;

use serde::Serialize;

use super::failures::{current_unreadable, estimated_death, pending_value_missing};
use super::late::left_behind;
use super::session::{AdminKey, Session};
use crate::error::{ErrorKind, RotationError};
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
        let pending = view.pending.as_ref().filter(|_| matches!(view.standing, Standing::Pending { .. }));
        self.with_death_by(&view.description, pending)
    }

    /// The same of a pending version that was read since.
    pub(super) fn with_death_by(
        &self,
        description: &Description,
        pending: Option<&Version>,
    ) -> impl Fn(RotationError) -> RotationError + use<> {
        let (policy, _) = self.session.function.config.policy.with_readable_tags(&description.tags);
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

    /// The pending version has no value, long after it should have.
    pub(super) async fn pending_value_missing(&self, description: &Description) -> RotationError {
        self.naming_death(pending_value_missing(self.session.secret), description).await
    }

    /// What an error for a version without a value also says: when the current key dies, if what was minted for it is lost. Where
    /// Secrets Manager is not there, or there is no time, it is not asked again.
    pub(super) async fn naming_death(&self, error: RotationError, description: &Description) -> RotationError {
        if matches!(error.kind(), ErrorKind::SecretsManagerUnavailable | ErrorKind::OutOfTime) {
            return error;
        }
        left_behind(&self.session, description, None).await.death_in_error(error, &self.session)
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
            let (pending, standing) = (pending?, Standing::of(&description, self.version_id()));
            let is_pending = matches!(standing, Ok(Standing::Pending { .. }));
            let with_death = self.with_death_by(&description, pending.as_ref().filter(|_| is_pending));
            let (current, previous) = (current.map_err(&with_death)?, previous.map_err(&with_death)?);
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
                Err(error) => {
                    let left = left_behind(session, &description, pending.as_ref()).await;
                    return Err(left.in_error(error, session));
                }
            };
            let current = current.filter(|version| version.id != *self.version_id());
            if let Standing::Pending { current: holder } = &standing
                && needs.current
                && current.as_ref().is_none_or(|version| version.id != *holder)
            {
                return Err(with_death(current_unreadable(current.as_ref(), holder, session.secret)));
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
