//! What was promised, and what was seen.

use std::time::Duration;

use super::world::{World, holder};
use crate::call::Call;
use crate::kosli::{Key, MintedBy};

/// One promise, and what became of it.
#[derive(Clone, Debug)]
pub struct Promise {
    /// Its number and name in the crate's documentation.
    pub name: &'static str,
    /// Whether it held.
    pub held: bool,
    /// What was looked at, for a person.
    pub evidence: String,
}

/// What was seen while the rotation ran.
#[derive(Default)]
pub(super) struct Seen {
    /// How often the key under `AWSCURRENT` was looked at.
    pub(super) looks: usize,
    /// When Kosli did not accept it.
    pub(super) outages: Vec<String>,
    /// How many calls had been made when each attempt began.
    pub(super) attempts_began_after: Vec<usize>,
    /// What the function has answered, errors too.
    pub(super) answers: Vec<String>,
    /// What the demo itself has said.
    pub(super) told: Vec<String>,
}

/// Kosli's shortest grace period: the longest that a left-over key may live.
const SHORTEST_GRACE: Duration = Duration::from_secs(60 * 60);

pub(super) fn check(world: &World, seen: &Seen, output: &[String], succeeded: bool) -> Vec<Promise> {
    vec![
        no_outage(seen),
        mints_are_kept(&world.emulator.calls(), &seen.attempts_began_after),
        no_orphan(world, succeeded),
        hands_off(world),
        no_leak(world, seen, output),
    ]
}

fn no_outage(seen: &Seen) -> Promise {
    let Seen { looks, outages, .. } = seen;
    let evidence = if outages.is_empty() {
        format!("looked {looks} times, after every call: a reader of the secret got a key that Kosli accepts")
    } else {
        format!("Kosli did not accept the key under AWSCURRENT {}", outages.join(", "))
    };
    Promise { name: "I1 no outage", held: outages.is_empty(), evidence }
}

/// Every mint comes after the checks, and nothing comes between a mint and its store.
fn mints_are_kept(calls: &[Call], attempts_began_after: &[usize]) -> Promise {
    let calls: Vec<&Call> = calls.iter().filter(|call| call.tag == "function").collect();
    let minted = |call: &Call| {
        ["rotate", "create"].contains(&call.operation.as_str()) && call.effect.is_some_and(|status| status < 300)
    };
    let mut mints = 0;
    let mut careless = Vec::new();
    for (index, mint) in calls.iter().enumerate().filter(|(_, call)| minted(call)) {
        mints += 1;
        let attempt_began =
            attempts_began_after.iter().copied().filter(|began| *began < mint.number).max().unwrap_or(0);
        let before = |operation: &str| {
            calls.iter().take(index).any(|call| call.number > attempt_began && call.operation == operation)
        };
        let checked = ["DescribeSecret", "GetSecretValue", "verify", "list"].into_iter().all(before);
        // An answer that was disturbed brought no value that could be stored.
        let stored =
            mint.fault.is_some() || calls.get(index + 1).is_some_and(|next| next.operation == "PutSecretValue");
        if !(checked && stored) {
            careless.push(format!("#{}", mint.number));
        }
    }
    let evidence = if careless.is_empty() {
        format!(
            "{mints} minted, after secret, current key and account had been checked; a value that arrived was stored with the \
             very next call"
        )
    } else {
        format!("minted unchecked, or not stored at once: the calls {}", careless.join(", "))
    };
    Promise { name: "I2 nothing minted that cannot be kept", held: careless.is_empty(), evidence }
}

fn no_orphan(world: &World, succeeded: bool) -> Promise {
    let now = world.emulator.clock().now();
    let versions = world.versions();
    let stays = |key: &Key| key.dies_at().is_none_or(|death| death > now + SHORTEST_GRACE);
    let keys = world.keys();
    let minted: Vec<&Key> = keys.iter().filter(|key| key.minted_by != MintedBy::SetUp).collect();
    let orphans: Vec<&str> = minted
        .iter()
        .filter(|key| key.is_live_at(now) && stays(key) && holder(key, &versions).is_none())
        .map(|key| key.id.as_str())
        .collect();
    let evidence = match (orphans.is_empty(), succeeded) {
        (true, _) => format!("of {} minted, every key that lives on is held by the secret", minted.len()),
        (false, true) => format!("no version holds {}", orphans.join(", ")),
        (false, false) => {
            format!(
                "no version holds {}, but the rotation has not completed: the next one replaces it",
                orphans.join(", ")
            )
        }
    };
    Promise { name: "I3 no orphan", held: orphans.is_empty() || !succeeded, evidence }
}

