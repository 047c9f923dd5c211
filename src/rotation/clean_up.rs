//! The clean-up after the promotion: the revocation of the old key, and the sweep.

use std::time::Duration;

use tracing::{info, warn};

use super::credential::Credential;
use super::failures::Role;
use super::invocation::{Invocation, OldKey, StepAnswer, View};
use super::marks::{Marks, may_succeed};
use super::session::Authority;
use crate::config::{Policy, RevokeOldKey};
use crate::error::RotationError;
use crate::event::VersionId;
use crate::identity::KeyId;
use crate::kosli::{Acceptance, KosliError, Listing};
use crate::metrics::count;
use crate::secrets_manager::{PENDING, PREVIOUS, Which};

/// After a revocation, Kosli may go on accepting the key for some seconds.
const DEATH_PROOF_PAUSES: [Duration; 5] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];

/// What was promoted, and what the clean-up after it goes by.
pub(super) struct Promoted<'a> {
    /// The view from before the promotion; where the step comes again, from now.
    pub(super) view: &'a View,
    /// The new current version.
    pub(super) new: Credential,
    /// The version that it has replaced.
    pub(super) replaced: Replaced,
    pub(super) policy: Policy,
}

/// The version that was current before.
pub(super) enum Replaced {
    /// It was seen right before the promotion.
    Seen(Credential),
    /// This step comes again: it is the version under `AWSPREVIOUS`, if there is one.
    Previous(Option<VersionId>),
}

/// Revokes what nobody needs any more. It begins anew whenever this step comes for a version that is current already, and
/// what it does may be done twice.
///
/// The sweep is what guarantees that no orphan stays (promise I3). It knows no age: this version's value is immutable, so
/// no other key that was minted to replace the old version can be stored any more.
pub(super) async fn clean_up(
    invocation: &Invocation<'_>,
    promoted: Promoted<'_>,
    mut answer: StepAnswer,
) -> Result<StepAnswer, RotationError> {
    let Promoted { view, new, replaced, policy } = promoted;
    answer.key_id = new.key_id.as_ref().map(ToString::to_string);
    let incomplete = |error: RotationError| error.after_promotion();
    let redelivered = matches!(replaced, Replaced::Previous(_));
    let mut replaced = match replaced {
        Replaced::Seen(credential) => credential,
        Replaced::Previous(None) => return Ok(answer),
        Replaced::Previous(Some(version)) => {
            let version = invocation.session.read(Which::Id(&version)).await.map_err(incomplete)?;
            // A previous version that does not parse is ignored: nothing can be concluded from it.
            let Some(credential) = version
                .and_then(|version| {
                    Credential::parse_replaced(&version, &view.description, invocation.version_id(), PREVIOUS).ok()
                })
                .filter(|credential| credential.account == new.account)
            else {
                return Ok(answer);
            };
            credential
        }
    };
    // createSecret could ask whether the tag is stale. Here, only that there was no version before proves that it is not.
    let is_first = !redelivered && view.description.holder(PREVIOUS).is_none_or(|version| *version == replaced.version);
    if replaced.key_id_from_tag && !is_first {
        replaced.key_id = None;
    }
    if replaced.key_id.is_none()
        && let Some(before) = view.description.holder(PREVIOUS).filter(|version| **version != replaced.version)
        && let Some(version) = invocation.session.read(Which::Id(before)).await.map_err(incomplete)?
        && let Ok(before) = Credential::parse(&version, &view.description, PREVIOUS)
    {
        replaced.learn_key_id(&before);
    }
    answer.replaced_key_id = replaced.key_id.as_ref().map(ToString::to_string);

    // The admin secret may be this very secret: its key is then the new one, for the old one may be in its grace period.
    let admin = view.admin.as_ref().map_err(|error| incomplete(error.clone()))?;
    let admin = admin.as_ref().filter(|admin| admin.secret_arn != view.description.arn);
    let authority = match admin {
        Some(admin) => Authority { key: admin.key.clone(), role: Role::Admin },
        None => Authority { key: new.key().clone(), role: Role::New },
    };
    let swept = sweep(invocation, view, &new, &replaced, &authority, &mut answer.warnings).await.map_err(incomplete)?;
    answer.revoked_key_ids.extend(swept.iter().map(ToString::to_string));
    if policy.revoke_old_key == RevokeOldKey::Immediately {
        if redelivered && is_dead(invocation, &replaced).await {
            answer.old_key = Some(OldKey::Dead);
            return Ok(answer);
        }
        revoke_old_key(invocation, view, &new, &replaced, &authority, &mut answer).await.map_err(incomplete)?;
    }
    Ok(answer)
}

