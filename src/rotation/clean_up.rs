//! The clean-up after the promotion (the design's decision 11): the old key first, where it is to be revoked at once, then the sweep.

use std::time::Duration;

use tracing::{info, warn};

use super::credential::{Credential, is_in_place};
use super::failures::{Role, estimated_death, promoted_key_dying, try_again};
use super::invocation::{Invocation, OldKey, StepAnswer, View};
use super::marks::{LeftOver, Marks, left_over};
use super::promotion::{self, Facts, Note, Seen};
use super::session::Authority;
use crate::by_hand;
use crate::config::{Policy, RevokeOldKey};
use crate::error::{Change, Death, ErrorKind, RotationError};
use crate::event::VersionId;
use crate::identity::{ClaimedKeyId, KeyId};
use crate::kosli::{Acceptance, KosliError, Listing};
use crate::metrics::count;
use crate::secrets_manager::{CURRENT, Description, PENDING, PREVIOUS, Which};

/// After a revocation, Kosli may go on accepting the key for some seconds.
const DEATH_PROOF_PAUSES: [Duration; 5] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];

/// The pauses between looks at the labels while they do not show what this step has just moved, or speak against a revocation.
const MOVE_PAUSES: [Duration; 8] = [
    Duration::from_millis(200),
    Duration::from_millis(300),
    Duration::from_millis(500),
    Duration::from_millis(500),
    Duration::from_millis(500),
    Duration::from_millis(500),
    Duration::from_millis(500),
    Duration::from_secs(1),
];

/// What was promoted, and what the clean-up after it goes by.
pub(super) struct Promoted<'a> {
    /// The view from before the promotion; where the step comes again, from now.
    pub(super) view: &'a View,
    /// The new current version.
    pub(super) new: Credential,
    /// The version that it has replaced.
    pub(super) replaced: Replaced,
    /// The account's keys.
    pub(super) listing: Result<Listing, RotationError>,
    pub(super) policy: Policy,
}

/// The version that was current before.
pub(super) enum Replaced {
    /// It was seen right before the promotion.
    Seen(Box<Credential>),
    /// This step comes again: it is the version under `AWSPREVIOUS`, if there is one.
    Previous(Option<VersionId>),
}

/// With whose key the clean-up lists and revokes.
///
/// # Errors
/// Why the admin key cannot be had.
pub(super) fn authority(view: &View, new: &Credential) -> Result<Authority, RotationError> {
    // The admin secret may be this very secret: its key is then the new one, for the old one may be in its grace period.
    let admin = view.admin.as_ref().map_err(RotationError::clone)?;
    Ok(match admin.as_ref().filter(|admin| admin.secret_arn != view.description.arn) {
        Some(admin) => Authority { key: admin.key.clone(), role: Role::Admin },
        None => Authority { key: new.key().clone(), role: Role::New },
    })
}

/// Revokes what is not needed any more. It begins anew whenever this step comes for a version that is current already, and what it
/// does may be done twice. One revocation that fails stops no other.
///
/// The sweep is what guarantees that no orphan stays (promise I3). It knows no age: this version's value is immutable, so
/// no other key that was minted to replace the old version can be stored any more.
pub(super) async fn clean_up(
    invocation: &Invocation<'_>,
    promoted: Promoted<'_>,
    mut answer: StepAnswer,
) -> Result<StepAnswer, RotationError> {
    let Err(error) = run(invocation, promoted, &mut answer).await else { return Ok(answer) };
    // If the label was moved back meanwhile, or the new key is dying, more than the clean-up is missing.
    let error = match error.kind() {
        ErrorKind::CurrentMoved | ErrorKind::PendingKeyDying => error,
        _ => {
            let session = &invocation.session;
            error.after_promotion(&by_hand::finish(session.secret, session.function_arn, invocation.version_id()))
        }
    };
    Err(error.with_warnings(&answer.warnings))
}

