//! One call after the other, in an order that is always the same: what a case's number of a call means.
//!
//! Calls that an execution makes side by side arrive in any order. So every call waits until no more arrive by themselves, and then
//! those that wait go on one by one, sorted.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use emulator::kosli::Key;
use emulator::{Aside, BoxFuture, Call, Emulator, Fault, Hook, Service};
use testbed::Probe;
use tokio::sync::oneshot;

use crate::excused;
use crate::ledger::Ledger;

/// How often all others are let run before no call arrives by itself any more. Fewer than the emulator's own rounds before it lets time
/// pass, so that no time passes while a call waits for its turn.
const QUIET_ROUNDS: usize = 28;

/// The execution whose calls are counted, and meet the fault.
pub const FIRST: &str = "a";

/// Another execution.
pub const SECOND: &str = "b";

/// What befalls the first call of one of these operations that the first execution makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The operations.
    pub operations: &'static [&'static str],
    /// What becomes of the call.
    pub fault: Fault,
}

/// Where calls wait: by execution, operation, what they name, and number of arrival.
type Place = (String, String, String, usize);

struct Waiting {
    service: Service,
    pass: oneshot::Sender<()>,
    /// While something else goes on before this call.
    aside: Option<Aside>,
}

/// Lets one call after the other go on.
pub struct Turns {
    emulator: Emulator,
    probe: Arc<Probe>,
    ledger: Arc<Ledger>,
    waiting: Mutex<BTreeMap<Place, Waiting>>,
    arrivals: AtomicUsize,
    /// How many calls of the first execution have had their turn.
    passed: AtomicUsize,
    /// The first execution's calls are held back, while the other one goes on and time passes for it.
    holds: AtomicBool,
    trouble: Mutex<Option<Trouble>>,
    /// The calls in the order of their turns.
    log: Mutex<Vec<String>>,
    /// When each execution has looked at the labels for the last time, in turns.
    looked: Mutex<BTreeMap<String, usize>>,
    /// Keys that a person has moved a label onto, by id: when, in turns, and their values.
    moved: Mutex<BTreeMap<String, (usize, String)>>,
}

impl Turns {
    /// Nothing has come yet.
    pub fn new(emulator: &Emulator, probe: Arc<Probe>, ledger: Arc<Ledger>, trouble: Option<Trouble>) -> Self {
        Self {
            emulator: emulator.clone(),
            probe,
            ledger,
            waiting: Mutex::default(),
            arrivals: AtomicUsize::new(0),
            passed: AtomicUsize::new(0),
            holds: AtomicBool::new(false),
            trouble: Mutex::new(trouble),
            log: Mutex::default(),
            looked: Mutex::default(),
            moved: Mutex::default(),
        }
    }

    /// Waits until no more calls arrive by themselves.
    pub async fn settle(&self) {
        let (mut quiet, mut seen) = (0, self.arrivals.load(Ordering::SeqCst));
        while quiet < QUIET_ROUNDS {
            tokio::task::yield_now().await;
            let now = self.arrivals.load(Ordering::SeqCst);
            quiet = if now == seen { quiet + 1 } else { 0 };
            seen = now;
        }
    }

    /// The number that the next call has among the first execution's, if it is one of its calls whose turn it is.
    pub fn next_of_first(&self) -> Option<usize> {
        let waiting = self.waiting.lock().unwrap();
        let ((tag, ..), _) = waiting.first_key_value()?;
        (tag == FIRST).then(|| self.passed.load(Ordering::SeqCst) + 1)
    }

    /// The calls in the order of their turns.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// A person has moved a label onto a key.
    pub fn label_moved_onto(&self, key: &Key) {
        self.moved.lock().unwrap().insert(key.id.clone(), (self.log.lock().unwrap().len(), key.value.clone()));
    }