/// Lists once more and revokes every never-used key that was minted to replace the old version and that no version holds.
async fn sweep(
    invocation: &Invocation<'_>,
    view: &View,
    new: &Credential,
    replaced: &Credential,
    authority: &Authority,
    warnings: &mut Vec<String>,
) -> Result<Vec<KeyId>, RotationError> {
    let listing = invocation.session.list(&new.account, authority).await?;
    if let Some(id) = &new.key_id
        && listing.keys.iter().all(|key| key.id != *id)
        && matches!(invocation.session.kosli(&authority.key).get(&new.account, id).await, Ok(Some(_)))
    {
        warnings.push(format!(
            "Kosli's list of keys does not show the new key {id}, which exists: the list is not whole, and a lost key of this \
             rotation would not be found. Compare the account's never-used keys in Kosli with the secret."
        ));
    }
    let old = replaced.key_id.as_ref();
    let held: Vec<KeyId> = new.key_id.iter().cloned().collect();
    let mut marks = Marks::of(&view.description.arn, replaced, None);
    // The version before the replaced one counts where it holds the same key. It is read only if one of its keys shows up.
    if let Some(before) = view.description.holder(PREVIOUS).filter(|version| **version != replaced.version)
        && !orphans(&listing, &Marks::unproven(&view.description.arn, before), old, &held).is_empty()
        && let Some(version) = invocation.session.read(Which::Id(before)).await?
        && let Ok(before) = Credential::parse(&version, &view.description, PREVIOUS)
    {
        marks = Marks::of(&view.description.arn, replaced, Some(&before));
    }
    // Which ids are held costs reads.
    if orphans(&listing, &marks, old, &held).is_empty() {
        return Ok(Vec::new());
    }
    let held = invocation.session.held_key_ids(&view.description, &[new, replaced]).await?;
    let orphans = orphans(&listing, &marks, old, &held);
    for id in &orphans {
        invocation.session.revoke(&new.account, id, authority).await.map_err(|error| {
            invocation.session.kosli_failed(&error, authority.role, &format!("revoking the lost key {id}"))
        })?;
        info!(key_id = %id, "swept up a key that was minted for this rotation and that nobody holds");
    }
    Ok(orphans)
}

/// The never-used keys on the list that were minted to replace the old version and that no version holds; `old` is that version's
/// key, and `held` are the ids that are not touched whatever their mark.
fn orphans(listing: &Listing, marks: &Marks, old: Option<&KeyId>, held: &[KeyId]) -> Vec<KeyId> {
    let old_entry = old.and_then(|id| listing.keys.iter().find(|key| key.id == *id));
    let orphans = listing.keys.iter().filter(|key| {
        old != Some(&key.id)
            && !held.contains(&key.id)
            && may_succeed(old_entry, key)
            && marks.attempt_of(key).is_some()
    });
    orphans.map(|key| key.id.clone()).collect()
}

/// Whether Kosli refuses the key of the version under AWSPREVIOUS. There is nothing to revoke then: it was, or somebody has
/// written a version whose id is another key's.
async fn is_dead(invocation: &Invocation<'_>, replaced: &Credential) -> bool {
    let accepted = invocation.session.kosli(replaced.key()).accepts(&replaced.account.org, &[]).await;
    matches!(accepted, Ok(Acceptance::Dead))
}

