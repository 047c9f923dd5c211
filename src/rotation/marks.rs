//! Which keys on the account were minted to replace a version: what the mint, the sweep and the report recognize a lost key by.

use std::time::{Duration, SystemTime};

use super::credential::Credential;
use crate::event::VersionId;
use crate::kosli::KeyEntry;
use crate::marker::{Attempt, Mark};

/// By how much Kosli's clock may be behind Secrets Manager's, when a key's creation is compared with a version's.
pub(super) const CLOCK_TOLERANCE: Duration = Duration::from_secs(300);

/// The marks by which keys that were minted to replace a version are recognized.
pub(super) struct Marks(Vec<(Mark, SystemTime)>);

impl Marks {
    /// The marks of keys that replace this version. Where the version before it holds the same key, a field was edited
    /// meanwhile, and what was minted to replace that one was minted to replace this one.
    pub(super) fn of(arn: &str, current: &Credential, previous: Option<&Credential>) -> Self {
        let same_key = |other: &&Credential| {
            other.account == current.account
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
    pub(super) fn new_key(&self) -> Option<Mark> {
        self.0.first().map(|(mark, _)| *mark)
    }
}

/// Whether a key's description is one that the successor of `replaced` may have: the same, where that is listed and has one.
pub(super) fn may_succeed(replaced: Option<&KeyEntry>, key: &KeyEntry) -> bool {
    replaced.is_none_or(|replaced| replaced.description.is_empty() || replaced.description == key.description)
}
