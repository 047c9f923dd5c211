//! The machine: one [`Emulator`] has both services behind one lock, their clock, and the way of a call to them.
//!
//! The way of a call, all of it in `Emulator::handle`:
//! arrive (number, log) → the hook's [`Hook::before`], which may wait and may name a [`Fault`] → effects of earlier calls
//! that are due by now → the effect, under one lock → [`Hook::after`] → the answer, or what the fault makes of it.
//!
//! A call that has arrived is handled to its end even if its client has gone, as a real service would.
//!
//! Thousands of test cases run against one emulator and its sockets: [`Emulator::reset`] begins the world anew, and
//! nothing of an earlier case (a call that is held back, a late effect) reaches the next one.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, Response};
use tokio::sync::{Notify, watch};

use crate::call::{Call, Service};
use crate::clock::Clock;
use crate::fault_plan::FaultPlan;
use crate::faults::{Effect, Fault};
use crate::hook::Hook;
use crate::kosli::Kosli;
use crate::reply::Reply;
use crate::runtime_api::Environment;
use crate::secrets_manager::SecretsManager;

/// Both services, their clock and everything that listens for them. Cloning it gives another handle to the same emulator.
#[derive(Clone)]
pub struct Emulator(Arc<Shared>);

struct Shared {
    clock: Clock,
    state: Mutex<State>,
    faults: FaultPlan,
    /// For a function that another program has started.
    environment: Arc<Environment>,
    /// Calls that have arrived and that wait for no time to pass.
    busy: AtomicUsize,
    /// Goes up with everything that happens, so that [`Emulator::settle`] sees whether something did.
    activity: AtomicUsize,
    /// Counts the calls of [`Emulator::reset`]; what waits on behalf of a call gives up when it changes.
    generation: watch::Sender<u64>,
    /// Whose turn it is to move a frozen clock: two who move it at once would end two timers where one was meant.
    turn: tokio::sync::Mutex<()>,
    rotation_began: Notify,
}

struct State {
    secrets_manager: SecretsManager,
    kosli: Kosli,
    hook: Option<Arc<dyn Hook>>,
    calls: Vec<Call>,
    /// Effects that are still to come, by due time, then by the number of their call.
    late: BTreeMap<(SystemTime, usize), Request<Bytes>>,
}

/// How often [`Emulator::settle`] lets all others run before it believes that nothing more will happen by itself. An
/// answer passes through some ten tasks and polls of the sockets until it has become the client's next call.
const QUIET_ROUNDS: usize = 32;

