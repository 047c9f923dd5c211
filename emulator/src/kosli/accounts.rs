//! Service accounts: made, shown and removed by the API's calls.
//!
//! The form of the answers is that of the client's fixtures (`service_account.json`, `listed_service_accounts.json`,
//! `delete_success.json`). Who may make an account, with which role, and who may manage it from then on, is what the page
//! about roles and the Terraform provider's documentation say.

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::account::{Account, Role};
use super::answer::{Invalid, Refusal};
use super::request::{Route, object};
use super::{Caller, Kosli};

impl Kosli {
    pub(super) fn create_account(
        &mut self,
        route: &Route,
        caller: &Caller,
        body: &Bytes,
    ) -> Result<(StatusCode, Value), Refusal> {
        let (name, role, description) = account_request(body)?;
        if role > caller.role {
            return Err(Refusal::forbidden());
        }
        let place = (route.org.clone(), name.clone());
        if self.accounts.contains_key(&place) {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "A service account with this name already exists"));
        }
        let created_by = Some(caller.account.clone());
        let account = Account { description, created_by, ..Account::new(role, self.clock.now()) };
        let answer = account.shown(&name);
        self.accounts.insert(place, account);
        Ok((StatusCode::CREATED, answer))
    }

    pub(super) fn list_accounts(&self, route: &Route) -> Value {
        let of_org = self.accounts.iter().filter(|((org, _), _)| *org == route.org);
        of_org.map(|((_, name), account)| account.shown(name)).collect()
    }

    /// The account of the route, if there is one.
    pub(super) fn get_account(&self, route: &Route) -> Result<Value, Refusal> {
        let account = self.account(route).ok_or_else(Refusal::account_not_found)?;
        Ok(account.shown(&route.account))
    }

    /// Its keys are gone at once.
    pub(super) fn delete_account(&mut self, route: &Route) -> Value {
        self.remove_account(&route.org, &route.account);
        json!("OK")
    }

    pub(super) fn account(&self, route: &Route) -> Option<&Account> {
        self.accounts.get(&(route.org.clone(), route.account.clone()))
    }
}

/// The body of a call that makes an account: its name, its role and its description. Every field is checked before it is
/// refused.
fn account_request(body: &Bytes) -> Result<(String, Role, String), Refusal> {
    let fields = object(body)?;
    let text = |field: &str| fields.get(field).and_then(Value::as_str);
    let name = text("name").filter(|name| Kosli::is_account_name(name));
    let role = text("privilege").and_then(Role::named);
    let description = match fields.get("description") {
        None | Some(Value::Null) => Some(""),
        Some(description) => description.as_str(),
    };
    match (name, role, description) {
        (Some(name), Some(role), Some(description)) => Ok((name.to_owned(), role, description.to_owned())),
        (name, role, description) => {
            let invalid = |is_valid: bool, field, message: &str, kind| {
                let missing = !fields.contains_key(field);
                let error = || if missing { Invalid::missing(field) } else { Invalid::new(field, message, kind) };
                (!is_valid).then(error)
            };
            Err(Refusal::invalid([
                invalid(
                    name.is_some(),
                    "name",
                    "must be 1 to 64 letters, digits and hyphens",
                    "string_pattern_mismatch",
                ),
                invalid(role.is_some(), "privilege", "must be admin, member, snapshotter or reader", "enum"),
                invalid(description.is_some(), "description", "Input should be a valid string", "string_type"),
            ]))
        }
    }
}
