//! A version's value together with whom it belongs to.

use std::time::SystemTime;

use crate::api_key::ApiKey;
use crate::by_hand;
use crate::document::Document;
use crate::error::{ErrorKind, RotationError};
use crate::event::{SecretId, VersionId};
use crate::identity::{Account, ClaimedKeyId, KeyId, Name};
use crate::secrets_manager::{CURRENT, Description, PREVIOUS, Version};

/// The prefix of the staging label that keeps the key id of a value without a field for it.
pub const KEY_ID_LABEL: &str = "kosli-key-id:";

/// The tags that name what the value does not.
const ORG_TAG: &str = "kosli:org";
const SERVICE_ACCOUNT_TAG: &str = "kosli:service-account";
const KEY_ID_TAG: &str = "kosli:key-id";

/// A version of the secret, parsed: a key and whose it is.
#[derive(Debug)]
pub struct Credential {
    /// The version.
    pub version: VersionId,
    /// When the version was made.
    pub created: SystemTime,
    /// The value.
    pub document: Document,
    /// Whose key it is.
    pub account: Account,
    /// The key's id, where the value, a label or a tag names it.
    pub key_id: Option<ClaimedKeyId>,
    /// Nothing but the tag names it.
    pub key_id_from_tag: bool,
}

impl Credential {
    /// Parses a version that a rotation of ours has made, or that is only compared: its key id is in the value or on a label.
    ///
    /// # Errors
    /// What is wrong with the value or its identity; `role` names the version.
    pub fn parse(version: &Version, description: &Description, role: &str) -> Result<Self, RotationError> {
        let invalid = |what: String| {
            RotationError::before_any_change(
                ErrorKind::InvalidSecret,
                format!("The value under {role} {what}."),
                "The README describes the three shapes of a secret. Correct the value, then rotate again.",
            )
        };
        let Some(value) = version.value.clone() else {
            return Err(invalid("is binary, and only strings are supported".to_owned()));
        };
        let document = Document::parse(value).map_err(|error| invalid(error.to_string()))?;
        let tag = |name: &str| description.tags.get(name).map(String::as_str);
        let account = Account {
            org: name(
                document.key(),
                document.org(),
                tag(ORG_TAG),
                "organization",
                ["org", "KOSLI_ORG", ORG_TAG],
                role,
            )?,
            name: name(
                document.key(),
                document.service_account(),
                tag(SERVICE_ACCOUNT_TAG),
                "service account",
                ["service_account", "KOSLI_SERVICE_ACCOUNT", SERVICE_ACCOUNT_TAG],
                role,
            )?,
        };
        let mut labels = version.labels.iter().filter_map(|label| label.strip_prefix(KEY_ID_LABEL));
        let (labelled, second) = (labels.next(), labels.next());
        if second.is_some() && document.key_id().is_none() {
            let secret = SecretId::trusted(&description.arn);
            return Err(RotationError::before_any_change(
                ErrorKind::IdentityConflict,
                format!(
                    "The version under {role} carries two labels that begin with {KEY_ID_LABEL}: they name two keys."
                ),
                format!(
                    "Take the wrong one off, in the place of KEY_ID: {}.",
                    by_hand::remove_label(&secret, &format!("{KEY_ID_LABEL}KEY_ID"), &version.id)
                ),
            ));
        }
        let key_id = match document.key_id().or(labelled) {
            Some(id) if document.key().is_told_by(id) => return Err(key_for_an_id()),
            Some(id) => Some(ClaimedKeyId::parse(id).ok_or_else(|| invalid_key_id(role))?),
            None => None,
        };
        Ok(Self {
            version: version.id.clone(),
            created: version.created,
            document,
            account,
            key_id,
            key_id_from_tag: false,
        })
    }

    /// Parses the version that is being replaced: its key id may also come from the tag, as long as no rotation of ours has
    /// attached a label, after which the tag is stale.
    ///
    /// # Errors
    /// Like [`Credential::parse`], and where the first version's value and tag name different keys.
    pub fn parse_replaced(
        version: &Version,
        description: &Description,
        version_id: &VersionId,
        role: &str,
    ) -> Result<Self, RotationError> {
        let mut credential = Self::parse(version, description, role)?;
        let Some(tag) = description.tags.get(KEY_ID_TAG) else { return Ok(credential) };
        if credential.key().is_told_by(tag) {
            return Err(key_for_an_id());
        }
        let tag = ClaimedKeyId::parse(tag).ok_or_else(|| {
            RotationError::before_any_change(
                ErrorKind::InvalidTag,
                format!("The secret's tag {KEY_ID_TAG} is no key id: {}.", KeyId::RULE),
                "Correct the tag, or remove it after the first rotation.",
            )
        })?;
        // A version that was never current proves nothing: its rotation was abandoned, and the tag still names the key.
        let was_current = |labels: &[String]| {
            description.rotated_before || labels.iter().any(|label| matches!(label.as_str(), CURRENT | PREVIOUS))
        };
        let labelled_by_us = description
            .versions
            .iter()
            .filter(|(version, labels)| *version != version_id && was_current(labels))
            .any(|(_, labels)| labels.iter().any(|label| label.starts_with(KEY_ID_LABEL)));
        let first = !description.rotated_before && description.holder(PREVIOUS).is_none();
        match &credential.key_id {
            None if !labelled_by_us => {
                credential.key_id = Some(tag);
                credential.key_id_from_tag = true;
            }
            Some(id) if first && *id != tag && !labelled_by_us => {
                return Err(RotationError::before_any_change(
                    ErrorKind::IdentityConflict,
                    format!("The value under {role} names another key than the tag {KEY_ID_TAG}."),
                    "Correct whichever is wrong, then rotate again.",
                ));
            }
            _ => {}
        }
        Ok(credential)
    }