impl Emulator {
    /// An emulator without secrets, keys, hook and sockets.
    pub fn new(clock: Clock) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State::new(&clock)),
            clock,
            faults: FaultPlan::default(),
            environment: Arc::default(),
            busy: AtomicUsize::new(0),
            activity: AtomicUsize::new(0),
            generation: watch::Sender::new(0),
            turn: tokio::sync::Mutex::new(()),
            rotation_began: Notify::new(),
        }))
    }

    /// The clock of both services.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Looks at Secrets Manager, or changes it without a call.
    pub fn with_secrets_manager<T>(&self, f: impl FnOnce(&mut SecretsManager) -> T) -> T {
        f(&mut self.settled_state().secrets_manager)
    }

    /// Looks at Kosli, or changes it as a person at Kosli's web pages would.
    pub fn with_kosli<T>(&self, f: impl FnOnce(&mut Kosli) -> T) -> T {
        f(&mut self.settled_state().kosli)
    }

    /// Who is asked before and told after every call from now on.
    pub fn set_hook(&self, hook: Arc<dyn Hook>) {
        self.state().hook = Some(hook);
    }

    /// Faults that the calls to come meet, where the hook names none.
    pub fn faults(&self) -> &FaultPlan {
        &self.0.faults
    }

    /// All calls to both services so far, in the order of their arrival.
    pub fn calls(&self) -> Vec<Call> {
        self.settled_state().calls.clone()
    }

    /// Begins anew: no secrets, keys, calls, late effects, hook and faults, and the clock where it started.
    ///
    /// Sockets and idle connections stay, so that the same clients can go on. Calls that are being handled or never
    /// answered end without any further effect, and their connections with them. A request that is still on its way has
    /// no effect either, provided that its client (its future, its process) has been dropped before.
    pub fn reset(&self) {
        self.0.generation.send_modify(|generation| *generation += 1);
        self.0.clock.rewind();
        self.0.faults.clear();
        let empty = State::new(&self.0.clock);
        // The hook may be the last to hold something of the test's that calls back: it is dropped outside the lock.
        let former = std::mem::replace(&mut *self.state(), empty);
        drop(former);
    }

    /// Waits until `RotateSecret` has been called since the last time this returned.
    pub async fn rotation_began(&self) {
        self.0.rotation_began.notified().await;
    }

    /// Lets everything run that can, then moves a frozen clock to the moment at which its next timer ends. False where
    /// no timer runs, and on a clock that follows the machine's.
    ///
    /// For who drives clients that sleep on the emulator's clock: `select!` the client's future against a loop of
    /// this. It is exact on a runtime of one thread, where clients, server and this take turns.
    pub async fn let_time_pass(&self) -> bool {
        let generation = *self.0.generation.borrow();
        let _turn = self.0.turn.lock().await;
        self.settle().await;
        // Time that was to pass before a reset must not pass after it.
        generation == *self.0.generation.borrow() && self.0.clock.is_frozen() && self.0.clock.fire_next_timer()
    }

    /// Waits until no call is being handled and nothing happens any more unless time passes.
    pub async fn settle(&self) {
        let mut quiet = 0;
        let mut seen = self.0.activity.load(Ordering::SeqCst);
        while quiet < QUIET_ROUNDS {
            // On a runtime of one thread a yield lets every task run that is ready, and looks at the sockets.
            tokio::task::yield_now().await;
            let now = self.0.activity.load(Ordering::SeqCst);
            quiet = if now == seen && self.0.busy.load(Ordering::SeqCst) == 0 { quiet + 1 } else { 0 };
            seen = now;
        }
    }

    /// For a hook that holds a call back while others go on and time passes for them: until what comes back is dropped, one call
    /// that is being handled counts as one that waits for time.
    pub fn set_aside(&self) -> Aside {
        self.0.busy.fetch_sub(1, Ordering::SeqCst);
        Aside(self.clone())
    }

    /// The execution environment of a function that another program has started.
    pub(crate) fn environment(&self) -> &Arc<Environment> {
        &self.0.environment
    }

    /// Counts the calls of [`Emulator::reset`].
    pub(crate) fn generation(&self) -> watch::Receiver<u64> {
        self.0.generation.subscribe()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The state, once the late effects that are due by now have happened.
    fn settled_state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state();
        if state.apply_late_effects(self.0.clock.now()) {
            self.0.rotation_began.notify_one();
        }
        state
    }

    /// Handles one call to its end, or until [`Emulator::reset`]: then there is no reply.
    pub(crate) async fn handle_unless_reset(
        self,
        busy: Busy,
        mut reset: watch::Receiver<u64>,
        tag: Arc<str>,
        service: Service,
        request: Request<Bytes>,
    ) -> Option<Reply> {
        let reply = tokio::select! {
            biased;
            _ = reset.changed() => None,
            reply = self.handle(&tag, service, request) => Some(reply),
        };
        drop(busy);
        reply
    }

    /// Handles one call: see the top of this file.
    async fn handle(&self, tag: &str, service: Service, request: Request<Bytes>) -> Reply {
        let (mut call, hook) = {
            let mut state = self.state();
            let call = Call::new(state.calls.len() + 1, tag, service, &request, &state.kosli);
            state.calls.push(call.clone());
            (call, state.hook.clone())
        };
        let named = match &hook {
            Some(hook) => hook.before(&call).await,
            None => None,
        };
        call.fault = named.or_else(|| self.0.faults.fault_for(&call));

        if call.fault == Some(Fault::KillBefore) {
            hook.iter().for_each(|hook| hook.kill(&call));
        }
        let reply = {
            let mut state = self.settled_state();
            let answer = match call.fault.as_ref().map_or(Effect::Now, Fault::effect) {
                Effect::Never => None,
                Effect::Now => Some(state.apply(service, &request)),
                Effect::Later(by) => {
                    state.late.insert((self.0.clock.now() + by, call.number), request.clone());
                    self.wake_for_late_effect(by);
                    None
                }
            };
            if let Some(answer) = &answer {
                call.note_effect(answer);
            }
            let reply = Reply::new(service, &request, call.fault.as_ref(), answer);
            call.status = reply.status();
            if let Some(logged) = state.calls.get_mut(call.number - 1) {
                logged.clone_from(&call);
            }
            reply
        };
        if call.begins_rotation() {
            self.0.rotation_began.notify_one();
        }
        if call.fault == Some(Fault::KillAfter) {
            hook.iter().for_each(|hook| hook.kill(&call));
        }
        hook.iter().for_each(|hook| hook.after(&call));
        reply
    }

    /// Lets a late effect happen when it is due, also where no call looks: it carries that time, and not the next look's.
    fn wake_for_late_effect(&self, by: Duration) {
        let emulator = self.clone();
        let mut reset = self.0.generation.subscribe();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                _ = reset.changed() => {}
                () = emulator.0.clock.timer(by) => drop(emulator.settled_state()),
            }
        });
    }

    /// Waits until `by` has passed on the clock; a frozen one is moved as soon as nothing else happens.
    pub async fn sleep(&self, by: Duration) {
        tokio::select! {
            () = self.0.clock.timer(by) => {}
            never = self.keep_time_moving() => match never {},
        }
    }

    /// Waits until hyper drops this future because the client has closed the connection.
    pub(crate) async fn until_client_gives_up(&self) -> ! {
        match self.keep_time_moving().await {}
    }

    /// While a client waits for nothing but time, nothing else would move a frozen clock.
    async fn keep_time_moving(&self) -> Infallible {
        let generation = *self.0.generation.borrow();
        while self.0.clock.is_frozen() && generation == *self.0.generation.borrow() {
            if !self.let_time_pass().await {
                // The client's timer is still to come.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        pending().await
    }
}

impl State {
    fn new(clock: &Clock) -> Self {
        Self {
            secrets_manager: SecretsManager::new(clock.clone()),
            kosli: Kosli::new(clock.clone()),
            hook: None,
            calls: Vec::new(),
            late: BTreeMap::new(),
        }
    }

    fn apply(&mut self, service: Service, request: &Request<Bytes>) -> Response<Bytes> {
        match service {
            Service::SecretsManager => self.secrets_manager.handle(request),
            Service::Kosli => self.kosli.handle(request),
        }
    }

    /// Lets the effects happen that are due by `now`. True if one of them was the beginning of a rotation.
    fn apply_late_effects(&mut self, now: SystemTime) -> bool {
        let mut begins_rotation = false;
        while let Some(entry) = self.late.first_entry().filter(|entry| entry.key().0 <= now) {
            let ((_, number), request) = entry.remove_entry();
            let Some(service) = Service::of(&request) else { continue };
            let answer = self.apply(service, &request);
            if let Some(call) = self.calls.get_mut(number - 1) {
                call.note_effect(&answer);
                begins_rotation |= call.begins_rotation();
            }
        }
        begins_rotation
    }
}

/// Lets all other tasks run for a while.
pub(crate) async fn quiet_rounds() {
    for _ in 0..QUIET_ROUNDS {
        tokio::task::yield_now().await;
    }
}

/// A call that is held back while time passes for others: see [`Emulator::set_aside`].
#[must_use = "the call counts as being handled again as soon as this is dropped"]
pub struct Aside(Emulator);

impl Drop for Aside {
    fn drop(&mut self) {
        self.0.0.busy.fetch_add(1, Ordering::SeqCst);
        self.0.0.activity.fetch_add(1, Ordering::SeqCst);
    }
}

/// Counts a call as being handled for as long as it lives.
pub(crate) struct Busy(Emulator);

impl Busy {
    pub(crate) fn new(emulator: &Emulator) -> Self {
        emulator.0.busy.fetch_add(1, Ordering::SeqCst);
        emulator.0.activity.fetch_add(1, Ordering::SeqCst);
        Self(emulator.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.0.busy.fetch_sub(1, Ordering::SeqCst);
        self.0.0.activity.fetch_add(1, Ordering::SeqCst);
    }
}
