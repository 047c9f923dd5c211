//! The probe watches every call: it puts the faults in, ends killed executions, and looks whether the promises hold.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use emulator::kosli::Key;
use emulator::{BoxFuture, Call, Emulator, Fault, Hook};
use tokio::sync::Notify;

use crate::faults::{Trouble, Which};
use crate::gate::Gate;
use crate::testbed::Execution;
use crate::trace::Told;
use crate::values::key_in;

/// No invocation makes as many calls as this, whatever befalls them. One that does repeats something blindly, and would go on
/// for ever, since no time passes where nobody waits.
pub(crate) const MOST_CALLS: usize = 100;

/// Watches every call: it puts the faults in, ends killed executions, and looks whether the promises hold at this instant.
pub struct Probe {
    emulator: Emulator,
    strangers: Mutex<Vec<String>>,
    /// The secrets whose keys are watched.
    pub(crate) arns: Mutex<Vec<String>>,
    /// What befalls the call with this number, counted from one after the set-up, and for how long the calls of the same
    /// operation after it.
    faults: Mutex<BTreeMap<usize, (Fault, Duration)>>,
    /// What befalls which call.
    troubles: Mutex<Vec<(Which, Trouble)>>,
    /// How often what was asked for.
    seen: Mutex<BTreeMap<String, usize>>,
    /// What befalls the first call of an operation.
    pub(crate) first_of: Mutex<Vec<(String, Fault)>>,
    /// Faults that go on: the operation, what befalls it, and until when.
    lasting: Mutex<Vec<(String, Fault, SystemTime)>>,
    count: AtomicUsize,
    pub(crate) leashes: Vec<Leash>,
    pub(crate) violations: Mutex<Vec<String>>,
    /// What has happened, in order.
    pub(crate) told: Mutex<Vec<Told>>,
    /// The values of keys that a person has ended: what becomes of them is not the function's.
    ended_by_hand: Mutex<Vec<String>>,
    /// Whether the current key is expected to be alive at all.
    pub current_is_alive: AtomicBool,
    /// Whether a pending key is expected never to be put into a grace period.
    pub pending_is_safe: AtomicBool,
    /// Puts the calls of two executions into an order; `None`: they come as they come.
    pub(crate) gate: Mutex<Option<Arc<dyn Gate>>>,
}

/// What ends the invocation that an execution environment is at.
pub(crate) struct Leash {
    tag: String,
    pub(crate) kill: Notify,
    /// How many calls the invocation has made.
    pub(crate) calls: AtomicUsize,
}

impl Leash {
    fn of(execution: &Execution) -> Self {
        Self { tag: execution.tag.clone(), kill: Notify::new(), calls: AtomicUsize::new(0) }
    }
}

impl Hook for Probe {
    fn before<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Option<Fault>> {
        Box::pin(async move {
            let gate = self.gate.lock().unwrap().clone();
            if let Some(gate) = gate {
                gate.pass(call).await;
            }
            let number = self.count.fetch_add(1, Ordering::SeqCst) + 1;
            self.leash(call);
            let now = self.emulator.clock().now();
            let which = Which::next(call, &mut self.seen.lock().unwrap());
            let named = self.troubles.lock().unwrap().iter().find(|(call, _)| *call == which).cloned();
            let named = named.map(|(_, Trouble { fault, lasts })| (fault, lasts));
            if let Some((fault, lasts)) = named.or_else(|| self.faults.lock().unwrap().remove(&number)) {
                self.lasting.lock().unwrap().push((call.operation.clone(), fault.clone(), now + lasts));
                return Some(fault);
            }
            let mut first_of = self.first_of.lock().unwrap();
            if let Some(place) = first_of.iter().position(|(operation, _)| *operation == call.operation) {
                return Some(first_of.swap_remove(place).1);
            }
            drop(first_of);
            let lasting = self.lasting.lock().unwrap();
            let ongoing =
                |(operation, _, until): &&(String, Fault, SystemTime)| *operation == call.operation && now < *until;
            lasting.iter().find(ongoing).map(|(_, fault, _)| fault.clone())
        })
    }

    fn after(&self, call: &Call) {
        self.told.lock().unwrap().push(Told::Called(call.number));
        self.look(&format!("after call {} ({} {})", call.number, call.operation, call.detail));
    }

    fn kill(&self, call: &Call) {
        for leash in self.leashes.iter().filter(|leash| leash.tag == call.tag) {
            leash.kill.notify_one();
        }
    }
}

