//! `finishSecret`: prove the pending key, promote it, then clean up, and be reachable for the clean-up when called again.

use std::time::Duration;

use tracing::info;

use super::clean_up::{Promoted, Replaced, authority, clean_up};
use super::credential::Credential;
use super::failures::{
    current_unreadable, pending_dead, pending_is_current, pending_key_dying, pending_superseded, try_again,
};
use super::invocation::{Invocation, Needs, Outcome, STALE_VIEW_PAUSES, StepAnswer, View};
use super::marks::Marks;
use super::promotion::{self, Fact, Facts, KeyOf, Next, Note, Seen, Stop};
use super::session::{ACCEPTANCE_PAUSES, DEATH_PAUSES, Session};
use crate::budget::Repeatable;
use crate::config::Policy;
use crate::error::{Change, ErrorKind, RotationError};
use crate::event::VersionId;
use crate::kosli::{Acceptance, KeyEntry, Listing};
use crate::metrics::count;
use crate::secrets_manager::{CURRENT, PENDING, SecretsManagerError, Which};
use crate::staging::Standing;

/// How often the move of `AWSCURRENT` is tried.
const PROMOTION_ATTEMPTS: usize = 4;

/// The pauses between looks for the pending key, where the list does not show it: at first as for any view that may be stale.
const UNLISTED_PAUSES: [Duration; 7] = [
    STALE_VIEW_PAUSES[0],
    STALE_VIEW_PAUSES[1],
    STALE_VIEW_PAUSES[2],
    STALE_VIEW_PAUSES[3],
    Duration::from_secs(4),
    Duration::from_secs(4),
    Duration::from_secs(6),
];

/// Runs the step.
pub(super) async fn finish_secret(invocation: &Invocation<'_>) -> Result<StepAnswer, RotationError> {
    let needs = Needs { current: true, admin: true, pending_value: true, previous: false };
    let view = invocation.observe(needs).await?;
    let Some(version) = &view.pending else { return Err(invocation.pending_value_missing(&view.description).await) };
    let (policy, unreadable) = invocation.session.function.config.policy.with_readable_tags(&view.description.tags);
    let mut answer = match &view.standing {
        Standing::Current { previous } => {
            let new = Credential::parse(version, &view.description, CURRENT)?;
            invocation.session.permit(&new.account)?;
            let answer = invocation.answer(Outcome::AlreadyCurrent);
            let replaced = Replaced::Previous(previous.clone());
            let listing = list(invocation, &view, &new).await;
            clean_up(invocation, Promoted { view: &view, new, replaced, listing, policy }, answer).await?
        }
        Standing::Pending { current } => {
            let with_death = invocation.with_death(&view);
            let pending = Credential::parse(version, &view.description, PENDING).map_err(&with_death)?;
            let proven = prove(invocation, &view, &pending, policy).await.map_err(&with_death)?;
            promote(invocation, current).await.map_err(&with_death)?;
            info!(version_id = %invocation.version_id(), "AWSCURRENT moved to the new version");
            let mut answer = invocation.answer(Outcome::Promoted);
            if matches!(proven.note, Some(Note::EditOverwritten(_))) {
                count(&invocation.session.tally.edit_overwritten);
            }
            answer.warnings.extend(proven.note.map(|note| note.to_string()));
            let replaced = Replaced::Seen(Box::new(proven.replaced));
            let promoted = Promoted { view: &view, new: pending, replaced, listing: proven.listing, policy };
            clean_up(invocation, promoted, answer).await?
        }
    };
    answer.warnings.extend(unreadable.iter().map(|tag| {
        format!("The tag {tag} is malformed: the function used its own setting (or the one that leaves the old key its grace period).")
    }));
    Ok(answer)
}

/// What was seen and decided before the move.
struct Proven {
    /// The current version, parsed: it is about to be replaced.
    replaced: Credential,
    listing: Result<Listing, RotationError>,
    note: Option<Note>,
}

