//! Two executions of `createSecret` with one token: every order of their calls, not lucky timing.
//!
//! A gate holds each call until it is its turn, and a search goes through all orders. Orders that differ only in the
//! succession of calls that do not influence each other (two reads; a call to Kosli and one to Secrets Manager) are one order:
//! the search skips the second (sleep sets, as in stateless model checking).

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use emulator::kosli::{ListInGrace, RotateInGrace, SuccessorId, Switches};
use emulator::rotation::{Event, step_event};
use emulator::runtime_api::Outcome;
use emulator::{BoxFuture, Call, Fault, Service};
use testbed::{Gate, RETRIES, Setting, Testbed, World, say, token};
use tokio::sync::oneshot;

/// Calls that wait for their turn, by execution. Those that an execution makes side by side arrive in any order, so they are
/// sorted: the same order of turns is then the same order of calls.
#[derive(Default)]
struct Turnstile {
    waiting: [Mutex<Queue>; 2],
    arrivals: AtomicUsize,
}

/// The calls of an execution with their numbers of arrival, and what lets each pass.
type Queue = BTreeMap<(Waiting, usize), oneshot::Sender<()>>;

/// What matters of a call for the order of calls.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    kosli: bool,
    operation: String,
    detail: String,
}

impl Waiting {
    /// Whether the two calls have the same result in either order.
    fn commutes_with(&self, other: &Self) -> bool {
        let writes = |call: &Self| {
            ["rotate", "create", "revoke", "PutSecretValue", "UpdateSecretVersionStage"]
                .contains(&call.operation.as_str())
        };
        // Authenticating moves `last_used_at` of the key that is being replaced, which no decision looks at.
        self.kosli != other.kosli || (!writes(self) && !writes(other))
    }
}

impl Gate for Turnstile {
    fn pass<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let execution = usize::from(call.tag == "b");
            // The attempt bits in it are random.
            let detail = call.detail.split(" expires_at=").next().unwrap_or_default().to_owned();
            let (pass, passed) = oneshot::channel();
            let waiting = Waiting { kosli: call.service == Service::Kosli, operation: call.operation.clone(), detail };
            let arrival = self.arrivals.fetch_add(1, Ordering::SeqCst);
            self.waiting[execution].lock().unwrap().insert((waiting, arrival), pass);
            // A sender that is dropped lets everybody pass: the end of a case.
            let _ = passed.await;
        })
    }
}

impl Turnstile {
    fn first(&self, execution: usize) -> Option<Waiting> {
        self.waiting[execution].lock().unwrap().keys().next().map(|(waiting, _)| waiting.clone())
    }

    fn pass(&self, execution: usize) {
        if let Some((_, pass)) = self.waiting[execution].lock().unwrap().pop_first() {
            let _ = pass.send(());
        }
    }

    /// Waits until no more calls arrive by themselves.
    async fn settle(&self) {
        let (mut quiet, mut seen) = (0, self.arrivals.load(Ordering::SeqCst));
        while quiet < 48 {
            tokio::task::yield_now().await;
            let now = self.arrivals.load(Ordering::SeqCst);
            quiet = if now == seen { quiet + 1 } else { 0 };
            seen = now;
        }
    }
}

/// A point at which both executions had a call waiting.
struct Node {
    options: [Waiting; 2],
    /// Executions whose waiting call need not go first here: that order is (equivalent to) one seen before.
    asleep: Vec<usize>,
    chosen: usize,
    explored: Vec<usize>,
}

/// Goes through all orders; `case` is run for each, and says how it went.
struct Search {
    path: Vec<Node>,
    orders: usize,
}

impl Search {
    /// Runs both executions in one order: the recorded path first, then always the first that is not asleep. False: the
    /// order is equivalent to one seen before, and was left at that point.
    async fn run(&mut self, world: &World, event: &serde_json::Value) -> Option<[Outcome; 2]> {
        let turnstile = Arc::new(Turnstile::default());
        world.set_gate(Some(turnstile.clone()));
        let (mut depth, mut asleep): (usize, Vec<usize>) = (0, Vec::new());
        let executions = async { tokio::join!(world.invoke(0, event), world.invoke(1, event)) };
        let mut redundant = false;
        let scheduler = async {
            loop {
                turnstile.settle().await;
                match [turnstile.first(0), turnstile.first(1)] {
                    [Some(a), Some(b)] => {
                        if depth == self.path.len() {
                            let free = (0..2).find(|execution| !asleep.contains(execution));
                            let Some(chosen) = free else {
                                redundant = true;
                                return;
                            };
                            self.path.push(Node {
                                options: [a, b],
                                asleep: asleep.clone(),
                                chosen,
                                explored: vec![chosen],
                            });
                        }
                        let node = &self.path[depth];
                        assert_eq!(
                            Some(&node.options[node.chosen]),
                            turnstile.first(node.chosen).as_ref(),
                            "not repeatable"
                        );
                        let chosen = &node.options[node.chosen];
                        asleep = (0..2)
                            .filter(|other| *other != node.chosen)
                            .filter(|other| node.asleep.contains(other) || node.explored.contains(other))
                            .filter(|other| node.options[*other].commutes_with(chosen))
                            .collect();
                        turnstile.pass(node.chosen);
                        depth += 1;
                    }
                    [Some(_), None] => {
                        asleep.clear();
                        turnstile.pass(0);
                    }
                    [None, Some(_)] => {
                        asleep.clear();
                        turnstile.pass(1);
                    }
                    [None, None] => tokio::task::yield_now().await,
                }
            }
        };
        let outcome = tokio::select! {
            (a, b) = executions => Some([a, b]),
            () = scheduler => None,
        };
        world.set_gate(None);
        drop(turnstile);
        assert!(redundant == outcome.is_none());
        self.orders += usize::from(outcome.is_some());
        outcome
    }