/// Revokes the old key now, and looks whether it is dead.
async fn revoke_old_key(
    invocation: &Invocation<'_>,
    view: &View,
    new: &Credential,
    replaced: &Credential,
    authority: &Authority,
    answer: &mut StepAnswer,
) -> Result<(), RotationError> {
    let (Some(old_id), Some(new_id)) = (&replaced.key_id, &new.key_id) else {
        answer.old_key = Some(OldKey::CannotTell);
        answer
            .warnings
            .push("The old key was not revoked: nothing says which id it has. Revoke it in Kosli.".to_owned());
        return Ok(());
    };
    if old_id == new_id || replaced.key().same(new.key()) {
        answer.old_key = Some(OldKey::CannotTell);
        answer.warnings.push(format!(
            "The old key was not revoked: Kosli gave its successor the same id {old_id}, and revoking that would end the new \
             key. The old one ends with its grace period."
        ));
        return Ok(());
    }
    // Only where this step comes again: somebody may have staged the old key meanwhile, in order to go back to it.
    if let Some(pending) = view.description.holder(PENDING).filter(|version| *version != invocation.version_id())
        && let Some(version) = invocation.session.read(Which::Id(pending)).await?
        && let Ok(pending) = Credential::parse(&version, &view.description, PENDING)
        && (pending.key_id.as_ref() == Some(old_id) || pending.key().same(replaced.key()))
    {
        answer.old_key = Some(OldKey::CannotTell);
        answer.warnings.push(format!(
            "The old key {old_id} was not revoked: the version {} under AWSPENDING holds it.",
            pending.version
        ));
        return Ok(());
    }
    invocation.session.revoke(&new.account, old_id, authority).await.map_err(|error| {
        invocation.session.kosli_failed(&error, authority.role, &format!("revoking the old key {old_id}"))
    })?;
    info!(key_id = %old_id, "revoked the old key");
    answer.revoked_key_ids.push(old_id.to_string());
    answer.old_key = Some(proof_of_death(invocation, replaced).await);
    match answer.old_key {
        Some(OldKey::Dead) => info!(key_id = %old_id, old_key = "dead", "Kosli refuses the old key"),
        Some(verdict) => {
            count(&invocation.session.tally.old_key_alive);
            warn!(key_id = %old_id, old_key = verdict.word(), "the old key was revoked and is not proven dead");
        }
        None => {}
    }
    if answer.old_key == Some(OldKey::Alive) {
        answer.warnings.push(format!(
            "Kosli still accepts the old key {old_id} after its revocation. Look at it in Kosli, and rotate again if it was leaked."
        ));
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::clock::from_epoch_seconds;
    use crate::kosli::KeyEntry;
    use crate::marker::{Attempt, Mark};

    const ARN: &str = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:kosli-AbCdEf";
    const NOW: u64 = 1_800_000_000;

    fn id(id: &str) -> KeyId {
        KeyId::parse(id).expect("valid")
    }

    /// A key with the mark of a version, never used.
    fn key(name: &str, version: &str, description: &str) -> KeyEntry {
        let now = from_epoch_seconds(NOW);
        let mark = Mark::of(ARN, &VersionId::trusted(version));
        KeyEntry {
            id: id(name),
            description: description.to_owned(),
            created_at: now,
            expires_at: Some(mark.expires_at(Attempt::fresh(&[]), now, Duration::from_secs(90 * 86_400))),
            last_used_at: None,
        }
    }

    #[test]
    fn swept_is_what_carries_the_mark_and_was_never_used_and_is_called_as_the_old_key_and_is_not_held() {
        let old = KeyEntry { last_used_at: Some(SystemTime::UNIX_EPOCH), ..key("old", "before", "ci") };
        let used = KeyEntry { last_used_at: Some(from_epoch_seconds(NOW)), ..key("used", "v1", "ci") };
        let endless = KeyEntry { expires_at: None, ..key("endless", "v1", "ci") };
        let marks = Marks::unproven(ARN, &VersionId::trusted("v1"));
        for (listed, held, expected) in [
            (vec![key("lost", "v1", "ci")], &[][..], &["lost"][..]),
            (vec![key("lost", "v1", "ci"), key("late", "v1", "ci")], &[], &["lost", "late"]),
            (vec![key("lost", "v1", "ci"), key("late", "v1", "ci")], &["late"], &["lost"]),
            (vec![key("new", "v1", "ci")], &["new"], &[]),
            (vec![key("old", "v1", "ci")], &[], &[]),
            (vec![key("other-version", "v2", "ci")], &[], &[]),
            (vec![key("other-name", "v1", "deployments")], &[], &["other-name"]),
            (vec![old.clone(), key("other-name", "v1", "deployments")], &[], &[]),
            (vec![old.clone(), key("lost", "v1", "ci")], &[], &["lost"]),
            (vec![old, used, endless], &[], &[]),
        ] {
            let listing = Listing { keys: listed, odd: 0, at: from_epoch_seconds(NOW) };
            let held: Vec<KeyId> = held.iter().map(|name| id(name)).collect();
            let found = orphans(&listing, &marks, Some(&id("old")), &held);
            assert_eq!(found, expected.iter().map(|name| id(name)).collect::<Vec<_>>(), "{:?}", listing.keys);
        }
    }
}
