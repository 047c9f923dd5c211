//! A world to rotate keys in: the real handler with its real clients, and the emulator on a frozen clock, in one thread.
//!
//! The clock moves only where somebody waits, so that minutes of time-outs and pauses take no time, and the same case takes
//! the same course again and again.

// Each test binary compiles its own copy and uses a part of it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

/// Says how many cases were run and how long they took, past the test harness, which keeps to itself what a test that passes
/// prints.
#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), $($argument)*);
    }};
}

mod canary;

use std::backtrace::Backtrace;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_secretsmanager::config::{BehaviorVersion, Credentials, Region};
use canary::Canaries;
use emulator::kosli::{Key, MintedBy, Role, Switches};
use emulator::rotation::{Event, Retries, step_event};
use emulator::runtime_api::{FunctionError, Outcome};
use emulator::secrets_manager::{RotationRequest, Staleness};
use emulator::{BoxFuture, Call, Emulator, Fault, Hook};
use http::Request;
use kosli_key_rotation::clock::{Clock, Wait};
use kosli_key_rotation::config::Config;
use kosli_key_rotation::http_client::Connections;
use kosli_key_rotation::kosli::Kosli;
use kosli_key_rotation::log;
use kosli_key_rotation::metrics::Metrics;
use kosli_key_rotation::rotation::{Function, LambdaContext};
use kosli_key_rotation::secrets_manager::SecretsManager;
use lambda_runtime::Diagnostic;
use serde_json::{Value, json};
use tokio::sync::Notify;

pub const ORG: &str = "acme";
pub const ACCOUNT: &str = "ci";
pub const SECRET: &str = "kosli/ci";
pub const ADMIN_SECRET: &str = "kosli/admin";
pub const DESCRIPTION: &str = "continuous integration";
pub const FUNCTION: &str = "arn:aws:lambda:eu-west-1:123456789012:function:kosli-key-rotation";
pub const HOUR: Duration = Duration::from_secs(3_600);
pub const DAY: Duration = Duration::from_secs(86_400);

/// Lambda's time-out of the function, as in the template.
pub const TIMEOUT: Duration = Duration::from_secs(90);

/// How Secrets Manager tries again; longer apart than the function's time-out and the age at which a key counts as lost.
pub const RETRIES: Retries = Retries { attempts: 6, spacing: Duration::from_secs(120) };

/// One attempt, and no other.
pub const ONCE: Retries = Retries { attempts: 1, spacing: Duration::ZERO };

/// No invocation makes as many calls as this, whatever befalls them. One that does repeats something blindly, and would go on
/// for ever, since no time passes where nobody waits.
const MOST_CALLS: usize = 100;

/// When every case begins.
pub fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// The emulator's clock as the function's: a pause lets time pass, a timer only waits for it.
struct EmulatorClock(Emulator);

impl Clock for EmulatorClock {
    fn now(&self) -> SystemTime {
        self.0.clock().now()
    }

    fn pause(&self, duration: Duration) -> Wait {
        let emulator = self.0.clone();
        Box::pin(async move { emulator.sleep(duration).await })
    }

    fn timer(&self, duration: Duration) -> Wait {
        let clock = self.0.clock().clone();
        Box::pin(async move { clock.timer(duration).await })
    }
}

thread_local! {
    /// All that the function has emitted in this thread since the last search, and what must not be in it. `None`: nobody searches.
    static EMITTED: RefCell<Option<Emitted>> = const { RefCell::new(None) };
}

#[derive(Default)]
struct Emitted {
    text: Vec<u8>,
    canaries: Canaries,
    /// What is in no key list and is as secret as a key.
    rotation_tokens: Vec<String>,
}

/// Where the function's log, metrics, answers and errors go; and panics, which may come while this is in use or gone.
struct Emit;

impl Write for Emit {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = EMITTED.try_with(|emitted| {
            if let Ok(mut emitted) = emitted.try_borrow_mut()
                && let Some(emitted) = emitted.as_mut()
            {
                emitted.text.extend_from_slice(bytes);
            }
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Has a line that the function has written in another process searched as well.
pub fn emit(line: &str) {
    let _ = writeln!(Emit, "{line}");
}

/// From now on all that the function emits in this thread is kept: its log as it is set up on Lambda, at its most verbose, and
/// what a panic shows.
fn keep_what_is_emitted() {
    static LOG: Once = Once::new();
    LOG.call_once(|| {
        let variable = |name: &str| match name {
            "AWS_LAMBDA_LOG_LEVEL" => Some("TRACE".to_owned()),
            "AWS_LAMBDA_LOG_FORMAT" => Some("JSON".to_owned()),
            _ => None,
        };
        tracing::subscriber::set_global_default(log::subscriber(variable, || Emit)).unwrap();
        let show = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            emit(&format!("{panic}\n{}", Backtrace::force_capture()));
            show(panic);
        }));
    });
    EMITTED.with_borrow_mut(|emitted| {
        emitted.get_or_insert_default();
    });
}

