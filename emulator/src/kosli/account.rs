//! A service account, and its role.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// A service account's role in its organization, the least powerful first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// May read.
    Reader,
    /// May report snapshots of environments.
    Snapshotter,
    /// May report and read.
    Member,
    /// May manage the keys of every account.
    Admin,
}

impl Role {
    const ALL: [Self; 4] = [Self::Admin, Self::Member, Self::Snapshotter, Self::Reader];

    /// The role with this name: `admin`, `member`, `snapshotter`, `reader`.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == name)
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Member => "member",
            Self::Snapshotter => "snapshotter",
            Self::Reader => "reader",
        }
    }
}

/// What is known of a service account besides its keys.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) role: Role,
    pub(super) description: String,
    pub(super) created_at: SystemTime,
    /// The account of the same organization whose key has made it. `None`: a person did.
    pub(super) created_by: Option<String>,
}

impl Account {
    /// As a person makes it.
    pub(super) fn new(role: Role, created_at: SystemTime) -> Self {
        Self { role, description: String::new(), created_at, created_by: None }
    }

    pub(super) fn set_creator(&mut self, account: &str) {
        self.created_by = Some(account.to_owned());
    }

    /// Whether this account's key has made it.
    pub(super) fn was_created_by(&self, account: &str) -> bool {
        self.created_by.as_deref() == Some(account)
    }

    pub(super) fn shown(&self, name: &str) -> Value {
        json!({
            "name": name,
            "description": self.description,
            "privilege": self.role.as_str(),
            "created_at": self.created_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
        })
    }
}
