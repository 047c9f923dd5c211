//! Everything that can befall a call, in one table; and which call it is.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use emulator::{Call, Fault, Service};

/// What befalls a call, and for how long the calls of the same operation after it. Its text is what it is read from:
/// `drop-after`, `refuse:409 for 100s`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What becomes of the call.
    pub fault: Fault,
    /// How long it goes on.
    pub lasts: Duration,
}

const ONCE: u64 = 0;
const A_WHILE: u64 = 12;
const LONGER_THAN_A_STEP: u64 = 100;

/// What either service can do.
const BOTH: [(&str, u64); 15] = [
    ("error-before:500", ONCE),
    ("error-before:503", A_WHILE),
    ("error-after:500", ONCE),
    ("drop-before", ONCE),
    ("drop-after", ONCE),
    ("no-answer", ONCE),
    ("no-answer-after", ONCE),
    ("no-answer-after", LONGER_THAN_A_STEP),
    ("delay:3s", ONCE),
    ("garble", ONCE),
    ("truncate", ONCE),
    ("incomplete", ONCE),
    ("html:502", ONCE),
    ("kill-before", ONCE),
    ("kill-after", ONCE),
];

const SECRETS_MANAGER: [(&str, u64); 5] = [
    ("refuse:400:ThrottlingException", ONCE),
    ("refuse:400:ThrottlingException", A_WHILE),
    ("refuse:400:AccessDeniedException", ONCE),
    ("refuse:400:AccessDeniedException", LONGER_THAN_A_STEP),
    ("late:6s", ONCE),
];

const KOSLI: [(&str, u64); 10] = [
    ("refuse:429", ONCE),
    ("refuse:429:retry-after=3", ONCE),
    ("refuse:429", A_WHILE),
    ("refuse:409", ONCE),
    ("refuse:409", LONGER_THAN_A_STEP),
    ("refuse:403", ONCE),
    ("refuse:401", ONCE),
    ("late:9s", ONCE),
    ("late:33s", ONCE),
    ("late:300s", ONCE),
];

/// Everything that can befall a call to this service.
pub fn all(service: Service) -> Vec<Trouble> {
    let own = match service {
        Service::SecretsManager => SECRETS_MANAGER.as_slice(),
        Service::Kosli => KOSLI.as_slice(),
    };
    own.iter().chain(&BOTH).map(|(fault, lasts)| Trouble::new(fault, Duration::from_secs(*lasts))).collect()
}

/// Of every class of outcomes one: what the faults of a read have in common is that there is no answer.
pub fn classes(service: Service, writes: bool) -> Vec<Trouble> {
    let refusal = if service == Service::Kosli { "refuse:409" } else { "refuse:400:AccessDeniedException" };
    let others = if writes {
        &["error-before:500", "drop-after", "late:33s", "incomplete", "kill-before", "kill-after"][..]
    } else {
        &["drop-after", "kill-after"]
    };
    let lasting = Trouble::new(refusal, Duration::from_secs(LONGER_THAN_A_STEP));
    std::iter::once(lasting).chain(others.iter().map(|fault| Trouble::new(fault, Duration::ZERO))).collect()
}

impl Trouble {
    fn new(fault: &str, lasts: Duration) -> Self {
        Self { fault: fault.parse().unwrap(), lasts }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.fault)?;
        if self.lasts.is_zero() { Ok(()) } else { write!(f, " for {}s", self.lasts.as_secs()) }
    }
}

impl FromStr for Trouble {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (fault, lasts) = text.split_once(" for ").unwrap_or((text, "0s"));
        let fault = fault.parse().map_err(|error| format!("{error}"))?;
        let seconds = lasts.strip_suffix('s').and_then(|seconds| seconds.parse().ok());
        let seconds = seconds.ok_or_else(|| format!("\"{lasts}\" is no number of seconds, such as 100s"))?;
        Ok(Self { fault, lasts: Duration::from_secs(seconds) })
    }
}

/// Which call of a case it is: what it asks for, and how often that was asked for before. Not its number: calls that are made side by
/// side arrive in any order, and a case that is run again has to meet the same call.
///
/// Its text is what it is read from: `GetSecretValue SecretId=kosli/ci-xFIbmB VersionStage=AWSCURRENT #2`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Which {
    asks: String,
    nth: usize,
}

impl Which {
    /// The calls of a case, each with its name.
    pub fn name(calls: &[Call]) -> Vec<(Self, &Call)> {
        let mut seen = BTreeMap::new();
        calls.iter().map(|call| (Self::next(call, &mut seen), call)).collect()
    }

    /// The name of a call that comes after those that were seen.
    pub(crate) fn next(call: &Call, seen: &mut BTreeMap<String, usize>) -> Self {
        // The bits that tell attempts apart are drawn from the same numbers as the SDK's pauses.
        let detail = call.detail.split(" expires_at=").next().unwrap_or_default();
        let asks = format!("{} {detail}", call.operation);
        let nth = seen.entry(asks.clone()).or_default();
        *nth += 1;
        Self { asks, nth: *nth }
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} #{}", self.asks, self.nth)
    }
}

impl FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (asks, nth) = text.rsplit_once(" #").ok_or_else(|| format!("\"{text}\" says of no call which it is"))?;
        let nth = nth.parse().map_err(|error| format!("{nth}: {error}"))?;
        Ok(Self { asks: asks.to_owned(), nth })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_trouble_is_read_from_its_text() {
        for trouble in [Service::Kosli, Service::SecretsManager].into_iter().flat_map(all) {
            assert_eq!(trouble.to_string().parse(), Ok(trouble));
        }
    }
}
