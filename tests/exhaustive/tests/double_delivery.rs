//! Two executions of `createSecret` with one token: every order of their calls, not lucky timing.
//!
//! A gate holds each call until it is its turn, and a search goes through all orders. Orders that differ only in the
//! succession of calls that do not influence each other (two reads; a call to Kosli and one to Secrets Manager) are one order:
//! the search skips the second (sleep sets, as in stateless model checking).

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use emulator::kosli::{ListInGrace, RotateInGrace, SuccessorId, Switches};
use emulator::rotation::{Event, step_event};
use emulator::runtime_api::Outcome;
use emulator::{BoxFuture, Call, Fault, Service};
use exhaustive::{excused, on_every_core};
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

/// A case that can be run again: a setting, the first call of an operation that a fault befalls, and whose call goes first
/// wherever both executions have one waiting. It is written `SETTING; OPERATION=FAULT; 0110`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Case {
    setting: String,
    disturbed: Option<(String, Fault)>,
    order: Vec<usize>,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let disturbed = self.disturbed.as_ref().map(|(operation, fault)| format!("{operation}={fault}"));
        let order: String = self.order.iter().map(ToString::to_string).collect();
        write!(f, "{}; {}; {order}", self.setting, disturbed.unwrap_or_default())
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let [setting, disturbed, order] = text.splitn(3, "; ").collect::<Vec<_>>()[..] else {
            return Err("a setting, what is disturbed, and an order, with semicolons in between".to_owned());
        };
        let disturbed = match disturbed.split_once('=') {
            None => None,
            Some((operation, fault)) => {
                Some((operation.to_owned(), fault.parse().map_err(|error| format!("{error}"))?))
            }
        };
        let order = order.chars().map(|digit| usize::from(digit == '1')).collect();
        Ok(Self { setting: setting.to_owned(), disturbed, order })
    }
}

/// Goes through all orders, or along one.
#[derive(Default)]
struct Search {
    path: Vec<Node>,
    orders: usize,
    /// The only order to take.
    along: Option<Vec<usize>>,
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
                            let free = match &self.along {
                                None => (0..2).find(|execution| !asleep.contains(execution)),
                                Some(order) => Some(order.get(depth).copied().unwrap_or_default()),
                            };
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

/// Runs one order, and then what Secrets Manager does; the order is redundant where nothing comes back.
async fn run(
    testbed: &Testbed,
    setting: &Setting,
    disturbed: Option<&(String, Fault)>,
    search: &mut Search,
) -> Option<World> {
    let world = testbed.world(setting);
    excused::pending_key_may_be_rotated(&world);
    let rotation = world.begin_rotation(&token("second", 0)).unwrap();
    if let Some((operation, fault)) = disturbed {
        world.fault_on(operation, fault.clone());
    }
    let outcomes = search.run(&world, &step_event(&rotation, "createSecret")).await?;
    let story = || {
        let order = search.path.iter().map(|node| node.chosen).collect();
        let case = Case { setting: setting.name.clone(), disturbed: disturbed.cloned(), order };
        format!("{}\n{outcomes:?}\n{}", exhaustive::replay("double_delivery", &case), world.story())
    };
    // Whoever loses is told the truth: nothing of it is the operator's fault.
    for error in outcomes.iter().flat_map(|outcome| outcome.as_ref().err()) {
        let fault = ["TwinExecution", "PendingKeyDying", "Runtime.killed"];
        assert!(fault.contains(&error.error_type.as_str()), "{error}\n{}", story());
    }
    let end = world.drive(&rotation, RETRIES).await;
    let mut broken = world.check_completed();
    if broken == ["I1: the new key is in its grace period"] && excused::one_id(&setting.switches) {
        // The one that stores second sees it and asks for another rotation; if it was killed, nobody can.
        let again = world.rotate(&token("third", 0), RETRIES).await;
        assert_eq!(again, Event::Succeeded, "{}", story());
        broken = world.check_completed();
    }
    assert_eq!(end, Event::Succeeded, "{}", story());
    assert!(broken.is_empty(), "{broken:?}\n{}", story());
    Some(world)
}

/// Runs every order in every setting, with a fault at the first call of an operation; or the one case that is asked for.
fn every_order(disturbed: Option<(&str, Fault)>) {
    let disturbed = disturbed.map(|(operation, fault)| (operation.to_owned(), fault));
    let asked_for: Option<Case> = exhaustive::asked_for();
    let begin = Instant::now();
    let orders = AtomicUsize::new(0);
    let settings = settings();
    on_every_core(settings.len(), 2, async |testbed, number| {
        let setting = &settings[number];
        if let Some(Case { setting: name, disturbed, order }) = &asked_for {
            if setting.name == *name {
                let mut search = Search { along: Some(order.clone()), ..Search::default() };
                run(testbed, setting, disturbed.as_ref(), &mut search).await.unwrap();
            }
            return;
        }
        let mut search = Search::default();
        loop {
            run(testbed, setting, disturbed.as_ref(), &mut search).await;
            if !search.turn() {
                break;
            }
        }
        say!("{}: {} orders", setting.name, search.orders);
        assert!(search.orders > 20, "so few orders prove nothing");
        orders.fetch_add(search.orders, Ordering::SeqCst);
    });
    say!("{} orders in {:.1?}", orders.into_inner(), begin.elapsed());
    excused::say_what_was_excused();
}

#[test]
fn every_order_of_the_calls_of_two_executions() {
    every_order(None);
}

#[test]
fn every_order_where_the_loser_is_killed_before_it_can_revoke() {
    every_order(Some(("revoke", Fault::KillBefore)));
}

#[test]
fn every_order_where_one_dies_between_mint_and_store() {
    every_order(Some(("PutSecretValue", Fault::KillBefore)));
}

/// A case is read again from what is printed, and takes the same course: the same two calls wait at every turn.
#[test]
fn an_order_replays() {
    let settings = settings();
    Testbed::run(async |testbed| {
        for (setting, turns) in settings.iter().zip([3, 7, 11, 13, 17]) {
            let disturbed = ("revoke".to_owned(), Fault::KillBefore);
            let mut search = Search::default();
            for _ in 0..turns {
                run(testbed, setting, Some(&disturbed), &mut search).await;
                assert!(search.turn(), "there are so many orders");
            }
            // What it was turned to is the next one; one that is redundant is left halfway.
            while run(testbed, setting, Some(&disturbed), &mut search).await.is_none() {
                assert!(search.turn(), "there are so many orders");
            }
            let order: Vec<usize> = search.path.iter().map(|node| node.chosen).collect();
            let case = Case { setting: setting.name.clone(), disturbed: Some(disturbed.clone()), order };
            assert_eq!(case.to_string().parse(), Ok(case.clone()));

            let mut along = Search { along: Some(case.order.clone()), ..Search::default() };
            run(testbed, setting, Some(&disturbed), &mut along).await.unwrap();
            let seen = |search: &Search| -> Vec<_> {
                search.path.iter().map(|node| (node.options.clone(), node.chosen)).collect()
            };
            assert!(case.order.contains(&1), "the second goes first somewhere: {case}");
            assert_eq!(seen(&along), seen(&search), "{case}");
        }
    });
}
