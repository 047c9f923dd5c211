//! Rotates Kosli service-account API keys for AWS Secrets Manager. This page is the architecture: the map, the
//! invariants and where each is kept, and what is absent on purpose. The README says how to use it.
//!
//! # Bird's eye
//!
//! Secrets Manager invokes the function for each of four steps, and again for a step that has failed, was slow or was
//! delivered twice. Every invocation is the same three movements: **observe** (labels, versions, the account's keys,
//! side by side), **decide** (one `match` on what was seen), **act**. There is no state but the world itself: Secrets
//! Manager's versions and labels, and Kosli's list of keys.
//!
//! The hard part is one call. Kosli's `rotate` mints a key, shows it once and starts the old key's clock; it cannot be
//! repeated, and its answer can be lost. So a mint is never repeated blindly: every minted key carries a mark in its
//! expiry ([`marker`]), an unclear outcome is resolved by looking for that mark, and a key whose value was lost is
//! itself rotated, stored and only then revoked.
//!
//! ```text
//!            event ──► Function::handle ──► observe ──► decide ──► act
//!                          │                   │                    │
//!   error type, log ◄──────┘                   ▼                    ▼
//!                                   secrets_manager, kosli ── http_client ──► AWS, Kosli
//! ```
//!
//! # Map
//!
//! | where | what |
//! |---|---|
//! | `main.rs` | the executable: reads the environment, makes the clients once, speaks the Runtime API |
//! | [`function`] | what an invocation runs with: plain data |
//! | [`rotation`] | the dispatcher: an event to its step or to the report, the answer to log and metrics |
//! | `rotation/invocation.rs` | one step in one invocation: what it observes, and its answer |
//! | `rotation/session.rs` | one secret in one invocation: reading, listing, authenticating, revoking |
//! | `rotation/late.rs` | what a rotation that is over has left behind, for a step that comes late |
//! | `rotation/failures.rs` | failures that several steps can meet, in words |
//! | `rotation/requirements.rs` | what a rotation needs: for `createSecret`, and for the test of the configuration |
//! | `rotation/create_secret.rs` | `createSecret`: all checks, then the mint |
//! | `rotation/replacement.rs` | the loop around the mint, and what each answer leads to |
//! | `rotation/replacement/plan.rs` | what comes next: rotate, create, wait or stop; a `match`, and the table of it: pure |
//! | `rotation/replacement/mint.rs` | one mint, the wait for a twin, and the look for a mint whose outcome is unclear |
//! | `rotation/replacement/store.rs` | the store of a minted key, and what becomes of a superfluous one |
//! | `rotation/replacement/stop.rs` | why a replacement stops, in words |
//! | `rotation/marks.rs` | which keys on the account were minted to replace a version, and are lost: one rule, pure |
//! | `rotation/set_secret.rs`, `rotation/test_secret.rs` | `setSecret` looks whose key it is; `testSecret` authenticates, or tests the configuration |
//! | `rotation/finish_secret.rs` | `finishSecret`: proof and promotion |
//! | `rotation/promotion.rs` | whether the pending version is promoted, from what was seen: pure |
//! | `rotation/clean_up.rs` | what follows the promotion: the sweep, the revocation of the old key |
//! | `rotation/check_secret.rs` | `checkSecret`: a report that changes nothing |
//! | `rotation/check_secret/keys.rs`, `rotation/check_secret/schedule.rs`, `rotation/check_secret/fleet.rs` | of the report: what it says about keys, about dates, and about all secrets together |
//! | `rotation/credential.rs` | a version's value with whom it belongs to: value, labels and tags together |
//! | [`staging`] | where the event's version stands, from the labels: pure |
//! | [`document`] | the three shapes of a value, edited in place: pure |
//! | [`api_key`] | a key's value, and what may be repeated of text that could show one |
//! | [`identity`] | names, key ids, permitted accounts: parsed, or not there |
//! | [`marker`] | how a lost key is recognized, and the odds: pure |
//! | [`event`], [`config`], [`error`] | the edges: what comes in, what is set, what is said when it fails |
//! | `config/aws.rs`, `config/network.rs`, `config/unknown.rs` | of the environment: what libraries would read by themselves, and names that mean nothing |
//! | [`schedule`] | how far apart the dates of a rotation schedule are: pure |
//! | `http_client/authorities.rs` | the file of further authorities, or what was saved in its place |
//! | [`by_hand`] | the command lines that a person is told to type: complete, and pure |
//! | [`secrets_manager`], [`kosli`] | the two services over the wire: domain types in and out, refused or unclear |
//! | `kosli/answer.rs` | what Kosli's answers mean, and how they are read: pure |
//! | [`budget`], [`clock`] | the invocation's time: time-outs, retries, pauses, all of it before the deadline |
//! | [`http_client`], [`log`] | one HTTP client with one TLS stack for both services; one log |
//! | [`metrics`] | one line of CloudWatch metrics for each invocation |
//! | `words.rs` | enums whose variants are stable words for machines |
//!
//! Each file uses what lies below it, and none beside or above it: `tests/layers.rs` has the order.
//!
//! # Invariants
//!
//! **I1 No outage.** The key under `AWSCURRENT` works at every instant, provided that the rotation completes within the
//! grace period and before the key's own expiry. Kept by the order of things: the old key is only ever given a grace
//! period; `finishSecret` authenticates with the new key right before the label moves, moves it as a compare-and-swap,
//! and revokes the old key, if at all, afterwards. No key that a version under `AWSCURRENT` or `AWSPENDING` holds is
//! ever revoked.
//!
//! **I2 Never mint what cannot be kept.** `createSecret` reads and checks everything first: labels, documents, tags,
//! the permitted accounts, whether the current key works and where it stands on the account, room in the secret.
//! `replacement/mint.rs` mints only with time left to store ([`secrets_manager::STORE_RESERVE`]), and nothing comes
//! between a mint's answer and the store.
//!
//! **I3 No orphan.** What a completed rotation has minted is held by the secret, or revoked, or dies within Kosli's
//! shortest grace period. Kept by the recovery in `replacement.rs`, and guaranteed by the sweep in `clean_up.rs`,
//! which is reached again whenever the step is delivered again.
//!
//! **I4 Hands off.** Only the secret's own key, and keys proven to replace this version of this secret, are rotated or
//! revoked. The proof is one rule, in `marks.rs`: the mark, never used, younger than the version, the same description, held by no
//! version. [`identity::Permitted`] bounds all of it, and the host and the
//! admin secret's name come from the environment alone.
//!
//! **I5 No leak.** A key's value is in the `Authorization` header and in the secret. [`api_key::ApiKey`] has a
//! redacted `Debug`, no `Display` and no `Serialize`, and its text is reachable within this crate alone; errors are
//! made of ids, labels, statuses and the services' own refusals (without whatever could be a key or the rotation token),
//! never of a parser's words about a value or of the body of a success; [`log`] keeps other crates below WARN out.
//!
//! **I6 Any step, any time.** Repeated, twice at once, after a crash or late: each step asks [`staging::Standing`]
//! first, and what is done already is a success. `createSecret` reads the pending version by id right before every
//! mint; who loses the race to store revokes what it minted. A mark of another execution is left alone until that
//! execution cannot live any more.
//!
//! **I7 Heal or shout.** [`error::RotationError`] always says what is wrong, what was changed and what to do, under one
//! stable word ([`error::ErrorKind`], `docs/runbook.md` has a row for each), and after a mint until when the current
//! key works.
//!
//! # Absent on purpose
//!
//! - No trait per service: the clients are concrete, and tests put an emulator at the other end of the wire.
//! - No state between invocations but clients and configuration; no table, no queue, no lock.
//! - No retry below [`budget`]: the SDK's and the HTTP client's are off, for only the caller knows what may be
//!   repeated.
//! - No removal of `AWSPENDING`: that is Secrets Manager's.
//! - No fallback from a dead admin key to the secret's own key.
//! - No code that panics on what it is given, with one exception that does not show it ([`document`]): the message of a
//!   panic may quote the value that it is about.
//!
//! # Whether the tests would notice
//!
//! `cargo mutants --in-place`, in a clone of your own, changes the rotation core in some five hundred places, one at a
//! time, and runs the quick tests against each change. `.cargo/mutants.toml` says how long that takes, and names what is
//! left out and why. A change that no test notices asks for a sharper test or for simpler code.
//!
//! # Reading order
//!
//! [`event`], [`staging`], [`rotation`] with `create_secret.rs` and `finish_secret.rs`; then [`marker`], `marks.rs` and
//! `replacement.rs` with its parts, where the hard part is (`replacement/plan.rs` decides it, and has the table); then [`kosli`] and [`secrets_manager`]. `cargo demo` shows
//! the calls of all that as they happen.

#![cfg_attr(
    not(test),
    warn(
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::unreachable,
        reason = "a panic may show what it is about"
    )
)]

pub mod api_key;
pub mod budget;
pub mod by_hand;
pub mod clock;
pub mod config;
pub mod document;
pub mod error;
pub mod event;
pub mod function;
pub mod http_client;
pub mod identity;
pub mod kosli;
pub mod log;
pub mod marker;
pub mod metrics;
pub mod rotation;
pub mod schedule;
pub mod secrets_manager;
pub mod staging;
mod words;
