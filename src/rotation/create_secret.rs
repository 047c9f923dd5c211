//! `createSecret`: mint the new key and store it, once.

use std::time::SystemTime;

use reqwest::Url;
use tracing::{info, warn};

use super::credential::{Credential, KEY_ID_LABEL, is_in_place};
use super::failures::{
    Role, current_unreadable, pending_dead, pending_is_current, pending_key_dying, promoted_key_dying,
};
use super::invocation::{Invocation, Needs, Outcome, StepAnswer, View};
use super::marks::Marks;
use super::replacement::{Known, Minter, Stored, Tried};
use super::requirements::{authorized, identified, seen_at_kosli};
use super::session::{ACCEPTANCE_PAUSES, Session};
use crate::api_key::ApiKey;
use crate::by_hand;
use crate::clock::rfc3339;
use crate::config::unknown_tags;
use crate::document::Document;
use crate::error::{Death, ErrorKind, RotationError};
use crate::event::{SecretId, VersionId};
use crate::identity::{Account, ClaimedKeyId, KeyId};
use crate::kosli::{Acceptance, Listing};
use crate::secrets_manager::{CURRENT, Description, MOST_LABELS, PENDING, PREVIOUS, Version, Which};
use crate::staging::Standing;

/// What a mint is decided on.
const NEEDS: Needs = Needs { current: true, previous: true, admin: true, pending_value: false };

/// Runs the step.
///
/// Everything that can be checked is checked before the mint (promise I2): labels, documents, tags, permitted accounts, whether
/// the current key works and where it stands on the account, room for labels and value, and time.
pub(super) async fn create_secret(invocation: &Invocation<'_>) -> Result<StepAnswer, RotationError> {
    let view = invocation.observe(NEEDS).await?;
    for tag in unknown_tags(view.description.tags.keys()) {
        warn!("the tag {tag} means nothing to this function: it has no effect");
    }
    if matches!(view.standing, Standing::Current { .. }) {
        return Ok(invocation.answer(Outcome::AlreadyCurrent));
    }
    let (with_death, description) = (invocation.with_death(&view), view.description.clone());
    let mut course = Course::default();
    let outcome = create(invocation, view, &mut course).await;
    let error = match outcome {
        Ok(mut answer) => {
            answer.warnings.append(&mut course.left_behind);
            return Ok(answer);
        }
        Err(error) => error.with_warnings(&course.left_behind),
    };
    let error = error.once_changed(course.tried.changes());
    // Where the labels say that this rotation is over, it has been said already until when the key works that is current by now, unless
    // that could not be seen. It may be another key than the one that was replaced.
    if is_over(error.kind()) {
        let dies = if error.names_death() { None } else { course.death_if_still_current(&invocation.session).await };
        return Err(error.current_key_dies(dies.map(Death::Known)));
    }
    let error = with_death(error.current_key_dies(course.tried.current_key_dies.map(Death::Known)));
    // Before anything was listed: an execution before this one may have minted the current key's successor.
    let asked = course.listed || error.names_death() || error.kind() == ErrorKind::SecretsManagerUnavailable;
    Err(if asked { error } else { invocation.naming_death(error, &description).await })
}

/// How often another view of the secret is taken for a reason to begin anew, rather than to stop.
const MOST_VIEWS: usize = 4;

/// What this execution has done and found out, over all its views of the secret.
#[derive(Default)]
struct Course {
    tried: Tried,
    /// The key that was to be replaced, and whose it is.
    replaced: Option<(ApiKey, Account)>,
    /// What may live on an account that the secret named before: no sweep looks there.
    left_behind: Vec<String>,
    known: Option<Known>,
    /// Whether the account's keys were asked for.
    listed: bool,
    /// The current key's id, proven.
    id: Option<KeyId>,
}

impl Course {
    /// When the key dies whose grace period this execution has begun, if it is current still.
    async fn death_if_still_current(&self, session: &Session<'_>) -> Option<SystemTime> {
        let (dies, (replaced, _)) = (self.tried.current_key_dies?, self.replaced.as_ref()?);
        let current = session.read(Which::Label(CURRENT)).await.ok()??;
        let current = Document::parse(current.value?).ok()?;
        current.key().same(replaced).then_some(dies)
    }
}

