//! The configuration: environment variables of the function, overridden per secret by tags. Parsed once, at the edge, and all of
//! it: no variable is left to a library, which would ignore what it cannot read.

mod aws;
mod network;
mod unknown;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use reqwest::Url;

pub use self::aws::Aws;
pub use self::network::{Network, Proxy};
pub use self::unknown::{unknown_tags, unknown_variables};
use crate::error::{ErrorKind, RotationError};
use crate::event::SecretId;
use crate::identity::Permitted;
use crate::log;

/// What the environment says.
///
/// | variable | default | accepts |
/// |---|---|---|
/// | `KOSLI_HOST` | `https://app.kosli.com` | an `https` origin; `http` for a loopback host |
/// | `KOSLI_ADMIN_SECRET_ID` | unset: self-rotation | name or ARN of a secret |
/// | `KOSLI_SERVICE_ACCOUNTS` | `*/*` | comma-separated `org/name` patterns |
/// | `KOSLI_GRACE_PERIOD_HOURS` | 24 | 1 to 720 |
/// | `KOSLI_REVOKE_OLD_KEY` | `after-grace-period` | or `immediately` |
/// | `KOSLI_KEY_TTL_DAYS` | 365 | 14 to 365 |
///
/// What Lambda, the AWS SDK and HTTP clients call their own variables is in [`Aws`], [`Network`] and [`log::Settings`].
#[derive(Clone, Debug)]
pub struct Config {
    /// Where Kosli is; never read from a secret.
    pub host: Url,
    /// The secret with the key that may rotate others; `None`: every secret's own key rotates it.
    pub admin_secret: Option<SecretId>,
    /// What this function may rotate, create for, or revoke.
    pub permitted: Permitted,
    /// What holds where a secret's tags say nothing else.
    pub policy: Policy,
    /// Who the function is to AWS, and where AWS is.
    pub aws: Aws,
    /// How both services are reached.
    pub network: Network,
    /// How much is logged, and in which form.
    pub log: log::Settings,
    /// What is set under our prefix, and unknown: a setting that a person believes in, and that has no effect.
    pub unknown_variables: Vec<String>,
}

/// How a secret's key is replaced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Policy {
    /// How long the old key goes on working, in hours: 1 to 720, Kosli's own bounds.
    pub grace_period_hours: u32,
    /// What happens to the old key after the promotion.
    pub revoke_old_key: RevokeOldKey,
    /// The new key's life, in days: at most 365, Kosli's own cap; at least 14, so that the marker's window of three days
    /// and a missed rotation fit in.
    pub key_ttl_days: u32,
}

/// What happens to the old key once `AWSCURRENT` has moved.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RevokeOldKey {
    /// Kosli revokes it when its grace period ends.
    AfterGracePeriod,
    /// `finishSecret` revokes it and looks whether it is dead.
    Immediately,
}

/// One value that can be set by a variable and, for some, by a tag.
struct Setting {
    variable: &'static str,
    tag: &'static str,
    accepts: &'static str,
}

const GRACE_PERIOD: Setting = Setting {
    variable: "KOSLI_GRACE_PERIOD_HOURS",
    tag: "kosli:grace-period-hours",
    accepts: "a whole number of hours from 1 to 720",
};
const REVOKE_OLD_KEY: Setting = Setting {
    variable: "KOSLI_REVOKE_OLD_KEY",
    tag: "kosli:revoke-old-key",
    accepts: "after-grace-period or immediately",
};
const KEY_TTL: Setting = Setting {
    variable: "KOSLI_KEY_TTL_DAYS",
    tag: "kosli:key-ttl-days",
    accepts: "a whole number of days from 14 to 365",
};

/// Kosli's European host.
pub(crate) const DEFAULT_HOST: &str = "https://app.kosli.com";

