//! Where the version that an event names stands: parsed once from the labels, with no third state to forget.

use crate::by_hand;
use crate::error::{ErrorKind, RotationError};
use crate::event::{SecretId, VersionId};
use crate::secrets_manager::{CURRENT, Description, PENDING, PREVIOUS};

/// Where the event's version stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Standing {
    /// It is the current one: the rotation has been completed, only its clean-up may remain. `AWSPENDING` may or may not be
    /// on it as well; both are legal, and both are seen on AWS.
    Current {
        /// The version that it replaced.
        previous: Option<VersionId>,
    },
    /// It is the pending one: the normal case.
    Pending {
        /// The version that it is to replace.
        current: VersionId,
    },
}

impl Standing {
    /// Reads the labels.
    ///
    /// # Errors
    /// Every other combination, by what is missing. A label that was attached a moment ago may not be visible yet, so the
    /// caller looks again before it believes this.
    pub fn of(description: &Description, version_id: &VersionId) -> Result<Self, RotationError> {
        let Some(labels) = description.versions.get(version_id) else {
            return Err(RotationError::before_any_change(
                ErrorKind::TokenNotStaged,
                format!("The secret has no version {version_id} with a staging label."),
                over(description),
            ));
        };
        let carries = |label: &str| labels.iter().any(|held| held == label);
        if carries(CURRENT) {
            return Ok(Self::Current { previous: description.holder(PREVIOUS).cloned() });
        }
        if !carries(PENDING) {
            // Of its labels only our own words: a person may have put a key into one.
            let known = if carries(PREVIOUS) { ", but AWSPREVIOUS" } else { "" };
            return Err(RotationError::before_any_change(
                ErrorKind::TokenNotPending,
                format!("The version {version_id} does not carry AWSPENDING{known}."),
                over(description),
            ));
        }
        let Some(current) = description.holder(CURRENT) else {
            return Err(RotationError::before_any_change(
                ErrorKind::NoCurrentValue,
                "The secret has no value under AWSCURRENT yet.",
                format!(
                    "Put the first key in ({}); Secrets Manager then tries the rotation again.",
                    by_hand::put_value(&SecretId::trusted(&description.arn))
                ),
            ));
        };
        Ok(Self::Pending { current: current.clone() })
    }
}

/// What to do about an event whose rotation is over.
fn over(description: &Description) -> String {
    format!(
        "The rotation that this event belongs to has ended or was abandoned. Nothing needs to be done, unless its clean-up failed: what it \
         was to revoke is for you to revoke now. To rotate now, call {}.",
        by_hand::rotate(&SecretId::trusted(&description.arn))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every combination of labels on the event's version (`t`) and on two others.
    #[test]
    fn every_combination_of_labels_has_one_meaning() {
        let id = |id: String| VersionId::trusted(id);
        let pending = |current: &str| Ok(Standing::Pending { current: id(current.to_owned()) });
        let current = |previous: Option<&str>| Ok(Standing::Current { previous: previous.map(str::to_owned).map(id) });
        for (versions, expected) in [
            (&[("a", "AWSCURRENT"), ("t", "AWSPENDING")][..], pending("a")),
            (&[("a", "AWSCURRENT"), ("b", "AWSPREVIOUS"), ("t", "AWSPENDING other")], pending("a")),
            (&[("t", "AWSCURRENT")], current(None)),
            (&[("a", "AWSPREVIOUS"), ("t", "AWSCURRENT AWSPENDING")], current(Some("a"))),
            (&[("a", "AWSPREVIOUS"), ("b", "AWSPENDING"), ("t", "AWSCURRENT")], current(Some("a"))),
            (&[("a", "AWSCURRENT"), ("b", "AWSPENDING"), ("t", "AWSPREVIOUS")], Err(ErrorKind::TokenNotPending)),
            (&[("a", "AWSCURRENT"), ("t", "other")], Err(ErrorKind::TokenNotPending)),
            (&[("a", "AWSCURRENT AWSPENDING")], Err(ErrorKind::TokenNotStaged)),
            (&[], Err(ErrorKind::TokenNotStaged)),
            (&[("t", "AWSPENDING")], Err(ErrorKind::NoCurrentValue)),
        ] {
            let versions = versions
                .iter()
                .map(|(version, labels)| (id((*version).to_owned()), labels.split(' ').map(str::to_owned).collect()));
            let description = Description::of("", versions);
            let standing = Standing::of(&description, &id("t".to_owned())).map_err(|error| error.kind());
            assert_eq!(standing, expected, "{:?}", description.versions);
        }
    }
}