impl Probe {
    /// One that has seen nothing yet, for these execution environments and this secret.
    pub(crate) fn new(emulator: &Emulator, executions: &[Execution], arn: &str, strangers: &[String]) -> Self {
        Self {
            emulator: emulator.clone(),
            strangers: Mutex::new(strangers.to_vec()),
            arns: Mutex::new(vec![arn.to_owned()]),
            faults: Mutex::default(),
            troubles: Mutex::default(),
            seen: Mutex::default(),
            first_of: Mutex::default(),
            lasting: Mutex::default(),
            count: AtomicUsize::new(0),
            leashes: executions.iter().map(Leash::of).collect(),
            violations: Mutex::default(),
            told: Mutex::default(),
            ended_by_hand: Mutex::default(),
            current_is_alive: true.into(),
            pending_is_safe: true.into(),
            gate: Mutex::default(),
        }
    }

    /// The promises that hold at every instant: the current key works, the pending key is nobody's victim, and nobody else's
    /// keys are touched.
    pub fn look(&self, when: &str) {
        for arn in self.arns.lock().unwrap().iter() {
            self.look_at(arn, when);
        }
    }

    fn look_at(&self, arn: &str, when: &str) {
        let held = |label: &str| {
            self.emulator.with_secrets_manager(|service| {
                let secret = service.secret(arn)?;
                key_in(secret.versions.labelled(label)?.text()?)
            })
        };
        let (current, pending) = (held("AWSCURRENT"), held("AWSPENDING"));
        let now = self.emulator.clock().now();
        let mut broken = Vec::new();
        let ended_by_hand = self.ended_by_hand.lock().unwrap();
        self.emulator.with_kosli(|kosli| {
            if let Some(current) = &current
                && !ended_by_hand.contains(current)
                && self.current_is_alive.load(Ordering::SeqCst)
                && !kosli.keys().any(|key| key.value == *current && key.is_live_at(now))
            {
                broken.push("I1: the key under AWSCURRENT is dead");
            }
            if let Some(pending) = &pending
                && pending_only(&current, pending)
                && !ended_by_hand.contains(pending)
                && self.pending_is_safe.load(Ordering::SeqCst)
                && kosli
                    .keys()
                    .any(|key| key.value == *pending && (key.revoked_at.is_some() || key.rotated_at.is_some()))
            {
                broken.push("I4: the key under AWSPENDING was revoked or put into a grace period");
            }
            let touched = |key: &&Key| key.revoked_at.is_some() || key.rotated_at.is_some();
            let strangers = self.strangers.lock().unwrap();
            if kosli.keys().filter(|key| strangers.contains(&key.id)).any(|key| touched(&key)) {
                broken.push("I4: a stranger's key was touched");
            }
        });
        self.violations.lock().unwrap().extend(broken.iter().map(|what| format!("{what}, {when}")));
    }

    /// Ends an invocation that goes on and on.
    fn leash(&self, call: &Call) {
        for leash in self.leashes.iter().filter(|leash| leash.tag == call.tag) {
            if leash.calls.fetch_add(1, Ordering::SeqCst) == MOST_CALLS {
                leash.kill.notify_one();
            }
        }
    }

    /// Lets a fault befall the call with this number, counted from one, and the calls of the same operation for as long
    /// after it as `lasts` says.
    pub fn fault(&self, call: usize, fault: Fault, lasts: Duration) {
        self.faults.lock().unwrap().insert(call, (fault, lasts));
    }

    /// Lets this befall that call.
    pub fn trouble(&self, which: Which, trouble: Trouble) {
        self.troubles.lock().unwrap().push((which, trouble));
    }

    /// From now on nothing befalls any call.
    pub fn end_faults(&self) {
        self.faults.lock().unwrap().clear();
        self.troubles.lock().unwrap().clear();
        self.first_of.lock().unwrap().clear();
        self.lasting.lock().unwrap().clear();
    }

    /// How many calls have come since the set-up.
    pub fn calls(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// A key that is nobody's business here, from now on.
    pub fn add_stranger(&self, id: String) {
        self.strangers.lock().unwrap().push(id);
    }

    /// A person has ended the key with this value, or has gone back to it although it is dead: that it does not work is not the
    /// function's doing.
    pub fn ended_by_hand(&self, value: String) {
        self.ended_by_hand.lock().unwrap().push(value);
    }

    /// Something else that must not be: it is reported with what the probe itself has seen.
    pub fn report(&self, what: String) {
        self.violations.lock().unwrap().push(what);
    }
}

fn pending_only(current: &Option<String>, pending: &str) -> bool {
    current.as_deref() != Some(pending)
}