/// Looks for every key value that there ever was, and for every rotation token, in all that was emitted since the last search
/// (promise I5).
fn search_what_was_emitted(emulator: &Emulator) {
    let mut secrets: Vec<String> = emulator.with_kosli(|kosli| kosli.keys().map(|key| key.value.clone()).collect());
    emulator.with_secrets_manager(|service| {
        let versions = service.secrets().flat_map(|secret| secret.versions.iter());
        secrets.extend(versions.filter_map(|version| key_in(version.text()?)));
    });
    let found = EMITTED.with_borrow_mut(|emitted| {
        let emitted = emitted.as_mut()?;
        emitted.canaries.add(secrets.iter().chain(&emitted.rotation_tokens).map(String::as_str));
        let found = emitted.canaries.find(&emitted.text);
        emitted.text.clear();
        emitted.rotation_tokens.clear();
        found
    });
    let Some(found) = found else { return };
    let what = format!("I5: a key or a rotation token got out: {found}");
    // The test fails anyway; maybe it is the panic that shows a key, or the test's own assertion.
    if std::thread::panicking() { eprintln!("{what}") } else { panic!("{what}") }
}

/// One execution environment of the function: clients of its own, on a port of its own, so that its calls carry its tag.
#[derive(Clone)]
pub struct Execution {
    pub tag: String,
    secrets_manager: SecretsManager,
    kosli: Kosli,
}

/// The sockets and clients, made once for thousands of cases.
pub struct Bench {
    pub emulator: Emulator,
    executions: Vec<Execution>,
}

impl Bench {
    /// A bench with so many execution environments.
    pub async fn new(executions: usize) -> Self {
        Self::with_clock(executions, emulator::Clock::frozen(start())).await
    }

    /// The same, on another clock.
    pub async fn with_clock(executions: usize, clock: emulator::Clock) -> Self {
        keep_what_is_emitted();
        let emulator = Emulator::new(clock);
        let mut bench = Self { emulator, executions: Vec::new() };
        for number in 0..executions {
            let tag = char::from(b'a' + u8::try_from(number).unwrap()).to_string();
            let address = bench.emulator.listen(&tag, 0).await.unwrap();
            let connections = Connections::new(None).unwrap();
            let sdk = aws_config::SdkConfig::builder()
                .behavior_version(BehaviorVersion::latest())
                .region(Region::new("eu-west-1"))
                .credentials_provider(aws_sdk_secretsmanager::config::SharedCredentialsProvider::new(Credentials::new(
                    "made-up", "made-up", None, None, "tests",
                )))
                .http_client(connections.for_sdk())
                .build();
            bench.executions.push(Execution {
                tag,
                secrets_manager: SecretsManager::new(&sdk, Some(format!("http://{address}"))),
                kosli: Kosli::new(connections.client(), format!("http://{address}").parse().unwrap()),
            });
        }
        bench
    }

    /// Runs a scenario on a bench of its own, in one thread.
    pub fn run(scenario: impl AsyncFnOnce(&Self)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { scenario(&Self::new(2).await).await });
    }

    /// Begins a new case.
    pub fn world(&self, setting: &Setting) -> World {
        World::new(self, setting)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        search_what_was_emitted(&self.emulator);
    }
}

/// What distinguishes one world from another.
#[derive(Clone, Debug)]
pub struct Setting {
    pub name: String,
    pub switches: Switches,
    pub staleness: Staleness,
    pub admin: bool,
    pub revoke_immediately: bool,
    pub shape: Shape,
    pub variables: Vec<(String, String)>,
    /// Whether the account has other keys too.
    pub strangers: bool,
}

/// The shape of the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    ApiKey,
    Environment,
    /// JSON without a field for the key id.
    WithoutId,
    /// JSON with the key and nothing else, in either spelling.
    ApiKeyAlone,
    EnvironmentAlone,
    Plain,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            name: "default".to_owned(),
            switches: Switches::default(),
            staleness: Staleness::None,
            admin: true,
            revoke_immediately: false,
            shape: Shape::ApiKey,
            variables: Vec::new(),
            strangers: true,
        }
    }
}

