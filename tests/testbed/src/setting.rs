//! What distinguishes one world from another.

use emulator::kosli::{KeyManagers, Role, Switches};
use emulator::secrets_manager::Staleness;
use serde_json::json;

use crate::values::{ACCOUNT, ORG};

/// What distinguishes one world from another.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Says which it is, in the report of a failure.
    pub name: String,
    /// Kosli's answers to the open questions.
    pub switches: Switches,
    /// How late Secrets Manager's readers see a write.
    pub staleness: Staleness,
    /// Whether there is an admin secret.
    pub admin: bool,
    /// Whether the old key is revoked at once.
    pub revoke_immediately: bool,
    /// What the secret holds.
    pub shape: Shape,
    /// Further variables of the function; they win over the others.
    pub variables: Vec<(String, String)>,
    /// Whether the account has other keys too.
    pub strangers: bool,
}

/// The shape of the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// JSON with `api_key`, organization, account and key id.
    ApiKey,
    /// The same with the names of the environment variables.
    Environment,
    /// JSON without a field for the key id.
    WithoutId,
    /// JSON with `api_key` and nothing else.
    ApiKeyAlone,
    /// JSON with `KOSLI_API_TOKEN` and nothing else.
    EnvironmentAlone,
    /// The key's value alone.
    Plain,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            name: "default".to_owned(),
            switches: Switches::default(),
            staleness: Staleness::None,
            admin: true,
            revoke_immediately: false,
            shape: Shape::ApiKey,
            variables: Vec::new(),
            strangers: true,
        }
    }
}

impl Setting {
    /// The role of the secret's own account. Kosli lets an Admin and the account's creator manage its keys, and no account
    /// creates itself: where there is no admin key, the own key has to be an Admin's, or it may do nothing. But where somebody
    /// else may as well, or the creator may not, the own key has no role that would hide it.
    pub(crate) fn account_role(&self) -> Role {
        let as_documented = self.switches.key_managers == KeyManagers::default();
        if !self.admin && as_documented { Role::Admin } else { Role::Member }
    }
}

impl Shape {
    /// A value in this shape, of the key with this id.
    pub fn value(self, id: &str, value: &str) -> String {
        match self {
            Self::ApiKey => json!({"note": "ours", "org": ORG, "service_account": ACCOUNT, "key_id": id,
                                    "api_key": value, "number": 7})
            .to_string(),
            Self::Environment => json!({"KOSLI_ORG": ORG, "KOSLI_SERVICE_ACCOUNT": ACCOUNT,
                                         "KOSLI_API_KEY_ID": id, "KOSLI_API_TOKEN": value})
            .to_string(),
            Self::WithoutId => json!({"KOSLI_ORG": ORG, "KOSLI_API_TOKEN": value}).to_string(),
            Self::ApiKeyAlone => json!({"api_key": value}).to_string(),
            Self::EnvironmentAlone => json!({"KOSLI_API_TOKEN": value}).to_string(),
            Self::Plain => value.to_owned(),
        }
    }

    /// The tags of a secret whose value does not say all that there is to say.
    pub(crate) fn tags(self, id: &str) -> Vec<(&'static str, &str)> {
        let mut tags = Vec::new();
        if !matches!(self, Self::ApiKey | Self::Environment) {
            tags.push(("kosli:service-account", ACCOUNT));
            tags.push(("kosli:key-id", id));
        }
        if matches!(self, Self::ApiKeyAlone | Self::EnvironmentAlone | Self::Plain) {
            tags.push(("kosli:org", ORG));
        }
        tags
    }
}