/// Proves the pending version right before `AWSCURRENT` moves to it: another key than the current one, of the same account, Kosli
/// accepts it, and nothing that was seen beside it speaks against it.
async fn prove(
    invocation: &Invocation<'_>,
    view: &View,
    pending: &Credential,
    policy: Policy,
) -> Result<Proven, RotationError> {
    let session = &invocation.session;
    let current =
        view.current.as_ref().ok_or_else(|| current_unreadable(None, invocation.version_id(), session.secret))?;
    let current = Credential::parse(current, &view.description, CURRENT)?;
    pending.same_account_as(&current, [PENDING, CURRENT])?;
    session.permit(&pending.account)?;
    if pending.key().same(current.key()) {
        return Err(pending_is_current(session.secret, invocation.version_id()));
    }
    let (accepted, mut listing) = tokio::join!(
        session.accepts(&pending.account, pending.key(), "the key under AWSPENDING", &ACCEPTANCE_PAUSES),
        list(invocation, view, pending),
    );
    if accepted? == Acceptance::Dead {
        return Err(pending_dead(session.secret, invocation.version_id()));
    }
    let note = decide(invocation, view, pending, &current, policy, &mut listing).await?;
    Ok(Proven { replaced: current, listing, note })
}

/// The account's keys. That they cannot be listed stops no promotion: the key under `AWSCURRENT` is dying.
async fn list(invocation: &Invocation<'_>, view: &View, new: &Credential) -> Result<Listing, RotationError> {
    let authority = authority(view, new)?;
    invocation.session.list(&new.account, &authority).await
}

/// Finds out what decides, and no more. Ok: it is promoted, and this is said of it.
async fn decide(
    invocation: &Invocation<'_>,
    view: &View,
    pending: &Credential,
    current: &Credential,
    policy: Policy,
    listing: &mut Result<Listing, RotationError>,
) -> Result<Option<Note>, RotationError> {
    let session = &invocation.session;
    let marks = Marks::of(&view.description.arn, current, None);
    let differing = pending.document.differing_fields(&current.document);
    let mut facts = Facts::default();
    loop {
        let seen = Seen {
            description: &view.description,
            pending: (&pending.version, pending.key_id.as_ref(), pending.created),
            marks: &marks,
            current: (&current.version, current.key_id.as_ref(), current.created),
            differing: &differing,
            grace: policy.grace(),
            life: policy.life(),
            take_over_after: session.take_over_after(),
            now: session.budget.now(),
            listing: listing.as_ref().ok(),
            facts,
        };
        let next = promotion::next(&seen);
        facts = seen.facts;
        match next {
            Next::Promote(note) => return Ok(note),
            Next::Stop(stop) => {
                let listed = listing.as_ref().ok().and_then(|listing| listing.entry(pending.key_id.as_ref()));
                return Err(stopped(invocation, listed.or(facts.entry.as_ref().and_then(Option::as_ref)), &stop));
            }
            Next::Ask(Fact::Entry) => {
                let (last, entry) = look_again(invocation, view, pending, &marks).await;
                // A list that came later than the one at hand shows more.
                if let Some(last) = last {
                    *listing = Ok(last);
                }
                facts.entry = Some(entry);
            }
            Next::Ask(Fact::HeldKeyIds) => {
                facts.held = Some(session.held_key_ids(&view.description, &[pending, current]).await?);
            }
            Next::Ask(Fact::KeyOf(version)) => {
                let version = session.read(Which::Id(&version)).await?;
                let marked = version.and_then(|version| Credential::parse(&version, &view.description, "a label").ok());
                facts.marked_version = Some(match marked {
                    None => KeyOf::Unknown,
                    Some(marked) if marked.key().same(current.key()) => KeyOf::Current,
                    Some(marked) if marked.key_id.is_none() || marked.key_id != current.key_id => KeyOf::Other,
                    Some(marked) if marked.key_id == pending.key_id => KeyOf::OneId,
                    Some(_) => KeyOf::OtherWithItsId,
                });
            }
            Next::Ask(Fact::CurrentKey) => {
                let whose = "the key under AWSCURRENT";
                facts.current_key = Some(session.accepts(&current.account, current.key(), whose, &DEATH_PAUSES).await?);
            }
        }
    }
}