/// What is done goes into the answer, also where it ends with an error.
async fn run(
    invocation: &Invocation<'_>,
    promoted: Promoted<'_>,
    answer: &mut StepAnswer,
) -> Result<(), RotationError> {
    let Promoted { view, new, replaced, listing, policy } = promoted;
    let listed = |key: &Credential| Some(listing.as_ref().ok()?.entry(key.key_id.as_ref())?.id.to_string());
    answer.key_id = listed(&new);
    let redelivered = matches!(replaced, Replaced::Previous(_));
    let Some(mut replaced) = resolve(invocation, view, &new, replaced).await? else {
        answer.old_key = (policy.revoke_old_key == RevokeOldKey::Immediately).then_some(OldKey::CannotTell);
        answer.warnings.push(format!(
            "Nothing was cleaned up: no version under AWSPREVIOUS tells which key this version has replaced. Compare the account's keys \
             ({}) with the secret, and revoke what is not used.",
            by_hand::list_keys(&new.account, invocation.session.host())
        ));
        return Ok(());
    };
    if redelivered {
        answer.warnings.extend(overwritten(&new, &replaced).map(|note| note.to_string()));
    }
    let before = before(invocation, view, &new, &replaced, listing.as_ref().ok()).await?;
    before.iter().for_each(|before| replaced.learn_key_id(before));
    invocation.session.learn_key_id(&view.description, &mut replaced).await?;
    answer.replaced_key_id = listed(&replaced);
    let authority = authority(view, &new)?;
    let mut work = CleanUp {
        invocation,
        view,
        new: &new,
        replaced: &replaced,
        before: before.as_ref(),
        authority,
        policy,
        moved: !redelivered,
        answer,
    };
    if redelivered && let Ok(listing) = &listing {
        work.refuse_if_dying(listing).await?;
    }
    let mut failures = Vec::new();
    if policy.revoke_old_key == RevokeOldKey::Immediately {
        if redelivered && work.old_key_is_dead().await {
            work.answer.old_key = Some(OldKey::Dead);
        } else {
            failures.extend(work.revoke_old_key(listing.as_ref().ok()).await.err());
        }
    }
    match listing {
        Ok(listing) => work.sweep(&listing, &mut failures).await,
        Err(error) => failures.push(error),
    }
    failures.into_iter().min_by_key(|error| error.kind() != ErrorKind::CurrentMoved).map_or(Ok(()), Err)
}

/// The replaced version; `None`: there is none that anything can be concluded from.
async fn resolve(
    invocation: &Invocation<'_>,
    view: &View,
    new: &Credential,
    replaced: Replaced,
) -> Result<Option<Credential>, RotationError> {
    let version = match replaced {
        Replaced::Seen(credential) => return Ok(Some(*credential)),
        Replaced::Previous(None) => return Ok(None),
        Replaced::Previous(Some(version)) => version,
    };
    // A previous version that does not parse is ignored: nothing can be concluded from it.
    let version = invocation.session.read(Which::Id(&version)).await?;
    let parse = |version| Credential::parse(&version, &view.description, PREVIOUS).ok();
    Ok(version.and_then(parse).filter(|credential| credential.account == new.account))
}

/// What the promotion may have put out of the way, as far as the two versions tell: the execution that moved the label may have been killed
/// before it could say so.
fn overwritten(new: &Credential, replaced: &Credential) -> Option<Note> {
    let fields = new.document.differing_fields(&replaced.document);
    match fields.as_slice() {
        [] => (replaced.created > new.created).then(|| Note::MayOverwriteKey(replaced.version.clone())),
        _ => Some(Note::MayOverwriteEdit(fields)),
    }
}

/// The version that was under `AWSPREVIOUS` before the promotion, whatever key of the same account it holds. It is read only where
/// something depends on it.
async fn before(
    invocation: &Invocation<'_>,
    view: &View,
    new: &Credential,
    replaced: &Credential,
    listing: Option<&Listing>,
) -> Result<Option<Credential>, RotationError> {
    let others = [&replaced.version, &new.version];
    let Some(version) = view.description.holder(PREVIOUS).filter(|version| !others.contains(version)) else {
        return Ok(None);
    };
    let suspected = Marks::unproven(&view.description.arn, version);
    let shows_up = listing.is_some_and(|listing| {
        let known = || [&new.key_id, &replaced.key_id].into_iter().flatten();
        listing.keys.iter().filter(|key| !key.id.is_among(known())).any(|key| suspected.carried_by(key).is_some())
    });
    if replaced.key_id.is_some() && !shows_up {
        return Ok(None);
    }
    let version = invocation.session.read(Which::Id(version)).await?;
    let parsed = version.and_then(|version| Credential::parse(&version, &view.description, PREVIOUS).ok());
    Ok(parsed.filter(|before| before.account == new.account))
}