    /// Turns to the next order; false: all have been seen.
    fn turn(&mut self) -> bool {
        while let Some(node) = self.path.last_mut() {
            let next = (0..2).find(|option| !node.explored.contains(option) && !node.asleep.contains(option));
            if let Some(next) = next {
                node.chosen = next;
                node.explored.push(next);
                return true;
            }
            self.path.pop();
        }
        false
    }
}

fn settings() -> Vec<Setting> {
    let default = Switches::default;
    [
        ("default", default()),
        ("409", Switches { rotate_in_grace: RotateInGrace::Conflict, ..default() }),
        ("404", Switches { rotate_in_grace: RotateInGrace::NotFound, ..default() }),
        ("hidden", Switches { list_in_grace: ListInGrace::Hidden, ..default() }),
        ("same id", Switches { successor_id: SuccessorId::Same, ..default() }),
    ]
    .into_iter()
    .map(|(name, switches)| Setting { name: name.to_owned(), switches, ..Setting::default() })
    .collect()
}

/// Runs every order in every setting; `disturb` may put a fault in.
fn every_order(disturb: impl Fn(&World)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let begin = Instant::now();
    let mut orders = 0;
    runtime.block_on(async {
        let testbed = Testbed::new(2).await;
        for setting in settings() {
            let mut search = Search { path: Vec::new(), orders: 0 };
            loop {
                let world = testbed.world(&setting);
                let same_id = setting.switches.successor_id == SuccessorId::Same;
                world.probe.pending_is_safe.store(!same_id, Ordering::SeqCst);
                let rotation = world.begin_rotation(&token("second", 0)).unwrap();
                disturb(&world);
                let event = step_event(&rotation, "createSecret");
                if let Some(outcomes) = search.run(&world, &event).await {
                    // Whoever loses is told the truth: nothing of it is the operator's fault.
                    let blamed = outcomes.iter().flat_map(|outcome| outcome.as_ref().err());
                    for error in blamed {
                        let fault = ["TwinExecution", "PendingKeyDying", "Runtime.killed"];
                        assert!(fault.contains(&error.error_type.as_str()), "{error}\n{}", world.story());
                    }
                    let end = world.drive(&rotation, RETRIES).await;
                    let mut broken = world.check_completed();
                    if same_id && broken == ["I1: the new key is in its grace period"] {
                        // Where Kosli gives both successors one id, the second mint puts the first in its grace period, and
                        // nothing on the account tells them apart. The one that stores second sees it and asks for another
                        // rotation; if it was killed, nobody can. The next rotation makes it good.
                        let again = world.rotate(&token("third", 0), RETRIES).await;
                        assert_eq!(again, Event::Succeeded, "{}", world.story());
                        broken = world.check_completed();
                    }
                    let order: Vec<usize> = search.path.iter().map(|node| node.chosen).collect();
                    let story = || format!("{}: {order:?}\n{outcomes:?}\n{}", setting.name, world.story());
                    assert_eq!(end, Event::Succeeded, "{}", story());
                    assert!(broken.is_empty(), "{broken:?}\n{}", story());
                }
                if !search.turn() {
                    break;
                }
            }
            say!("{}: {} orders", setting.name, search.orders);
            assert!(search.orders > 20, "so few orders prove nothing");
            orders += search.orders;
        }
    });
    say!("{orders} orders in {:.1?}", begin.elapsed());
}

#[test]
fn every_order_of_the_calls_of_two_executions() {
    every_order(|_| {});
}

#[test]
fn every_order_where_the_loser_is_killed_before_it_can_revoke() {
    every_order(|world| world.fault_on("revoke", Fault::KillBefore));
}

#[test]
fn every_order_where_one_dies_between_mint_and_store() {
    every_order(|world| world.fault_on("PutSecretValue", Fault::KillBefore));
}
