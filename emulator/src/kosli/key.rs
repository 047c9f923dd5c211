//! An API key, and the whole of its life.

use std::fmt;
use std::time::SystemTime;

/// An API key of a service account. Kosli itself keeps only a hash of the value.
#[derive(Clone)]
pub struct Key {
    /// Names the key in paths and in the list. Unique, except for what a rotation leaves behind under
    /// [`SuccessorId::Same`](super::SuccessorId::Same).
    pub id: String,
    /// What authenticates.
    pub value: String,
    /// The organization.
    pub org: String,
    /// The service account.
    pub account: String,
    /// What the person or program that created it wrote; a rotation hands it on.
    pub description: String,
    /// When it was minted.
    pub created_at: SystemTime,
    /// What the list says about that.
    pub shown_as_created: ShownCreation,
    /// Its own expiry. `None`, never, is only possible in a set-up: Kosli gives every key an end.
    pub expires_at: Option<SystemTime>,
    /// When it was first rotated.
    pub rotated_at: Option<SystemTime>,
    /// When the grace period that a rotation gave it ends.
    pub grace_ends_at: Option<SystemTime>,
    /// When it was revoked by a call or a person. The end of a grace period or of its life does not count.
    pub revoked_at: Option<SystemTime>,
    /// Every request that it has authenticated, in order.
    pub used_at: Vec<SystemTime>,
    /// When the key was last used that it has taken the place of, as far as the list goes on to say so
    /// ([`CarriedOver`](super::CarriedOver)).
    pub carried_used_at: Option<SystemTime>,
    /// Where it comes from.
    pub minted_by: MintedBy,
}

impl Key {
    /// The part of its value that is secret: all of it, but for the id that some values begin with.
    pub fn secret_part(&self) -> &str {
        self.value.strip_prefix(&*self.id).map_or(&*self.value, |rest| rest.trim_start_matches('.'))
    }

    /// When it was last used, whatever the list says.
    pub fn last_used_at(&self) -> Option<SystemTime> {
        self.used_at.last().copied()
    }

    /// The instant at which it dies, or died: its expiry, the end of its grace period or its revocation.
    pub fn dies_at(&self) -> Option<SystemTime> {
        [self.expires_at, self.grace_ends_at, self.revoked_at].into_iter().flatten().min()
    }

    /// Whether it was minted by then and had not died.
    pub fn is_live_at(&self, time: SystemTime) -> bool {
        self.created_at <= time && self.dies_at().is_none_or(|death| time < death)
    }

    /// Whether it was live then, but had been rotated.
    pub fn is_in_grace_at(&self, time: SystemTime) -> bool {
        self.is_live_at(time) && self.rotated_at.is_some_and(|rotated| rotated <= time)
    }
}

/// Everything but the value, so that a failing test may print it.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .field("account", &format_args!("{}/{}", self.org, self.account))
            .field("description", &self.description)
            .field("created_at", &self.created_at)
            .field("expires_at", &self.expires_at)
            .field("grace_ends_at", &self.grace_ends_at)
            .field("revoked_at", &self.revoked_at)
            .field("last_used_at", &self.last_used_at())
            .field("minted_by", &self.minted_by)
            .finish_non_exhaustive()
    }
}

/// What stands in the list as `created_at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShownCreation {
    /// This instant.
    At(SystemTime),
    /// `0`.
    Zero,
    /// `null`.
    Null,
}

/// What minted a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MintedBy {
    /// The call that creates a key.
    Create,
    /// A rotation.
    Rotate {
        /// The id of the key that was rotated.
        of: String,
    },
    /// A test or a person, through [`Kosli::add_key`](super::Kosli::add_key).
    SetUp,
}