    /// Takes the key id from another version that holds the very same key: a person edited a field meanwhile, and the new
    /// version has no label.
    pub fn learn_key_id(&mut self, other: &Self) {
        if self.key_id.is_none() && self.account == other.account && self.key().same(other.key()) {
            self.key_id.clone_from(&other.key_id);
        }
    }

    /// The key.
    pub fn key(&self) -> &ApiKey {
        self.document.key()
    }

    /// Refuses a version that names another account than this one does (confused deputy).
    ///
    /// # Errors
    /// [`ErrorKind::IdentityConflict`].
    pub fn same_account_as(&self, other: &Self, roles: [&str; 2]) -> Result<(), RotationError> {
        if self.account == other.account {
            return Ok(());
        }
        Err(RotationError::before_any_change(
            ErrorKind::IdentityConflict,
            format!(
                "The version under {} belongs to {}, the one under {} to {}.",
                roles[0], self.account, roles[1], other.account
            ),
            "A rotation never changes the account. Find out who wrote the version. If it is a mistake, clear it and \
             rotate again (docs/runbook.md).",
        ))
    }
}

/// Whether a version is in place: it carries a label that is more than the one with its key's id, which an abandoned version keeps until
/// the next mint.
pub fn is_in_place(description: &Description, version: &VersionId) -> bool {
    let labels = description.versions.get(version);
    labels.is_some_and(|labels| labels.iter().any(|label| !label.starts_with(KEY_ID_LABEL)))
}

/// The key of the admin secret's version; the error is the end of a sentence about the secret.
pub fn admin_key(version: &Version) -> Result<ApiKey, String> {
    let value = version.value.clone().ok_or_else(|| "is binary".to_owned())?;
    let document = Document::parse(value).map_err(|error| error.to_string())?;
    Ok(document.key().clone())
}

/// One part of the identity: from the value or from the tag, and where both name it, the same. No text of the value is
/// repeated, except where it is a valid name.
fn name(
    key: &ApiKey,
    in_value: Option<&str>,
    in_tag: Option<&str>,
    what: &str,
    places: [&str; 3],
    role: &str,
) -> Result<Name, RotationError> {
    let [field, variable, tag] = places;
    let valid = |text: Option<&str>, place: &str| match text {
        None => Ok(None),
        // The key in the place of a name would be printed where the two names differ, and sent in a URL.
        Some(text) => Name::parse(text).filter(|_| !text.contains(key.expose())).map(Some).ok_or_else(|| {
            RotationError::before_any_change(
                ErrorKind::InvalidIdentity,
                format!("The {what} in {place} is not a valid name: {}.", Name::RULE),
                "Correct it, then rotate again. Nothing was sent to Kosli.",
            )
        }),
    };
    let in_value = valid(in_value, &format!("the value under {role}"))?;
    let in_tag = valid(in_tag, &format!("the tag {tag}"))?;
    match (in_value, in_tag) {
        (Some(value), Some(tagged)) if value != tagged => Err(RotationError::before_any_change(
            ErrorKind::IdentityConflict,
            format!("The value under {role} names the {what} {value}, and the tag {tag} names {tagged}."),
            "Correct whichever is wrong, then rotate again. Nothing was sent to Kosli.",
        )),
        (Some(name), _) | (None, Some(name)) => Ok(name),
        (None, None) => Err(RotationError::before_any_change(
            ErrorKind::InvalidIdentity,
            format!("Neither the value under {role} nor a tag names the {what}."),
            format!("Add the field `{field}` (or `{variable}`) to the value, or the tag {tag} to the secret."),
        )),
    }
}

/// What stands where a key belongs is a key's id, as Kosli's list shows.
pub(super) fn id_for_a_key() -> RotationError {
    RotationError::before_any_change(
        ErrorKind::InvalidSecret,
        "The secret has the id of a key where the key itself belongs: its fields are swapped.",
        "Exchange the two: `api_key` is the key and `key_id` its id (or `KOSLI_API_TOKEN` and `KOSLI_API_KEY_ID`). Then rotate again.",
    )
}

/// What stands where a key's id belongs is a key.
pub(super) fn key_for_an_id() -> RotationError {
    RotationError::before_any_change(
        ErrorKind::InvalidSecret,
        "The secret has a key where a key's id belongs: its fields are swapped, or another key was put there.",
        "Put the key's id in its place (`key_id`, `KOSLI_API_KEY_ID`, the tag kosli:key-id or a label of the version), then rotate \
         again. More people can read a tag or a label than the secret: revoke a key that is in one.",
    )
}

fn invalid_key_id(role: &str) -> RotationError {
    RotationError::before_any_change(
        ErrorKind::InvalidIdentity,
        format!("The key id of the version under {role} is not valid: {}.", KeyId::RULE),
        "Correct it, then rotate again. Nothing was sent to Kosli.",
    )
}