impl Config {
    /// Reads the variables through `lookup`. A variable that is set to nothing counts as unset, as a template's empty
    /// parameter leaves it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfiguration`], naming the variable and what it accepts.
    pub fn from_vars(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, RotationError> {
        let variables = Variables(&lookup);
        let host = variables.parsed("KOSLI_HOST", network::SERVICE_ACCEPTS, network::parse_service)?;
        let permitted = variables.parsed(
            "KOSLI_SERVICE_ACCOUNTS",
            "comma-separated org/name patterns, with * for any characters",
            Permitted::parse,
        )?;
        let secret_id = |id: &str| {
            let valid = id.len() <= 2_048 && id.bytes().all(|byte| byte.is_ascii_graphic());
            valid.then(|| SecretId::trusted(id))
        };
        let mut policy = Policy::default();
        for setting in [&GRACE_PERIOD, &REVOKE_OLD_KEY, &KEY_TTL] {
            variables.parsed(setting.variable, setting.accepts, |value| policy.set(setting, value))?;
        }
        Ok(Self {
            host: match host {
                Some(host) => host,
                None => network::parse_service(DEFAULT_HOST).ok_or_else(|| malformed("KOSLI_HOST", DEFAULT_HOST))?,
            },
            admin_secret: variables.parsed("KOSLI_ADMIN_SECRET_ID", "the name or the ARN of a secret", secret_id)?,
            permitted: permitted.unwrap_or_else(Permitted::everything),
            policy,
            aws: Aws::from_vars(&variables)?,
            network: Network::from_vars(&variables)?,
            log: log::Settings {
                level: variables.parsed("AWS_LAMBDA_LOG_LEVEL", log::LEVELS_IN_WORDS, log::level)?.unwrap_or("INFO"),
                json: variables.parsed("AWS_LAMBDA_LOG_FORMAT", "Text or JSON", log::is_json)?.unwrap_or_default(),
            },
            unknown_variables: Vec::new(),
        })
    }
}

/// The environment, in which a variable that is set to nothing counts as unset, as a template's empty parameter leaves it.
struct Variables<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Variables<'_> {
    /// `None`: it is not set.
    fn parsed<T>(
        &self,
        variable: &str,
        accepts: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, RotationError> {
        let value = (self.0)(variable).filter(|value| !value.is_empty());
        value.map(|value| parse(&value).ok_or_else(|| malformed(variable, accepts))).transpose()
    }
}

impl Policy {
    /// How long the old key goes on working.
    pub fn grace(&self) -> Duration {
        Duration::from_secs(u64::from(self.grace_period_hours) * 3_600)
    }

    /// The longest that a new key lives.
    pub fn life(&self) -> Duration {
        Duration::from_secs(u64::from(self.key_ttl_days) * 86_400)
    }

    /// This policy with a secret's tags applied: what `createSecret` goes by, before the mint.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidTag`], naming the tag and what it accepts.
    pub fn with_tags(mut self, tags: &BTreeMap<String, String>) -> Result<Self, RotationError> {
        for setting in [&GRACE_PERIOD, &REVOKE_OLD_KEY, &KEY_TTL] {
            if let Some(value) = tags.get(setting.tag) {
                self.set(setting, value).ok_or_else(|| {
                    RotationError::before_any_change(
                        ErrorKind::InvalidTag,
                        format!("The secret's tag {} does not say {}.", setting.tag, setting.accepts),
                        "Correct the tag, or remove it so that the function's own setting holds.",
                    )
                })?;
            }
        }
        Ok(self)
    }

    /// This policy with the tags applied as far as they can be read, and the names of those that cannot: a tag that became
    /// malformed after the mint never blocks a promotion. The safe value is the one that leaves the old key its grace.
    pub fn with_readable_tags(mut self, tags: &BTreeMap<String, String>) -> (Self, Vec<&'static str>) {
        let mut unreadable = Vec::new();
        for setting in [&GRACE_PERIOD, &REVOKE_OLD_KEY, &KEY_TTL] {
            if tags.get(setting.tag).is_some_and(|value| self.set(setting, value).is_none()) {
                if setting.tag == REVOKE_OLD_KEY.tag {
                    self.revoke_old_key = RevokeOldKey::AfterGracePeriod;
                }
                unreadable.push(setting.tag);
            }
        }
        (self, unreadable)
    }

    fn set(&mut self, setting: &Setting, value: &str) -> Option<()> {
        let value = value.trim();
        if setting.variable == GRACE_PERIOD.variable {
            self.grace_period_hours = number(value, 1..=720)?;
        } else if setting.variable == KEY_TTL.variable {
            self.key_ttl_days = number(value, 14..=365)?;
        } else {
            self.revoke_old_key = match value {
                "after-grace-period" => RevokeOldKey::AfterGracePeriod,
                "immediately" => RevokeOldKey::Immediately,
                _ => return None,
            };
        }
        Some(())
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self { grace_period_hours: 24, revoke_old_key: RevokeOldKey::AfterGracePeriod, key_ttl_days: 365 }
    }
}

impl fmt::Display for RevokeOldKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AfterGracePeriod => "after-grace-period",
            Self::Immediately => "immediately",
        })
    }
}

fn number(text: &str, bounds: std::ops::RangeInclusive<u32>) -> Option<u32> {
    // `u32::from_str` takes a leading `+`, which is never meant.
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|number| bounds.contains(number))
}

