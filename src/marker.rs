//! The marker: how a key whose value was lost is recognized as one that was minted to replace this very version.
//!
//! Kosli's `rotate` and `create` take no idempotency key. They take `expires_at`, keep it to the second, and the key list
//! shows it. So every mint's `expires_at` is chosen such that, modulo [`WINDOW`], it equals a number made of
//! `MARK_BITS` bits derived from the secret's ARN and the id of the version under `AWSCURRENT`, and `ATTEMPT_BITS`
//! random bits. What is being replaced stays the same over retries, new rotations and clean-ups by hand, so the mark does.
//!
//! **The odds.** A stranger's key of the same account passes for ours only if it was never used, was created after the
//! version that is being replaced, has the same description (where that can be compared), no version of the secret
//! holds it, *and* its expiry falls into our 2^5 of the 2^18 seconds: one in 8,192 for such a key. It matters only while a
//! lost key is looked for, or in the sweep after a promotion. Two executions that choose the same attempt bits, one in 32,
//! matter only where both mint for one version within two minutes and the answer of one is lost.

use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use crate::clock::epoch_seconds;
use crate::event::VersionId;

/// The modulus, in seconds: three days and 49 minutes. A constant, or the marks of an earlier release would be unreadable.
pub const WINDOW: u64 = 1 << (MARK_BITS + ATTEMPT_BITS);

/// How many bits say what is being replaced.
const MARK_BITS: u32 = 13;

/// How many bits tell one attempt from another.
const ATTEMPT_BITS: u32 = 5;

/// Kosli shortens whatever ends more than 365 days from now. An hour below that, clocks may differ and the mark survives.
/// Source: the acceptance tests of Kosli's Terraform provider 0.9.4.
const LONGEST_LIFE: Duration = Duration::from_secs(365 * 86_400 - 3_600);

/// What a mint is to replace: one version of one secret.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mark(u64);

/// What tells one attempt to mint from another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Attempt(u64);

impl Mark {
    /// The mark of keys that replace this version of this secret.
    pub fn of(secret_arn: &str, version: &VersionId) -> Self {
        let mut hash = Sha256::new();
        // A byte that neither can contain keeps the two parts apart.
        hash.update(secret_arn.as_bytes());
        hash.update([0]);
        hash.update(version.as_str().as_bytes());
        let digest = hash.finalize();
        let number = digest.iter().take(8).fold(0, |number, &byte| (number << 8) | u64::from(byte));
        Self(number >> (u64::BITS - MARK_BITS))
    }

    /// Which attempt minted the key that expires at this second; `None`: it does not carry this mark.
    pub fn attempt_in(self, expires_at: u64) -> Option<Attempt> {
        let number = expires_at % WINDOW;
        (number >> ATTEMPT_BITS == self.0).then_some(Attempt(number & ((1 << ATTEMPT_BITS) - 1)))
    }

    /// The latest second that carries this mark and attempt, within the key's life and `LONGEST_LIFE` from `now`.
    pub fn expires_at(self, attempt: Attempt, now: SystemTime, life: Duration) -> u64 {
        let latest = epoch_seconds(now + life.min(LONGEST_LIFE));
        let number = (self.0 << ATTEMPT_BITS) | attempt.0;
        // How far the latest second's remainder lies above the wanted one, around the window's end. The second itself is
        // larger than any number: a key lives for two weeks at the least.
        latest - (latest - number) % WINDOW
    }
}

impl Attempt {
    /// Random attempt bits that are not among those seen already; any, where all have been seen.
    pub fn fresh(seen: &[Self]) -> Self {
        let free: Vec<Self> = (0..1 << ATTEMPT_BITS).map(Self).filter(|attempt| !seen.contains(attempt)).collect();
        match free.get(fastrand::usize(..free.len().max(1))) {
            Some(&attempt) => attempt,
            None => Self(fastrand::u64(..1 << ATTEMPT_BITS)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    const ARN: &str = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:kosli-AbCdEf";

    fn mark(version: &str) -> Mark {
        Mark::of(ARN, &VersionId::trusted(version))
    }

    #[test]
    fn a_mark_never_changes_between_releases() {
        // Keys that were minted by an earlier release have to be recognized by a later one.
        assert_eq!(mark("11111111-1111-4111-8111-111111111111"), Mark(7_971));
    }

    #[test]
    fn the_mark_and_the_attempt_are_read_back_from_every_instant() {
        for hour in 0..200 {
            let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000 + hour * 3_601);
            for life in [14, 90, 365].map(|days| Duration::from_secs(days * 86_400)) {
                for attempt in [0, 1, 17, 31].map(Attempt) {
                    let expires_at = mark("v").expires_at(attempt, now, life);
                    assert_eq!(mark("v").attempt_in(expires_at), Some(attempt));
                    let latest = epoch_seconds(now + life.min(LONGEST_LIFE));
                    assert!(expires_at <= latest && latest - expires_at < WINDOW);
                    // Kosli would cut off what is beyond a year, and the mark with it.
                    assert!(expires_at <= epoch_seconds(now) + 365 * 86_400 - 3_600);
                }
            }
        }
    }

    #[test]
    fn another_version_or_another_secret_has_another_mark() {
        assert_ne!(mark("v1"), mark("v2"));
        assert_ne!(Mark::of("arn:x", &VersionId::trusted("v1")), mark("v1"));
    }

    #[test]
    fn fresh_attempt_bits_are_none_of_those_seen() {
        let mut seen = Vec::new();
        for _ in 0..32 {
            let attempt = Attempt::fresh(&seen);
            assert!(!seen.contains(&attempt));
            seen.push(attempt);
        }
        Attempt::fresh(&seen);
    }
}