/// One case: a secret with the key of a service account, other keys on that account, and an admin secret.
pub struct World {
    pub emulator: Emulator,
    pub setting: Setting,
    pub executions: Vec<Execution>,
    pub arn: String,
    /// The key under `AWSCURRENT` at the beginning.
    pub first_key: String,
    /// Keys that are nobody's business here.
    pub strangers: Vec<String>,
    pub probe: Arc<Probe>,
    /// What the invocations came to, for a test that fails.
    pub history: Rc<RefCell<Vec<String>>>,
}

/// Watches every call: it puts the faults in, ends killed executions, and looks whether the promises hold at this instant.
pub struct Probe {
    emulator: Emulator,
    strangers: Mutex<Vec<String>>,
    /// The secrets whose keys are watched.
    arns: Mutex<Vec<String>>,
    /// What befalls the call with this number, counted from one after the set-up, and for how long the calls of the same
    /// operation after it.
    faults: Mutex<BTreeMap<usize, (Fault, Duration)>>,
    /// What befalls the first call of an operation.
    first_of: Mutex<Vec<(String, Fault)>>,
    /// Faults that go on: the operation, what befalls it, and until when.
    lasting: Mutex<Vec<(String, Fault, SystemTime)>>,
    count: AtomicUsize,
    leashes: Vec<Leash>,
    violations: Mutex<Vec<String>>,
    /// Whether the current key is expected to be alive at all.
    pub current_is_alive: std::sync::atomic::AtomicBool,
    /// Whether a pending key is expected never to be put into a grace period.
    pub pending_is_safe: std::sync::atomic::AtomicBool,
    /// Puts the calls of two executions into an order; `None`: they come as they come.
    gate: Mutex<Option<Arc<dyn Gate>>>,
}

/// What ends the invocation that an execution environment is at.
struct Leash {
    tag: String,
    kill: Notify,
    /// How many calls the invocation has made.
    calls: AtomicUsize,
}

impl Leash {
    fn of(execution: &Execution) -> Self {
        Self { tag: execution.tag.clone(), kill: Notify::new(), calls: AtomicUsize::new(0) }
    }
}

/// Decides when a call may go on.
pub trait Gate: Send + Sync {
    fn pass<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, ()>;
}

/// What somebody else does.
type Act = Box<dyn FnOnce(&Emulator) + Send>;

/// Somebody else is faster: something happens once, right before a call of this operation.
struct Meanwhile {
    operation: &'static str,
    emulator: Emulator,
    act: Mutex<Option<Act>>,
}

impl Gate for Meanwhile {
    fn pass<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if call.operation != self.operation {
                return;
            }
            let act = self.act.lock().unwrap().take();
            if let Some(act) = act {
                act(&self.emulator);
            }
        })
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
            if let Some((fault, lasts)) = self.faults.lock().unwrap().remove(&number) {
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
        self.look(&format!("after call {} ({} {})", call.number, call.operation, call.detail));
    }

    fn kill(&self, call: &Call) {
        for leash in self.leashes.iter().filter(|leash| leash.tag == call.tag) {
            leash.kill.notify_one();
        }
    }
}