/// Looks for the pending key for some seconds: it may be on the account and not listed yet. What Kosli shows of it by its id comes
/// beside the last list.
async fn look_again(
    invocation: &Invocation<'_>,
    view: &View,
    pending: &Credential,
    marks: &Marks,
) -> (Option<Listing>, Option<KeyEntry>) {
    let mut last: Option<Listing> = None;
    for (number, &pause) in UNLISTED_PAUSES.iter().enumerate() {
        // It is worth more time where a key is listed beside it that may be its successor, or may be older than it.
        let beside = last.as_ref().is_some_and(|listing| {
            !marks.lost(&listing.keys, None, |_| false, Some(&[])).unwrap_or_default().is_empty()
        });
        if (number >= STALE_VIEW_PAUSES.len() && !beside) || !invocation.session.budget.pause(pause).await {
            break;
        }
        last = list(invocation, view, pending).await.ok().or(last);
        if let Some(entry) = last.as_ref().and_then(|listing| listing.entry(pending.key_id.as_ref())).cloned() {
            return (last, Some(entry));
        }
    }
    let Ok(authority) = authority(view, pending) else { return (last, None) };
    let found = invocation.session.look_up(pending, &authority, last.as_ref()).await;
    (last, found.ok().flatten().and_then(|(_, entry)| entry))
}

/// Why nothing is promoted, in words.
fn stopped(invocation: &Invocation<'_>, pending: Option<&KeyEntry>, stop: &Stop) -> RotationError {
    let (secret, version_id) = (invocation.session.secret, invocation.version_id());
    let id = pending.map(|key| &key.id);
    match stop {
        Stop::Dying(dying) => pending_key_dying(secret, version_id, id, &dying.to_string()),
        Stop::Superseded { ends } => pending_superseded(secret, version_id, id).current_key_dies(*ends),
    }
}

/// Moves `AWSCURRENT`: the one write of this step, a compare-and-swap with both version ids. `AWSPENDING` is left to Secrets
/// Manager; taking it off in a second call "can indicate to Secrets Manager that the rotation did not complete".
/// Source: <https://docs.aws.amazon.com/secretsmanager/latest/userguide/rotate-secrets_lambda-functions.html>
async fn promote(invocation: &Invocation<'_>, current: &VersionId) -> Result<(), RotationError> {
    let Session { function, budget, secret, .. } = &invocation.session;
    let manager = &function.secrets_manager;
    let version_id = invocation.version_id();
    for attempt in 1.. {
        let Err(error) = manager.promote(budget, secret, version_id, current).await else { return Ok(()) };
        // A refusal did not happen. Of anything else the labels tell, but for an effect that is still to come.
        let changed = |failed: RotationError| match error {
            SecretsManagerError::Refused { .. } => failed,
            SecretsManagerError::Unclear { .. } => failed.once_changed([Change::MaybePromoted]),
        };
        let description = manager.describe(budget, secret).await;
        let description = description.map_err(|error| changed(invocation.session.aws_failed(&error)))?;
        match description.holder(CURRENT) {
            Some(holder) if holder == version_id => return Ok(()),
            Some(holder) if holder != current => {
                return Err(RotationError::before_any_change(
                    ErrorKind::CurrentMoved,
                    format!("AWSCURRENT moved from the version {current} to {holder} while this step ran."),
                    format!(
                        "Something else changed the secret. This rotation's key is not promoted over it. {}",
                        try_again(secret)
                    ),
                ));
            }
            _ => {}
        }
        let backoff = Duration::from_millis(500) * attempt;
        if error.repeat_after().is_none() || attempt as usize >= PROMOTION_ATTEMPTS || !budget.pause(backoff).await {
            return Err(changed(invocation.session.aws_failed(&error)));
        }
    }
    Ok(())
}