/// What a view of the secret is compared by: the current version, whether the pending one has a value, and the admin key.
type Seen = (Option<VersionId>, bool, Option<ApiKey>);

fn seen(view: &View) -> Seen {
    let admin = view.admin.as_ref().ok().and_then(Option::as_ref).map(|admin| admin.key.clone());
    (view.current.as_ref().map(|current| current.id.clone()), view.pending.is_some(), admin)
}

fn is_same(one: &Seen, other: &Seen) -> bool {
    let same_key = match (&one.2, &other.2) {
        (Some(one), Some(other)) => one.same(other),
        (one, other) => one.is_none() && other.is_none(),
    };
    one.0 == other.0 && one.1 == other.1 && same_key
}

/// Looks, mints and stores. It looks at everything anew before every further mint, and before it blames a person or a service:
/// another execution may have gone on meanwhile.
async fn create(invocation: &Invocation<'_>, mut view: View, course: &mut Course) -> Result<StepAnswer, RotationError> {
    if !view.description.rotation_enabled {
        return Err(RotationError::before_any_change(
            ErrorKind::RotationNotEnabled,
            "Rotation is not switched on for this secret.",
            format!(
                "Switch it on with {}.",
                by_hand::switch_on(invocation.session.secret, invocation.session.function_arn)
            ),
        ));
    }
    let mut views = 1;
    loop {
        let before = seen(&view);
        match attempt(invocation, view, course).await {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => view = invocation.observe(NEEDS).await?,
            Err(error) if !may_be_of_an_old_view(error.kind()) || views == MOST_VIEWS => return Err(error),
            Err(error) => {
                view = match invocation.observe(NEEDS).await {
                    Ok(view) if is_same(&before, &seen(&view)) && matches!(view.standing, Standing::Pending { .. }) => {
                        return Err(error);
                    }
                    Ok(view) => view,
                    Err(other) if is_over(other.kind()) => return Err(other),
                    Err(_) => return Err(error),
                };
                course.known = None;
                views += 1;
            }
        }
        if matches!(view.standing, Standing::Current { .. }) {
            let promoted =
                view.pending.and_then(|version| Credential::parse(&version, &view.description, CURRENT).ok());
            let rotated = promoted
                .and_then(|promoted| promoted.key_id)
                .and_then(|id| course.tried.rotated_at(&id).map(|(_, dies)| dies));
            return match rotated {
                Some(dies) => Err(promoted_key_dying(invocation.session.secret, &rotated_here(dies))),
                None => Ok(invocation.answer(Outcome::AlreadyCurrent)),
            };
        }
    }
}

/// Why a key of another execution's is dying.
fn rotated_here(dies: SystemTime) -> String {
    format!(
        "it ends at about {}, for this execution took it for lost and rotated it, before another one stored it",
        rfc3339(dies)
    )
}

/// Whether what went wrong may be no one's fault: the labels or the admin key were others when they were read.
fn may_be_of_an_old_view(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::KeyNotOnAccount
            | ErrorKind::KeyIdMismatch
            | ErrorKind::KeyIdUnknown
            | ErrorKind::CurrentKeyDead
            | ErrorKind::AdminKeyDead
            | ErrorKind::KosliForbidden
            | ErrorKind::KosliRefused
            | ErrorKind::IdentityConflict
    )
}

/// Whether the labels say that this rotation is no more.
fn is_over(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::TokenNotStaged | ErrorKind::TokenNotPending)
}