impl Probe {
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
        self.emulator.with_kosli(|kosli| {
            if let Some(current) = &current
                && self.current_is_alive.load(Ordering::SeqCst)
                && !kosli.keys().any(|key| key.value == *current && key.is_live_at(now))
            {
                broken.push("I1: the key under AWSCURRENT is dead");
            }
            if let Some(pending) = &pending
                && pending_only(&current, pending)
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

    /// From now on nothing befalls any call.
    pub fn end_faults(&self) {
        self.faults.lock().unwrap().clear();
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

    /// The faults that have not befallen a call.
    pub fn unused_faults(&self) -> usize {
        self.faults.lock().unwrap().len()
    }
}

fn pending_only(current: &Option<String>, pending: &str) -> bool {
    current.as_deref() != Some(pending)
}

/// The key in a secret's value, of whatever shape.
pub fn key_in(value: &str) -> Option<String> {
    match serde_json::from_str::<Value>(value) {
        Ok(Value::Object(fields)) => {
            let key = fields.get("api_key").or(fields.get("KOSLI_API_TOKEN"))?;
            Some(key.as_str()?.to_owned())
        }
        _ => Some(value.trim().to_owned()),
    }
}

impl World {
    fn new(bench: &Bench, setting: &Setting) -> Self {
        let emulator = bench.emulator.clone();
        // The end of the case before.
        search_what_was_emitted(&emulator);
        emulator.reset();
        // Every case of a setting takes the same course: ids, ARNs and attempt bits are the same.
        fastrand::seed(7);
        emulator.with_secrets_manager(|service| service.seed(7));
        let begin = emulator.clock().now();
        let ago = |days: u32| begin - DAY * days;
        let expiry = begin + DAY * 200;
        let (first_key, value, mut strangers, admin_value) = emulator.with_kosli(|kosli| {
            kosli.seed(7);
            kosli.switches = Switches::default();
            kosli.add_account(ORG, ACCOUNT, Role::Member);
            kosli.add_account(ORG, "platform", Role::Admin);
            let (id, value) = kosli.add_key(ORG, ACCOUNT, DESCRIPTION, ago(60), Some(expiry));
            let (_, admin_value) = kosli.add_key(ORG, "platform", "rotates", ago(60), Some(expiry));
            let mut strangers = Vec::new();
            if setting.strangers {
                strangers.push(kosli.add_key(ORG, ACCOUNT, DESCRIPTION, ago(90), Some(expiry)).0);
                strangers.push(kosli.add_key(ORG, ACCOUNT, "somebody's laptop", ago(2), Some(expiry)).0);
            }
            (id, value, strangers, admin_value)
        });
        let document = match setting.shape {
            Shape::ApiKey => json!({"note": "ours", "org": ORG, "service_account": ACCOUNT, "key_id": first_key,
                                    "api_key": value, "number": 7})
            .to_string(),
            Shape::Environment => json!({"KOSLI_ORG": ORG, "KOSLI_SERVICE_ACCOUNT": ACCOUNT,
                                         "KOSLI_API_KEY_ID": first_key, "KOSLI_API_TOKEN": value})
            .to_string(),
            Shape::WithoutId => json!({"KOSLI_ORG": ORG, "KOSLI_API_TOKEN": value}).to_string(),
            Shape::ApiKeyAlone => json!({"api_key": value}).to_string(),
            Shape::EnvironmentAlone => json!({"KOSLI_API_TOKEN": value}).to_string(),
            Shape::Plain => value.clone(),
        };
        let mut tags = Vec::new();
        if !matches!(setting.shape, Shape::ApiKey | Shape::Environment) {
            tags.push(("kosli:service-account", ACCOUNT));
            tags.push(("kosli:key-id", first_key.as_str()));
        }
        if matches!(setting.shape, Shape::ApiKeyAlone | Shape::EnvironmentAlone | Shape::Plain) {
            tags.push(("kosli:org", ORG));
        }
        let tags: Vec<Value> = tags.iter().map(|(key, value)| json!({"Key": key, "Value": value})).collect();
        let aws = |operation: &str, body: Value| aws(&emulator, operation, &body).unwrap();
        aws(
            "CreateSecret",
            json!({"Name": ADMIN_SECRET, "SecretString": admin_value, "ClientRequestToken": token("admin", 0)}),
        );
        let made = aws(
            "CreateSecret",
            json!({"Name": SECRET, "SecretString": document, "Tags": tags, "ClientRequestToken": token("first", 0)}),
        );
        let arn = made["ARN"].as_str().unwrap().to_owned();
        // The version is as old as its key.
        emulator.clock().advance(HOUR);

        // A stranger whose expiry carries our very mark: it was used, and it is older than the version.
        let mark = kosli_key_rotation::marker::Mark::of(&arn, &version_id(&token("first", 0)));
        let attempt = kosli_key_rotation::marker::Attempt::fresh(&[]);
        let marked = mark.expires_at(attempt, begin, DAY * 100);
        if setting.strangers {
            strangers.push(emulator.with_kosli(|kosli| {
                let expires_at = UNIX_EPOCH + Duration::from_secs(marked);
                kosli.add_key(ORG, ACCOUNT, DESCRIPTION, ago(1), Some(expires_at)).0
            }));
        }
        emulator.with_kosli(|kosli| kosli.switches = setting.switches.clone());
        emulator.with_secrets_manager(|service| service.set_staleness(setting.staleness));
        let executions = bench.executions.clone();
        let probe = Arc::new(Probe {
            emulator: emulator.clone(),
            strangers: Mutex::new(strangers.clone()),
            arns: Mutex::new(vec![arn.clone()]),
            faults: Mutex::default(),
            first_of: Mutex::default(),
            lasting: Mutex::default(),
            count: AtomicUsize::new(0),
            leashes: executions.iter().map(Leash::of).collect(),
            violations: Mutex::default(),
            current_is_alive: true.into(),
            pending_is_safe: true.into(),
            gate: Mutex::default(),
        });
        emulator.set_hook(probe.clone());
        Self {
            emulator,
            setting: setting.clone(),
            executions,
            arn,
            first_key,
            strangers,
            probe,
            history: Rc::default(),
        }
    }

    /// A second secret, with a key of its own on the same service account: to each other they are strangers.
    pub fn sibling(&self, name: &str) -> Self {
        let now = self.emulator.clock().now();
        let (first_key, value) = self
            .emulator
            .with_kosli(|kosli| kosli.add_key(ORG, ACCOUNT, DESCRIPTION, now - DAY * 30, Some(now + DAY * 200)));
        let document = json!({"org": ORG, "service_account": ACCOUNT, "key_id": first_key, "api_key": value});
        let token = token("sibling", 0);
        let made = self
            .aws(
                "CreateSecret",
                json!({"Name": name, "SecretString": document.to_string(), "ClientRequestToken": token}),
            )
            .unwrap();
        let arn = made["ARN"].as_str().unwrap().to_owned();
        self.probe.arns.lock().unwrap().push(arn.clone());
        Self {
            emulator: self.emulator.clone(),
            setting: self.setting.clone(),
            executions: self.executions.clone(),
            arn,
            first_key,
            strangers: self.strangers.clone(),
            probe: self.probe.clone(),
            history: self.history.clone(),
        }
    }

    /// Lets a fault befall the call with this number, counted from one, and the calls of the same operation for as long
    /// after it as `lasts` says.
    pub fn fault(&self, call: usize, fault: Fault, lasts: Duration) {
        self.probe.fault(call, fault, lasts);
    }

    /// Lets a fault befall the first call of this operation.
    pub fn fault_on(&self, operation: &str, fault: Fault) {
        self.probe.first_of.lock().unwrap().push((operation.to_owned(), fault));
    }

    /// Lets a fault befall calls that are counted from now on, as the emulator's rules say: `rotate#1=drop-after`.
    pub fn rule(&self, rule: &str) {
        self.emulator.faults().add(rule.parse().unwrap());
    }

    /// Lets something happen once, right before a call of this operation reaches its service.
    pub fn meanwhile(&self, operation: &'static str, act: impl FnOnce(&Emulator) + Send + 'static) {
        let act: Act = Box::new(act);
        self.set_gate(Some(Arc::new(Meanwhile {
            operation,
            emulator: self.emulator.clone(),
            act: Mutex::new(Some(act)),
        })));
    }

    pub fn set_gate(&self, gate: Option<Arc<dyn Gate>>) {
        *self.probe.gate.lock().unwrap() = gate;
    }

    /// Calls Secrets Manager as a person does, without being counted.
    pub fn aws(&self, operation: &str, body: Value) -> Result<Value, String> {
        aws(&self.emulator, operation, &body)
    }

    /// Calls `RotateSecret` with this token and takes the rotation that it began.
    pub fn begin_rotation(&self, token: &str) -> Option<RotationRequest> {
        let body = json!({
            "SecretId": self.arn,
            "ClientRequestToken": token,
            "RotationLambdaARN": FUNCTION,
            "RotationRules": {"AutomaticallyAfterDays": 30},
        });
        // A refusal that attempts an earlier rotation again begins one all the same.
        let _ = self.aws("RotateSecret", body);
        let rotation = self.emulator.with_secrets_manager(|service| service.take_rotations()).into_iter().next()?;
        EMITTED.with_borrow_mut(|emitted| {
            emitted.get_or_insert_default().rotation_tokens.push(rotation.rotation_token.clone());
        });
        Some(rotation)
    }

    /// Rotates once, as Secrets Manager does: all four steps, the whole process again after a failure.
    pub async fn rotate(&self, token: &str, retries: Retries) -> Event {
        let Some(rotation) = self.begin_rotation(token) else { return Event::Abandoned };
        self.drive(&rotation, retries).await
    }

    /// Drives a rotation that has begun.
    pub async fn drive(&self, rotation: &RotationRequest, retries: Retries) -> Event {
        let history = self.history.clone();
        let invoke = |event: Value| async move { self.invoke(0, &event).await };
        emulator::rotation::rotate(&self.emulator, rotation, retries, invoke, |_, event| {
            history.borrow_mut().push(event.to_string());
        })
        .await
    }

    /// Invokes one execution environment, as Lambda does: killed at the function's time-out, or when a fault says so.
    pub async fn invoke(&self, execution: usize, event: &Value) -> Outcome {
        self.invoke_within(execution, event, TIMEOUT).await
    }

    /// Invokes a function that has another time-out, or of whose time some has passed.
    pub async fn invoke_within(&self, execution: usize, event: &Value, timeout: Duration) -> Outcome {
        let function = self.function(execution);
        let clock = self.emulator.clock();
        let deadline = clock.now() + timeout;
        let context = LambdaContext { request_id: "made-up", deadline, function_arn: FUNCTION };
        let leash = &self.probe.leashes[execution];
        leash.calls.store(0, Ordering::SeqCst);
        let died = |kind: &str, what: &str| {
            Err(FunctionError { error_type: format!("Runtime.{kind}"), error_message: what.to_owned() })
        };
        // No fault excuses these two: every call has a time-out, every retry a bound, and all of it ends before the deadline.
        let broken = |kind: &str, what: String| {
            self.probe.violations.lock().unwrap().push(format!("I7: {what}, at {event}"));
            died(kind, &what)
        };
        tokio::select! {
            biased;
            () = leash.kill.notified() => match leash.calls.load(Ordering::SeqCst) {
                0..=MOST_CALLS => died("killed", "the process was killed"),
                _ => broken("endless", format!("one invocation made {MOST_CALLS} calls, and went on")),
            },
            answer = function.handle(event, context) => {
                // What the runtime sends, and what anybody may print.
                let sent = answer.clone().map_err(Diagnostic::from);
                emit(&format!("{answer:?} {sent:?}"));
                answer.map_err(|error| FunctionError {
                    error_type: error.kind().word().to_owned(),
                    error_message: error.to_string(),
                })
            }
            () = clock.timer(timeout) => {
                broken("timeout", format!("one invocation was at work after all of its {} s", timeout.as_secs()))
            }
        }
    }

    /// Invokes the first execution environment for one step of a rotation.
    pub async fn step(&self, rotation: &RotationRequest, step: &str) -> Outcome {
        self.invoke(0, &step_event(rotation, step)).await
    }

    /// Rotates over redelivery, and asserts that it completes and that every promise holds.
    pub async fn rotate_completely(&self, token: &str) {
        let end = self.rotate(token, RETRIES).await;
        assert_eq!(end, Event::Succeeded, "{}", self.story());
        self.assert_completed();
    }

    /// Drives a rotation that has begun, and asserts that it completes and that every promise holds.
    pub async fn complete(&self, rotation: &RotationRequest, retries: Retries) {
        assert_eq!(self.drive(rotation, retries).await, Event::Succeeded, "{}", self.story());
        self.assert_completed();
    }

    /// Rotates while this befalls it, and asserts that every promise holds and how many keys it took.
    pub async fn rotate_through(&self, rule: &str, retries: Retries, keys: usize) {
        self.rule(rule);
        assert_eq!(self.rotate(&second(), retries).await, Event::Succeeded, "{rule}\n{}", self.story());
        self.assert_completed();
        self.assert_chain(keys);
    }

    /// Asserts that every key but the last was lost, and that each was replaced by rotating it.
    pub fn assert_chain(&self, length: usize) {
        let minted = self.minted();
        assert_eq!(minted.len(), length, "{}", self.story());
        let mut replaced = self.first_key.clone();
        for key in &minted {
            assert_eq!(key.minted_by, MintedBy::Rotate { of: replaced.clone() }, "{}", self.story());
            replaced.clone_from(&key.id);
        }
        for lost in &minted[..length - 1] {
            assert!(lost.revoked_at.is_some(), "the lost key {} was not revoked\n{}", lost.id, self.story());
        }
        assert_eq!(self.key("AWSCURRENT").map(|key| key.id), Some(replaced));
    }

    /// Begins a rotation whose first mint has its effect and whose execution then dies: the key's value is lost.
    pub async fn lose_a_key(&self) -> (RotationRequest, Key) {
        let rotation = self.begin_rotation(&second()).unwrap();
        self.rule("rotate#1=kill-after");
        refused(self.step(&rotation, "createSecret").await, "Runtime.killed");
        let [lost] = <[Key; 1]>::try_from(self.minted()).unwrap();
        (rotation, lost)
    }

    /// Begins a rotation and runs its steps up to the promotion.
    pub async fn until_finish(&self, token: &str) -> RotationRequest {
        let rotation = self.begin_rotation(token).unwrap();
        for step in ["createSecret", "setSecret", "testSecret"] {
            done(self.step(&rotation, step).await);
        }
        rotation
    }

    /// Asserts the promises that hold once a rotation has completed.
    pub fn assert_completed(&self) {
        let broken = self.check_completed();
        assert!(broken.is_empty(), "{broken:?}\n{}", self.story());
    }

    /// Asserts the promises that hold at every instant.
    pub fn assert_kept(&self) {
        self.probe.look("now");
        let broken = self.violations();
        assert!(broken.is_empty(), "{broken:?}\n{}", self.story());
    }

    /// How many calls there were of one of these operations.
    pub fn count(&self, operations: &[&str]) -> usize {
        self.emulator.calls().iter().filter(|call| operations.contains(&call.operation.as_str())).count()
    }

    /// How many calls there were that change something.
    pub fn writes(&self) -> usize {
        self.count(&["rotate", "create", "revoke", "PutSecretValue", "UpdateSecretVersionStage"])
    }

    /// A key, dead or alive; where ids are handed on, the newest.
    pub fn kosli_key(&self, id: &str) -> Key {
        self.emulator.with_kosli(|kosli| kosli.keys().filter(|key| key.id == id).last().cloned()).unwrap()
    }

    /// Whether a key is alive now.
    pub fn lives(&self, id: &str) -> bool {
        self.kosli_key(id).is_live_at(self.emulator.clock().now())
    }

    /// Lets time pass while nothing runs.
    pub fn advance(&self, by: Duration) {
        self.emulator.clock().advance(by);
    }

    /// Clears the label of a pending version, as a person does at the command line.
    pub fn clear_pending(&self, version: &str) {
        let body = json!({"SecretId": self.arn, "VersionStage": "AWSPENDING", "RemoveFromVersionId": version});
        self.aws("UpdateSecretVersionStage", body).unwrap();
    }

    /// Stores a value by hand: it is current at once.
    pub fn put(&self, value: &str, version: &str) {
        let body = json!({"SecretId": self.arn, "SecretString": value, "ClientRequestToken": version});
        self.aws("PutSecretValue", body).unwrap();
    }

    /// Puts a tag on the secret.
    pub fn tag(&self, key: &str, value: &str) {
        let body = json!({"SecretId": self.arn, "Tags": [{"Key": key, "Value": value}]});
        self.aws("TagResource", body).unwrap();
    }

    /// Takes a tag off the secret.
    pub fn untag(&self, key: &str) {
        self.aws("UntagResource", json!({"SecretId": self.arn, "TagKeys": [key]})).unwrap();
    }

    /// Lets every execution call another Kosli than the emulator's.
    pub fn kosli_at(&mut self, host: &str) {
        let client = Connections::new(None).unwrap().client();
        for execution in &mut self.executions {
            execution.kosli = Kosli::new(client.clone(), host.parse().unwrap());
        }
    }

    /// The function, as it is configured in this world.
    pub fn function(&self, execution: usize) -> Function {
        let Execution { secrets_manager, kosli, .. } = &self.executions[execution];
        let setting = &self.setting;
        let config = Config::from_vars(|name| {
            if let Some((_, value)) = setting.variables.iter().find(|(variable, _)| variable == name) {
                return Some(value.clone());
            }
            match name {
                "KOSLI_ADMIN_SECRET_ID" if setting.admin => Some(ADMIN_SECRET.to_owned()),
                "KOSLI_REVOKE_OLD_KEY" if setting.revoke_immediately => Some("immediately".to_owned()),
                _ => None,
            }
        });
        Function {
            config: config.unwrap(),
            secrets_manager: secrets_manager.clone(),
            kosli: kosli.clone(),
            clock: Arc::new(EmulatorClock(self.emulator.clone())),
            metrics: Metrics { function_name: "kosli-key-rotation".to_owned(), level: "INFO".to_owned(), write: emit },
        }
    }

    /// The value under a label.
    pub fn value(&self, label: &str) -> Option<String> {
        self.emulator.with_secrets_manager(|service| {
            let secret = service.secret(&self.arn)?;
            Some(secret.versions.labelled(label)?.text()?.to_owned())
        })
    }

    /// The value under `AWSCURRENT`, JSON, with a field that somebody edits.
    pub fn edited(&self) -> String {
        self.with_fields(&[("note", "edited")])
    }

    /// The value under `AWSCURRENT`, of the shape with `api_key`, with this key in the place of its own.
    pub fn with_key(&self, key: &Key) -> String {
        self.with_fields(&[("api_key", &key.value), ("key_id", &key.id)])
    }

    fn with_fields(&self, fields: &[(&str, &str)]) -> String {
        let mut value: Value = serde_json::from_str(&self.value("AWSCURRENT").unwrap()).unwrap();
        for (name, field) in fields {
            value[*name] = (*field).into();
        }
        value.to_string()
    }

    /// The Kosli key whose value a label holds.
    pub fn key(&self, label: &str) -> Option<Key> {
        let value = key_in(&self.value(label)?)?;
        self.emulator.with_kosli(|kosli| kosli.keys().find(|key| key.value == value).cloned())
    }

    /// The keys that the function has minted.
    pub fn minted(&self) -> Vec<Key> {
        self.emulator.with_kosli(|kosli| kosli.keys().filter(|key| key.minted_by != MintedBy::SetUp).cloned().collect())
    }

    /// How many calls the function has made since the set-up.
    pub fn calls(&self) -> usize {
        self.probe.calls()
    }

    /// What was broken at any instant so far.
    pub fn violations(&self) -> Vec<String> {
        self.probe.violations.lock().unwrap().clone()
    }

    /// The promises that hold once a rotation has completed.
    pub fn check_completed(&self) -> Vec<String> {
        self.probe.look("at the end");
        let mut broken = self.violations();
        let now = self.emulator.clock().now();
        // By any secret: several may share an account.
        let held: Vec<String> = self.emulator.with_secrets_manager(|service| {
            let versions = service.secrets().flat_map(|secret| secret.versions.iter());
            versions
                .filter(|version| !version.stages.is_empty())
                .filter_map(|version| key_in(version.text()?))
                .collect()
        });
        for key in self.minted() {
            let dies_soon = key.dies_at().is_some_and(|death| death <= now + HOUR);
            let shares_an_id = self
                .emulator
                .with_kosli(|kosli| kosli.keys().any(|other| other.id == key.id && held.contains(&other.value)));
            if key.is_live_at(now) && !held.contains(&key.value) && !dies_soon && !shares_an_id {
                broken.push(format!("I3: the key {} lives, and no version holds it: {key:?}", key.id));
            }
        }
        match self.key("AWSCURRENT") {
            Some(key) if key.id == self.first_key && key.minted_by == MintedBy::SetUp => {
                broken.push("the key was not replaced".to_owned());
            }
            Some(key) if key.rotated_at.is_some() => broken.push("I1: the new key is in its grace period".to_owned()),
            Some(_) => {}
            None => broken.push("nothing is under AWSCURRENT".to_owned()),
        }
        let pending = self.value("AWSPENDING");
        if pending.is_some() && pending != self.value("AWSCURRENT") {
            broken.push("AWSPENDING was left behind".to_owned());
        }
        broken
    }

    /// All that a person needs to see what went wrong.
    pub fn story(&self) -> String {
        use std::fmt::Write as _;
        let mut story = String::new();
        for line in self.history.borrow().iter() {
            writeln!(story, "  {line}").unwrap();
        }
        for call in self.emulator.calls() {
            let fault = call.fault.as_ref().map(|fault| format!(" [{fault}]")).unwrap_or_default();
            writeln!(
                story,
                "  {:>3} {} {} {} -> {:?} {:?} {}{fault}",
                call.number, call.tag, call.operation, call.detail, call.effect, call.status, call.outcome
            )
            .unwrap();
        }
        for key in self.emulator.with_kosli(|kosli| kosli.keys().cloned().collect::<Vec<_>>()) {
            writeln!(story, "  {key:?}").unwrap();
        }
        story
    }
}

/// The answer of a step that succeeded.
#[track_caller]
pub fn done(outcome: Outcome) -> Value {
    outcome.unwrap_or_else(|error| panic!("{error}"))
}

/// The message of a step that failed in this way.
#[track_caller]
pub fn refused(outcome: Outcome, error_type: &str) -> String {
    match outcome {
        Err(error) if error.error_type == error_type => error.error_message,
        other => panic!("{other:?} instead of {error_type}"),
    }
}

/// An instant as the function shows it.
pub fn rfc3339(time: SystemTime) -> String {
    use aws_smithy_types::date_time::{DateTime, Format};
    let seconds = time.duration_since(UNIX_EPOCH).unwrap().as_secs();
    DateTime::from_secs(seconds.try_into().unwrap()).fmt(Format::DateTime).unwrap()
}

/// A version id that looks like AWS's.
pub fn token(kind: &str, number: usize) -> String {
    format!("{kind:0>8}-0000-4000-8000-{number:012}")
}

/// The version id of the rotation that replaces the first key.
pub fn second() -> String {
    token("second", 0)
}

/// A version id as the function knows it, from an event.
pub fn version_id(id: &str) -> kosli_key_rotation::event::VersionId {
    use kosli_key_rotation::event::Event;
    let event = json!({"Step": "createSecret", "SecretId": "s", "ClientRequestToken": id});
    match Event::parse(&event) {
        Ok(Event::Rotation(event)) => event.token,
        other => panic!("{other:?}"),
    }
}

/// Calls Secrets Manager as a person does, without being counted.
pub fn aws(emulator: &Emulator, operation: &str, body: &Value) -> Result<Value, String> {
    let request = Request::post("/")
        .header("x-amz-target", format!("secretsmanager.{operation}"))
        .header("authorization", "AWS4-HMAC-SHA256 made up")
        .body(body.to_string().into())
        .unwrap();
    let answer = emulator.with_secrets_manager(|service| service.handle(&request));
    let value = serde_json::from_slice(answer.body()).unwrap_or_default();
    if answer.status().is_success() { Ok(value) } else { Err(format!("{value}")) }
}
