//! What the report says about dates: when keys expire, and whether grace period, schedule and expiry fit together.

use std::time::{Duration, SystemTime};

use super::super::credential::Credential;
use super::super::session::Authority;
use super::{CheckName, Checkup, DAY};
use crate::clock::{from_epoch_seconds, rfc3339};
use crate::secrets_manager::{Description, Version};

/// How long before its expiry a key is worth an alarm, where no rotation is scheduled before that.
const EXPIRY_WARNING: Duration = Duration::from_secs(14 * 86_400);

impl Checkup<'_> {
    /// Whether grace period, schedule and expiry fit together.
    pub(super) fn check_schedule(&mut self, expiry: Option<SystemTime>) {
        let next = self.description.next_rotation;
        if let Some(next) = next
            && self.now > next + DAY
        {
            return self.not_ok(
                CheckName::Schedule,
                format!(
                    "The rotation that was due at {} has not happened: its error is in this function's log.",
                    rfc3339(next)
                ),
            );
        }
        if let Some(expiry) = expiry
            && expiry < next.unwrap_or(self.now + EXPIRY_WARNING)
        {
            let due = next.map_or_else(
                || "no rotation is scheduled".to_owned(),
                |at| format!("the next rotation is due at {}", rfc3339(at)),
            );
            return self.not_ok(
                CheckName::Schedule,
                format!("The current key expires at {}, and {due}: rotate before.", rfc3339(expiry)),
            );
        }
        let Some(interval) = self.description.rotation_interval else {
            return self.passed(
                CheckName::Schedule,
                "The next rotation comes before the key's expiry, as far as the schedule tells.".to_owned(),
            );
        };
        let grace = self.policy.grace();
        // The marker takes up to three days of a key's life.
        let life = DAY * self.policy.key_ttl_days.saturating_sub(4);
        if grace >= interval {
            return self.not_ok(
                CheckName::Schedule,
                format!(
                    "The grace period ({} h) is not shorter than the time between two rotations ({} h): several old keys live at \
                     once, and only the last can be read from the secret.",
                    grace.as_secs() / 3_600,
                    interval.as_secs() / 3_600
                ),
            );
        }
        if interval + grace > life {
            return self.not_ok(
                CheckName::Schedule,
                format!(
                    "A key lives {} days (less up to three), and it is replaced only every {} days: a rotation that is late means an \
                     outage. Rotate more often, or raise KOSLI_KEY_TTL_DAYS.",
                    self.policy.key_ttl_days,
                    interval.as_secs() / DAY.as_secs()
                ),
            );
        }
        self.passed(CheckName::Schedule, "Grace period, schedule and expiry fit together.".to_owned());
    }

    /// When the admin key expires, which only its secret can tell: by naming its id and account.
    pub(super) async fn check_admin_expiry(
        &mut self,
        admin: Option<&Version>,
        authority: &Authority,
    ) -> Option<SystemTime> {
        let description = Description { tags: std::collections::BTreeMap::new(), ..self.description.clone() };
        let admin = Credential::parse(admin?, &description, "the admin secret").ok()?;
        admin.key_id.as_ref()?;
        // The list proves the id, at no more than the one call that its entry costs.
        let listing = match self.session.list(&admin.account, authority).await {
            Ok(listing) => listing,
            Err(error) => {
                self.failed(CheckName::AdminExpiry, &error);
                return None;
            }
        };
        let entry = listing.entry(admin.key_id.as_ref())?;
        let id = &entry.id;
        let expiry = from_epoch_seconds(entry.expires_at?);
        if expiry < self.now + EXPIRY_WARNING {
            self.not_ok(
                CheckName::AdminExpiry,
                format!("The admin key {id} expires at {}: rotate the admin secret before.", rfc3339(expiry)),
            );
        } else {
            self.passed(CheckName::AdminExpiry, format!("The admin key {id} expires at {}.", rfc3339(expiry)));
        }
        Some(expiry)
    }
}