/// One look at everything, and one mint at the most. `None`: it has to be looked at anew.
async fn attempt(
    invocation: &Invocation<'_>,
    view: View,
    course: &mut Course,
) -> Result<Option<StepAnswer>, RotationError> {
    let View { description, pending, current, previous, admin, .. } = view;
    let Course { tried, replaced, left_behind, known, listed, id } = course;
    let session = &invocation.session;
    let Some(current) = current else {
        return Err(current_unreadable(None, invocation.version_id(), session.secret));
    };
    if let Some(pending) = pending {
        // The mint is behind us: neither a tag that was changed since nor the admin secret stands in the way of what it brought.
        let current = Credential::parse(&current, &description, CURRENT)?;
        session.permit(&current.account)?;
        return already_created(invocation, &current, &pending, &description, tried).await.map(Some);
    }
    let (policy, mut current) = identified(session, &description, &current, invocation.version_id())?;
    let authority = authorized(session, &description, &current, admin?)?;

    // A previous version that does not parse is ignored: it is only looked at to learn more, never to act on it.
    let previous = previous.and_then(|version| Credential::parse(&version, &description, PREVIOUS).ok());
    previous.iter().for_each(|previous| current.learn_key_id(previous));
    session.learn_key_id(&description, &mut current).await?;
    let stale_labels = check_room(&current, &description)?;
    if let Some(previous) = &previous
        && tag_may_be_stale(invocation, &current, previous).await?
    {
        current.key_id = None;
    }
    // Where a person has edited a field, the key is the same, and so is all that is known of it.
    if let Some((key, account)) = replaced.replace((current.key().clone(), current.account.clone()))
        && !key.same(current.key())
    {
        let is_elsewhere = account != current.account;
        left_behind
            .extend(tried.without_values().filter(|_| is_elsewhere).map(|ids| left_on(&account, &ids, session.host())));
        (*tried, *known) = (std::mem::take(tried).of_another_key(is_elsewhere), None);
    }
    tried.note_death(current.key_id.as_ref().and_then(|id| tried.rotated_at(id)).map(|(_, dies)| dies));
    *listed = true;
    let marks = Marks::of(&description.arn, &current, previous.as_ref());
    let death = |listing: &Listing| marks.death(&listing.keys, current.key_id.as_ref(), policy.grace());
    let (alive, listing) = match known.take() {
        Some(Known { alive, listing: Some(listing) }) => (alive, listing),
        Some(Known { alive, listing: None }) if authority.role == Role::Admin => {
            (alive, session.list(&current.account, &authority).await?)
        }
        // In self-rotation, a list that is refused means that the current key may have died meanwhile.
        _ => {
            let note_death = |listing: &Listing| tried.note_death(death(listing));
            let (acceptance, listing) = seen_at_kosli(session, &current, &authority, note_death).await?;
            (acceptance == Acceptance::Accepted, listing)
        }
    };
    tried.note_death(death(&listing));
    if !alive {
        tried.current_key_dies = None;
    }
    if id.as_ref().is_none_or(|id| !id.is_among(&current.key_id)) {
        *id = session.proven_id(&current, Some(&listing)).await?;
    }
    let minter = Minter::new(invocation, &description, (current, id.clone()), previous, authority, alive, policy);
    let stored = minter.mint_and_store(listing, &stale_labels, tried).await?;
    match stored {
        Stored::Ours(made) => {
            info!(key_id = %made.id, how = made.how.word(), "the new key is stored under AWSPENDING");
            Ok(Some(StepAnswer {
                key_id: Some(made.id.to_string()),
                replaced_key_id: made.replaced.as_ref().map(ToString::to_string),
                current_key_dies_at: made.current_key_dies.map(rfc3339),
                revoked_key_ids: made.revoked.iter().map(ToString::to_string).collect(),
                warnings: made.warnings,
                ..invocation.answer(made.how)
            }))
        }
        Stored::ByTwin(version) => {
            already_created(invocation, &minter.task.current, &version, &description, tried).await.map(Some)
        }
        Stored::LookAgain(known) => {
            course.known = Some(known);
            Ok(None)
        }
    }
}

/// Keys whose values were lost on an account that the secret does not name any more; without ids where no answer has named one.
fn left_on(account: &Account, ids: &[KeyId], host: &Url) -> String {
    let what = match ids {
        [] => format!(
            "may live there, never used ({} shows the account's keys). Revoke it if you find one.",
            by_hand::list_keys(account, host)
        ),
        ids => format!("lives there. Revoke what was minted ({}).", by_hand::revoke_keys(ids, account, host)),
    };
    format!(
        "The secret named the service account {account} when this step began, and a key whose value was lost {what}"
    )
}