    /// Notes a look at the labels; and where a key is revoked that a label was moved onto since, that nobody could have seen it.
    fn note_look(&self, tag: &str, operation: &str, detail: &str) {
        let turn = self.log.lock().unwrap().len();
        let mut looked = self.looked.lock().unwrap();
        if operation == "DescribeSecret" {
            looked.insert(tag.to_owned(), turn);
        }
        let seen = looked.get(tag).copied().unwrap_or_default();
        let moved = self.moved.lock().unwrap();
        let unseen =
            moved.iter().filter(|(id, (moved, _))| operation == "revoke" && detail.contains(*id) && *moved >= seen);
        unseen.for_each(|(_, (_, value))| excused::label_moved_unseen(&self.probe, value.clone()));
    }

    /// How many calls of the first execution have had their turn.
    pub fn passed(&self) -> usize {
        self.passed.load(Ordering::SeqCst)
    }

    /// The executions whose next call waits for its turn, and the services that those calls go to.
    pub fn next(&self) -> BTreeMap<String, Service> {
        let holds = self.holds.load(Ordering::SeqCst);
        let waiting = self.waiting.lock().unwrap();
        let free = waiting.iter().rev().filter(|((tag, ..), _)| !holds || tag != FIRST);
        free.map(|((tag, ..), waiting)| (tag.clone(), waiting.service)).collect()
    }

    /// Lets the next call go on; while the first execution is held back, the next of another one.
    pub fn pass(&self) {
        if let Some((tag, _)) = self.next().first_key_value() {
            self.pass_of(tag);
        }
    }

    /// Lets the next call of this execution go on.
    pub fn pass_of(&self, tag: &str) {
        let mut waiting = self.waiting.lock().unwrap();
        let Some(place) = waiting.keys().find(|(of, ..)| of == tag).cloned() else { return };
        let Some(call) = waiting.remove(&place) else { return };
        drop(waiting);
        self.note_look(&place.0, &place.1, &place.2);
        self.log.lock().unwrap().push(format!("{} {} {}", place.0, place.1, place.2));
        if place.0 == FIRST {
            self.passed.fetch_add(1, Ordering::SeqCst);
        }
        let _ = call.pass.send(());
    }

    /// Holds the first execution back while this goes on.
    pub async fn before_it_goes_on(&self, other: impl Future<Output = ()>) {
        self.holds.store(true, Ordering::SeqCst);
        for waiting in self.waiting.lock().unwrap().iter_mut().filter(|((tag, ..), _)| tag == FIRST) {
            waiting.1.aside = Some(self.emulator.set_aside());
        }
        tokio::select! {
            () = other => {}
            never = async { loop { self.settle().await; self.pass(); } } => never,
        }
        self.holds.store(false, Ordering::SeqCst);
        for waiting in self.waiting.lock().unwrap().values_mut() {
            waiting.aside = None;
        }
    }

    fn trouble(&self, call: &Call) -> Option<Fault> {
        let mut trouble = self.trouble.lock().unwrap();
        let meets = call.tag == FIRST
            && trouble.as_ref().is_some_and(|trouble| trouble.operations.contains(&call.operation.as_str()));
        if meets { trouble.take().map(|trouble| trouble.fault) } else { None }
    }
}

impl Hook for Turns {
    fn before<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Option<Fault>> {
        Box::pin(async move {
            let (pass, passed) = oneshot::channel();
            let arrival = self.arrivals.fetch_add(1, Ordering::SeqCst);
            // The attempt bits in it are random.
            let detail = call.detail.split(" expires_at=").next().unwrap_or_default().to_owned();
            let held = self.holds.load(Ordering::SeqCst) && call.tag == FIRST;
            let waiting = Waiting { service: call.service, pass, aside: held.then(|| self.emulator.set_aside()) };
            let place = (call.tag.clone(), call.operation.clone(), detail, arrival);
            self.waiting.lock().unwrap().insert(place, waiting);
            // A sender that is dropped belongs to a case that has ended.
            let _ = passed.await;
            let fault = self.probe.before(call).await;
            fault.or_else(|| self.trouble(call))
        })
    }

    fn after(&self, call: &Call) {
        self.probe.after(call);
        self.ledger.observe();
    }

    fn kill(&self, call: &Call) {
        self.probe.kill(call);
    }
}
