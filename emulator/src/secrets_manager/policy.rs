//! `PutResourcePolicy`, `GetResourcePolicy` and `DeleteResourcePolicy`. A policy is kept and shown, and refuses no call, because
//! the emulator knows no callers.

use serde_json::{Value, json};

use super::SecretsManager;
use super::answer::{Answer, Error};
use super::operations::named;
use super::wire::{OfSecret, PutResourcePolicy, check_length};

/// The longest policy (service model, `NonEmptyResourcePolicyType`).
const LONGEST: usize = 20_480;

impl SecretsManager {
    pub(super) fn put_resource_policy(&mut self, input: PutResourcePolicy) -> Answer {
        check_length("resourcePolicy", &input.resource_policy, 1, LONGEST)?;
        // The types are the API reference's, the texts are ours: no recording of them was found.
        let policy: Value = serde_json::from_str(&input.resource_policy)
            .ok()
            .filter(|policy: &Value| policy.get("Statement").is_some())
            .ok_or_else(|| Error {
                kind: "MalformedPolicyDocumentException",
                message: "The resource policy is not a JSON policy with statements.".to_owned(),
            })?;
        if input.block_public_policy == Some(true) && is_public(&policy) {
            return Err(Error {
                kind: "PublicPolicyException",
                message: "The resource policy gives broad access to the secret, and BlockPublicPolicy is true."
                    .to_owned(),
            });
        }
        let ((), secret) = self.change(&input.secret_id, |secret, _| {
            secret.resource_policy = Some(input.resource_policy);
            Ok(())
        })?;
        Ok(named(secret, json!({})))
    }

    /// Without a policy the answer has no such field.
    pub(super) fn get_resource_policy(&mut self, input: &OfSecret) -> Answer {
        let secret = self.find_live(&input.secret_id)?;
        Ok(named(secret, json!({ "ResourcePolicy": secret.resource_policy })))
    }

    pub(super) fn delete_resource_policy(&mut self, input: &OfSecret) -> Answer {
        let ((), secret) = self.change(&input.secret_id, |secret, _| {
            secret.resource_policy = None;
            Ok(())
        })?;
        Ok(named(secret, json!({})))
    }
}

/// Whether a statement allows something to every principal under no condition. AWS's own check knows more ways of being open.
fn is_public(policy: &Value) -> bool {
    let statements = match &policy["Statement"] {
        Value::Array(statements) => statements.as_slice(),
        statement => std::slice::from_ref(statement),
    };
    let everybody = |principal: &Value| match principal {
        Value::Array(principals) => principals.iter().any(|principal| principal == "*"),
        principal => principal == "*",
    };
    statements.iter().any(|statement| {
        let principal = &statement["Principal"];
        statement["Effect"] == "Allow"
            && statement.get("Condition").is_none()
            && (everybody(principal) || everybody(&principal["AWS"]))
    })
}