/// Whether the tag with the key id may name the key of the version before: nothing but the tag names an id, and that version
/// holds another key of the account which still works. A placeholder that was put in first is no such key.
async fn tag_may_be_stale(
    invocation: &Invocation<'_>,
    current: &Credential,
    previous: &Credential,
) -> Result<bool, RotationError> {
    if !current.key_id_from_tag || previous.account != current.account {
        return Ok(false);
    }
    // A field was edited, so the first version, which the tag was written for, is out of sight.
    if previous.key().same(current.key()) {
        return Ok(true);
    }
    let accepted = invocation.session.accepts(&previous.account, previous.key(), "the previous key", &[]).await?;
    Ok(accepted == Acceptance::Accepted)
}

/// The pending version has a value: from an earlier attempt, from a twin, or from a person. It is proven, not believed; an error also says
/// until when the current key works.
async fn already_created(
    invocation: &Invocation<'_>,
    current: &Credential,
    pending: &Version,
    description: &Description,
    tried: &Tried,
) -> Result<StepAnswer, RotationError> {
    let with_death = invocation.with_death_by(description, Some(pending));
    prove(invocation, current, pending, description, tried).await.map_err(with_death)
}

async fn prove(
    invocation: &Invocation<'_>,
    current: &Credential,
    pending: &Version,
    description: &Description,
    tried: &Tried,
) -> Result<StepAnswer, RotationError> {
    let pending = Credential::parse(pending, description, PENDING)?;
    pending.same_account_as(current, [PENDING, CURRENT])?;
    if let Some((id, dies)) = pending.key_id.as_ref().and_then(|id| tried.rotated_at(id)) {
        let (secret, version_id) = (invocation.session.secret, invocation.version_id());
        return Err(pending_key_dying(secret, version_id, Some(id), &rotated_here(dies)));
    }
    if pending.key().same(current.key()) {
        return Err(pending_is_current(invocation.session.secret, invocation.version_id()));
    }
    match invocation.session.accepts(&pending.account, pending.key(), "the pending key", &ACCEPTANCE_PAUSES).await? {
        Acceptance::Accepted => Ok(invocation.answer(Outcome::AlreadyCreated)),
        Acceptance::Dead => Err(pending_dead(invocation.session.secret, invocation.version_id())),
    }
}

/// Which labels can be removed before the mint, and whether there is room for the new version then (promise I2).
///
/// # Errors
/// [`ErrorKind::NoRoom`], when there is not.
pub fn check_room(current: &Credential, description: &Description) -> Result<Vec<(VersionId, String)>, RotationError> {
    if !current.document.has_room() {
        return Err(RotationError::before_any_change(
            ErrorKind::NoRoom,
            "The secret's value leaves less than 1 KiB of Secrets Manager's 64 KiB for the new key.",
            "Shorten the value. Nothing was minted.",
        ));
    }
    // Where a label of a person's own keeps a version in place, its key's id is what keeps the sweep from that key.
    let stale: Vec<(VersionId, String)> = description
        .versions
        .iter()
        .filter(|(version, _)| !is_in_place(description, version))
        .flat_map(|(version, labels)| labels.iter().map(|label| (version.clone(), label.clone())))
        // The one that names the current key may be all that does: a field was edited more than once.
        .filter(|(_, label)| {
            label.strip_prefix(KEY_ID_LABEL).is_some_and(|id| ClaimedKeyId::parse(id) != current.key_id)
        })
        .collect();
    let labels: usize = description.versions.values().map(Vec::len).sum();
    // The promotion attaches AWSPREVIOUS where there is none yet, and the replaced version may get its key's id first.
    let is_named = current.key_id.is_some() && !current.key_id_from_tag;
    let to_come = usize::from(!current.document.has_key_id_field())
        + usize::from(description.holder(PREVIOUS).is_none())
        + usize::from(!is_named);
    if labels - stale.len() + to_come > MOST_LABELS {
        return Err(RotationError::before_any_change(
            ErrorKind::NoRoom,
            format!("The secret has {labels} staging labels, and Secrets Manager allows {MOST_LABELS}."),
            format!(
                "Remove labels of your own from its versions ({} shows them, update-secret-version-stage removes them). Nothing \
                 was minted.",
                by_hand::show_labels(&SecretId::trusted(&description.arn))
            ),
        ));
    }
    Ok(stale)
}