fn hands_off(world: &World) -> Promise {
    let keys = world.keys();
    let others = || keys.iter().filter(|key| key.minted_by == MintedBy::SetUp && key.id != world.own_key);
    let touched: Vec<&str> = others()
        .filter(|key| key.rotated_at.is_some() || key.revoked_at.is_some())
        .map(|key| key.id.as_str())
        .collect();
    let evidence = if touched.is_empty() {
        let admin = world.admin_key.as_ref().map_or("", |_| " and the admin key");
        format!("the stranger's key with the same description{admin}: never rotated, never revoked")
    } else {
        format!("rotated or revoked: {}", touched.join(", "))
    };
    Promise { name: "I4 hands off", held: touched.is_empty(), evidence }
}

fn no_leak(world: &World, seen: &Seen, output: &[String]) -> Promise {
    let keys = world.keys();
    let lines = || output.iter().chain(&seen.answers).chain(&seen.told);
    let leaked = lines().filter(|line| keys.iter().any(|key| line.contains(&key.value))).count();
    let evidence = format!("{leaked} of {} lines of log, answers and this text show a key's value", lines().count());
    Promise { name: "I5 no leak", held: leaked == 0, evidence }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use serde_json::json;

    use super::*;
    use crate::call::Service;
    use crate::clock::Clock;
    use crate::demo::options::Options;

    fn held(promises: &[Promise]) -> Vec<bool> {
        promises.iter().map(|promise| promise.held).collect()
    }

    /// A person rotates the stranger's key and keeps the value, the secret's own key is revoked, and a value is logged.
    #[tokio::test]
    async fn every_broken_promise_is_seen() {
        let world = World::set_up(Clock::real(), &Options::default()).await.expect("a world");
        assert!(world.readers_get_a_working_key());
        assert_eq!(held(&check(&world, &Seen::default(), &[], true)), [true; 5]);

        let keys = world.keys();
        let admin = keys.iter().find(|key| Some(&key.id) == world.admin_key.as_ref()).expect("it is there");
        let path = format!("/api/v2/service-accounts/acme/ci/api-keys/{}/rotate", world.strangers_key);
        let request = Request::post(path)
            .header("authorization", format!("Bearer {}", admin.value))
            .body(json!({}).to_string().into())
            .expect("a request");
        assert_eq!(world.emulator.with_kosli(|kosli| kosli.handle(&request)).status(), 201);
        world.emulator.with_kosli(|kosli| kosli.revoke_key(&world.own_key));
        assert!(!world.readers_get_a_working_key());

        let seen = Seen { looks: 1, outages: vec!["after call #1".to_owned()], ..Seen::default() };
        let output = [format!("the key is {}", admin.value)];
        assert_eq!(held(&check(&world, &seen, &output, true)), [false, true, false, false, false]);
    }

    #[test]
    fn a_mint_is_careless_without_checks_before_it_or_the_store_right_after_it() {
        const CLEAN: [&str; 6] = ["DescribeSecret", "GetSecretValue", "verify", "list", "rotate", "PutSecretValue"];
        let kept = |operations: &[&str], attempts_began_after: &[usize]| {
            let calls: Vec<Call> = (1..).zip(operations).map(|(number, operation)| call(number, operation)).collect();
            mints_are_kept(&calls, attempts_began_after).held
        };
        assert!(kept(&CLEAN, &[0]));
        assert!(!kept(&CLEAN[1..], &[0]), "not described");
        assert!(!kept(&CLEAN[..5], &[0]), "not stored");
        assert!(!kept(&["DescribeSecret", "GetSecretValue", "verify", "list", "create", "list"], &[0]), "not at once");
        assert!(!kept(&CLEAN, &[0, 2]), "checked by an earlier attempt only");
    }

    fn call(number: usize, operation: &str) -> Call {
        Call {
            number,
            tag: "function".to_owned(),
            service: Service::Kosli,
            operation: operation.to_owned(),
            detail: String::new(),
            key_id: None,
            fault: None,
            effect: Some(200),
            outcome: String::new(),
            status: Some(200),
        }
    }
}