fn malformed(variable: &str, accepts: &str) -> RotationError {
    RotationError::before_any_change(
        ErrorKind::InvalidConfiguration,
        format!("The environment variable {variable} is malformed: it accepts {accepts}."),
        "Correct the function's configuration.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(variables: &[(&str, &str)]) -> Result<Config, RotationError> {
        let by_lambda =
            [("AWS_REGION", "eu-west-1"), ("AWS_ACCESS_KEY_ID", "made-up"), ("AWS_SECRET_ACCESS_KEY", "made-up")];
        let set = |name: &str| variables.iter().chain(&by_lambda).find(|(key, _)| *key == name);
        Config::from_vars(|name| set(name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn unset_and_empty_variables_have_the_documented_defaults() {
        for variables in [&[][..], &[("KOSLI_HOST", ""), ("KOSLI_ADMIN_SECRET_ID", ""), ("KOSLI_KEY_TTL_DAYS", "")]] {
            let config = config(variables).expect("valid");
            assert_eq!(config.host.as_str(), "https://app.kosli.com/");
            assert_eq!(config.admin_secret, None);
            assert_eq!(config.policy, Policy::default());
        }
    }

    #[test]
    fn a_malformed_variable_is_named_with_what_it_accepts() {
        for (variable, value) in [
            ("KOSLI_HOST", "app.kosli.com"),
            ("KOSLI_HOST", "http://app.kosli.com"),
            ("KOSLI_HOST", "http://localhost.evil.example"),
            ("KOSLI_HOST", "https://user@app.kosli.com"),
            ("KOSLI_HOST", "https://@app.kosli.com"),
            ("KOSLI_HOST", "https://user:word@app.kosli.com"),
            ("KOSLI_HOST", "https://app.kosli.com/api"),
            ("KOSLI_HOST", "https://app.kosli.com?x=y"),
            ("KOSLI_HOST", "https://app.kosli.com#x"),
            ("KOSLI_HOST", "https:\\\\app.kosli.com"),
            ("KOSLI_HOST", " https://app.kosli.com"),
            ("KOSLI_HOST", "ftp://localhost"),
            ("KOSLI_HOST", "file:///etc/passwd"),
            ("KOSLI_HOST", "https://"),
            ("KOSLI_HOST", "https:/app.kosli.com"),
            ("KOSLI_HOST", "https://app.kosli.com/.."),
            ("KOSLI_ADMIN_SECRET_ID", "has space"),
            ("KOSLI_SERVICE_ACCOUNTS", "acme"),
            ("KOSLI_GRACE_PERIOD_HOURS", "0"),
            ("KOSLI_GRACE_PERIOD_HOURS", "721"),
            ("KOSLI_GRACE_PERIOD_HOURS", "+24"),
            ("KOSLI_GRACE_PERIOD_HOURS", "1.5"),
            ("KOSLI_REVOKE_OLD_KEY", "Immediately"),
            ("KOSLI_KEY_TTL_DAYS", "13"),
            ("KOSLI_KEY_TTL_DAYS", "366"),
            ("KOSLI_KEY_TTL_DAYS", "99999999999999999999"),
        ] {
            let error = config(&[(variable, value)]).expect_err(value);
            assert_eq!(error.kind(), ErrorKind::InvalidConfiguration);
            let text = error.to_string();
            assert!(text.contains(variable) && text.contains("accepts"), "{text}");
        }
    }

    #[test]
    fn http_is_for_loopback_hosts_only() {
        for host in ["http://localhost:8080", "http://127.0.0.1:1", "http://127.9.9.9/", "http://[::1]:80"] {
            config(&[("KOSLI_HOST", host)]).expect(host);
        }
    }

    #[test]
    fn a_tag_overrides_a_variable_and_a_malformed_one_is_named() {
        let policy = config(&[("KOSLI_GRACE_PERIOD_HOURS", "48")]).expect("valid").policy;
        let tags = BTreeMap::from([("kosli:grace-period-hours".to_owned(), "2".to_owned())]);
        assert_eq!(policy.with_tags(&tags).expect("valid").grace_period_hours, 2);

        let tags = BTreeMap::from([
            ("kosli:grace-period-hours".to_owned(), "3".to_owned()),
            ("kosli:revoke-old-key".to_owned(), "now".to_owned()),
        ]);
        let error = policy.with_tags(&tags).expect_err("malformed");
        assert!(error.to_string().contains("kosli:revoke-old-key"), "{error}");
        let immediately = Policy { revoke_old_key: RevokeOldKey::Immediately, ..policy };
        let (readable, unreadable) = immediately.with_readable_tags(&tags);
        assert_eq!(unreadable, ["kosli:revoke-old-key"]);
        assert_eq!(readable.revoke_old_key, RevokeOldKey::AfterGracePeriod);
        assert_eq!(readable.grace_period_hours, 3);
    }
}