/// The clean-up at work.
struct CleanUp<'a> {
    invocation: &'a Invocation<'a>,
    view: &'a View,
    new: &'a Credential,
    replaced: &'a Credential,
    /// The version that was under `AWSPREVIOUS` before.
    before: Option<&'a Credential>,
    authority: Authority,
    policy: Policy,
    /// Whether this invocation has moved `AWSCURRENT`.
    moved: bool,
    answer: &'a mut StepAnswer,
}

impl CleanUp<'_> {
    /// Where the promoted key itself is dying, the key that has replaced it is all that there is: nothing is revoked.
    async fn refuse_if_dying(&self, listing: &Listing) -> Result<(), RotationError> {
        let Self { invocation, view, new, replaced, policy, .. } = self;
        let session = &invocation.session;
        if self.standstill(&view.description).is_some() {
            return Ok(());
        }
        let marks = Marks::of(&view.description.arn, replaced, None);
        let mut facts = Facts::default();
        let dying = loop {
            let seen = Seen {
                description: &view.description,
                pending: (&new.version, new.key_id.as_ref(), new.created),
                marks: &marks,
                current: (&replaced.version, replaced.key_id.as_ref(), replaced.created),
                differing: &[],
                grace: policy.grace(),
                life: policy.life(),
                take_over_after: session.take_over_after(),
                now: session.budget.now(),
                listing: Some(listing),
                facts,
            };
            match promotion::dying(&seen) {
                Ok(dying) => break dying,
                Err(_) => {
                    let held = session.held_key_ids(&view.description, &[new, replaced]).await?;
                    facts = Facts { held: Some(held), ..Facts::default() };
                }
            }
        };
        match dying {
            None => Ok(()),
            Some(dying) => {
                let error = promoted_key_dying(session.secret, &dying.to_string());
                Err(error.current_key_dies(Some(Death::Known(dying.ends()))))
            }
        }
    }

    /// Why nothing may be revoked, as the labels are.
    fn standstill(&self, description: &Description) -> Option<String> {
        let ours = self.invocation.version_id();
        if description.holder(CURRENT) != Some(ours) {
            return Some("AWSCURRENT is not on this version any more".to_owned());
        }
        let pending = description.holder(PENDING).filter(|version| *version != ours)?;
        Some(format!("the version {pending} carries AWSPENDING"))
    }

    /// The labels as they are right before a revocation, or why there is to be none. A move that was made a moment ago may not be
    /// visible yet.
    async fn labels(&self) -> Result<Result<Description, String>, RotationError> {
        let session = &self.invocation.session;
        let mut pauses = MOVE_PAUSES.iter();
        loop {
            let description = session.function.secrets_manager.describe(&session.budget, session.secret).await;
            let description = description.map_err(|error| session.aws_failed(&error))?;
            let Some(why) = self.standstill(&description) else { return Ok(Ok(description)) };
            match pauses.next() {
                Some(&pause) if session.budget.pause(pause).await => {}
                _ if self.moved && description.holder(CURRENT) == Some(&self.replaced.version) => {
                    return Err(RotationError::after(
                        Change::Promoted,
                        ErrorKind::CurrentMoved,
                        "AWSCURRENT was moved to the new version, and the labels show it on the one before.",
                        format!("Nothing was revoked. {}", try_again(session.secret)),
                    )
                    .current_key_dies_about(estimated_death(self.new.created, self.policy)));
                }
                _ => return Ok(Err(why)),
            }
        }
    }

    /// Revokes a key, unless the labels speak against it by now. Ok: it is gone, or it was named.
    async fn revoke(&mut self, id: &KeyId, what: &str) -> Result<bool, RotationError> {
        if let Err(why) = self.labels().await? {
            self.answer.warnings.push(format!("The {what} key {id} was not revoked: {why}."));
            return Ok(false);
        }
        let session = &self.invocation.session;
        let revoked = session.revoke(&self.new.account, id, &self.authority).await;
        revoked.map_err(|error| {
            session.kosli_failed(&error, self.authority.role, &format!("revoking the {what} key {id}"))
        })?;
        self.answer.revoked_key_ids.push(id.to_string());
        Ok(true)
    }

    /// Revokes every never-used key that was minted to replace the old version, or the one before it, and that no version holds. Those
    /// that were used, or that a version has held, are named.
    async fn sweep(&mut self, listing: &Listing, failures: &mut Vec<RotationError>) {
        self.warn_of_a_part(listing).await;
        let arn = &self.view.description.arn;
        let versions: Vec<(Marks, Option<&ClaimedKeyId>)> = [Some(self.replaced), self.before]
            .into_iter()
            .flatten()
            .map(|version| (Marks::of(arn, version, None), version.key_id.as_ref()))
            .collect();
        let session = &self.invocation.session;
        let others =
            session.marks_of_others(&self.view.description, &self.known(), &self.new.account, &listing.keys).await;
        let others = others.unwrap_or_else(|error| {
            failures.push(error);
            Vec::new()
        });
        let known: Vec<ClaimedKeyId> =
            [&self.new.key_id, &self.replaced.key_id].into_iter().flatten().cloned().collect();
        // Which ids are held costs reads.
        let suspects = left_over(&listing.keys, &versions, &others, &known, &known);
        if suspects == LeftOver::default() {
            return;
        }
        let held = match self.held().await {
            Ok(Ok(held)) => held,
            Ok(Err(why)) => {
                let ids = suspects.lost.iter().chain(&suspects.in_use);
                let name = |id: &KeyId| format!("The key {id} was minted for this secret and was left alone: {why}.");
                return self.answer.warnings.extend(ids.map(name));
            }
            Err(error) => return failures.push(error),
        };
        let found = left_over(&listing.keys, &versions, &others, &held.at_any_time, &held.now);
        for id in &found.lost {
            match self.revoke(id, "lost").await {
                Ok(true) => {
                    info!(key_id = %id, "swept up a key that was minted for this rotation and that no version holds");
                }
                Ok(false) => {}
                Err(error) => failures.push(error),
            }
        }
        for id in &found.in_use {
            self.answer.warnings.push(format!(
                "The key {id} was minted for this secret and may be in use, and no version holds it any more: it was not touched. \
                 Revoke it in Kosli once it is not used any more."
            ));
        }
    }

    /// The versions that were read.
    fn known(&self) -> Vec<&Credential> {
        [Some(self.new), Some(self.replaced), self.before].into_iter().flatten().collect()
    }

    /// Which ids labelled versions hold, in the view from before the promotion and now.
    async fn held(&self) -> Result<Result<Held, String>, RotationError> {
        let session = &self.invocation.session;
        let labels = match self.labels().await? {
            Ok(labels) => labels,
            Err(why) => return Ok(Err(why)),
        };
        let known = self.known();
        let mut at_any_time = session.held_key_ids(&self.view.description, &known).await?;
        let in_place = known.into_iter().filter(|known| is_in_place(&labels, &known.version));
        let now = session.held_key_ids(&labels, &in_place.collect::<Vec<_>>()).await?;
        at_any_time.extend(now.iter().cloned());
        Ok(Ok(Held { at_any_time, now }))
    }

    async fn warn_of_a_part(&mut self, listing: &Listing) {
        let session = &self.invocation.session;
        if listing.entry(self.new.key_id.as_ref()).is_some() {
            return;
        }
        let Ok(Some((id, entry))) = session.look_up(self.new, &self.authority, Some(listing)).await else { return };
        self.answer.warnings.push(match entry {
            Some(_) => format!(
                "Kosli's list of keys does not show the new key {id}, which exists: the list is not whole, and a lost key of this \
                 rotation would not be found. Compare the account's never-used keys in Kosli with the secret."
            ),
            None => format!(
                "Kosli does not find the new key {id} on the service account {}, which the secret names by now, so a lost key of this \
                 rotation would not be found. If the name was changed while the secret was rotated, put it right, and compare the \
                 never-used keys of the account that it named before with the secret.",
                self.new.account
            ),
        });
    }

    /// Whether Kosli refuses the key of the version under AWSPREVIOUS. There is nothing to revoke then: it was, or a person has
    /// written a version whose id is another key's.
    async fn old_key_is_dead(&self) -> bool {
        let accepted =
            self.invocation.session.kosli(self.replaced.key()).accepts(&self.replaced.account.org, &[]).await;
        matches!(accepted, Ok(Acceptance::Dead))
    }

    /// Revokes the old key now, and looks whether it is dead.
    async fn revoke_old_key(&mut self, listing: Option<&Listing>) -> Result<(), RotationError> {
        let (new, replaced) = (self.new, self.replaced);
        self.answer.old_key = Some(OldKey::CannotTell);
        if replaced.key_id.is_none() || new.key_id.is_none() {
            let why = "The old key was not revoked: nothing says which id it has. Revoke it in Kosli.";
            self.answer.warnings.push(why.to_owned());
            return Ok(());
        }
        if replaced.key_id == new.key_id || replaced.key().same(new.key()) {
            let why = "The old key was not revoked: Kosli gave its successor the same id, and revoking that would end the new key. The \
                       old one ends with its grace period.";
            self.answer.warnings.push(why.to_owned());
            return Ok(());
        }
        // In a rotation the new version is the younger one. Otherwise a person has written the other: with the key that was replaced in it,
        // which the promotion has looked into, and which is older than its successor or hidden in its grace period; or with another, or
        // has gone back from it. Where the step comes again, the mark alone proves which version was replaced: a list that shows another
        // mark speaks against it, whichever version is the younger one.
        let marks = Marks::of(&self.view.description.arn, replaced, None);
        let was_replaced = |listing: &Listing| {
            let entry = |key: &Credential| listing.entry(key.key_id.as_ref());
            match (entry(replaced), entry(new)) {
                (None, _) if self.moved => true,
                (Some(old), Some(new)) if self.moved => old.created_at < new.created_at,
                (_, new) => new.is_some_and(|new| marks.carried_by(new).is_some()),
            }
        };
        let is_listed = |listing: &&Listing| listing.entry(new.key_id.as_ref()).is_some();
        let is_doubtful = replaced.created > new.created || (!self.moved && listing.as_ref().is_some_and(is_listed));
        if is_doubtful && !listing.is_some_and(was_replaced) {
            self.answer.warnings.push(format!(
                "The key of the version {} was not revoked: nothing shows that the key which is current now was minted to replace it. \
                 Revoke it in Kosli once it is not used any more.",
                replaced.version
            ));
            return Ok(());
        }
        let Some(old_id) = &self.invocation.session.proven_id(replaced, listing).await? else { return Ok(()) };
        self.answer.replaced_key_id = Some(old_id.to_string());
        if !self.revoke(old_id, "old").await? {
            return Ok(());
        }
        info!(key_id = %old_id, "revoked the old key");
        let verdict = proof_of_death(self.invocation, replaced).await;
        self.answer.old_key = Some(verdict);
        match verdict {
            OldKey::Dead => info!(key_id = %old_id, old_key = "dead", "Kosli refuses the old key"),
            OldKey::Alive | OldKey::CannotTell => {
                count(&self.invocation.session.tally.old_key_alive);
                warn!(key_id = %old_id, old_key = verdict.word(), "the old key was revoked and is not proven dead");
            }
        }
        if verdict == OldKey::Alive {
            self.answer.warnings.push(format!(
                "Kosli still accepts the old key {old_id} after its revocation. Look at it in Kosli, and rotate again if it was leaked."
            ));
        }
        Ok(())
    }
}

/// Ids that labelled versions hold.
struct Held {
    /// In the view from before the promotion, or now.
    at_any_time: Vec<ClaimedKeyId>,
    now: Vec<ClaimedKeyId>,
}

/// Uses the old key until Kosli refuses it, for some seconds.
async fn proof_of_death(invocation: &Invocation<'_>, replaced: &Credential) -> OldKey {
    let mut pauses = DEATH_PROOF_PAUSES.iter();
    loop {
        let verdict = match invocation.session.kosli(replaced.key()).accepts(&replaced.account.org, &[]).await {
            Ok(Acceptance::Dead) => return OldKey::Dead,
            Ok(Acceptance::Accepted) => OldKey::Alive,
            Err(KosliError::Refused { .. } | KosliError::NotSent(_) | KosliError::Unclear(_)) => OldKey::CannotTell,
        };
        match pauses.next() {
            Some(&pause) if invocation.session.budget.pause(pause).await => {}
            _ => return verdict,
        }
    }
}
