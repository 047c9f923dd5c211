//! The Lambda Runtime API: what a function that polls it is told, and what it reports.
//!
//! Paths, headers and the life of a process follow the Lambda developer guide, "Using the Lambda runtime API for custom
//! runtimes" and "Understanding the Lambda execution environment lifecycle".

use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{Notify, oneshot};

use crate::reply::json;

/// Where the Runtime API begins.
pub(crate) const PREFIX: &str = "/2018-06-01/runtime/";

/// How long a step may take (the template's time-out).
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(90);

/// Why an invocation failed, as the invoker sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct FunctionError {
    /// The function's own word, or one of Lambda's: `Runtime.ExitError`, `Sandbox.Timedout`, ….
    pub error_type: String,
    /// A sentence.
    pub error_message: String,
}

impl FunctionError {
    pub(crate) fn new(error_type: &str, error_message: String) -> Self {
        Self { error_type: error_type.to_owned(), error_message }
    }
}

impl fmt::Display for FunctionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.error_type, self.error_message)
    }
}

impl std::error::Error for FunctionError {}

/// What an invocation comes to: the function's answer or its error.
pub type Outcome = Result<Value, FunctionError>;

/// One execution environment as its Runtime API sees it: invocations that wait for the function to ask for them, and
/// invocations that it works on.
#[derive(Default)]
pub(crate) struct Environment {
    invocations: Mutex<Invocations>,
    arrived: Notify,
    /// The process has reported that it cannot start: it is about to exit.
    pub(crate) failed: AtomicBool,
}

#[derive(Default)]
struct Invocations {
    waiting: VecDeque<Invocation>,
    /// Request ids, and who waits for their outcome.
    running: Vec<(String, oneshot::Sender<Outcome>)>,
}

struct Invocation {
    request_id: String,
    payload: Bytes,
    function_arn: String,
    deadline: SystemTime,
    outcome: oneshot::Sender<Outcome>,
}

impl Environment {
    /// Hands in an invocation; the receiver gets what it comes to.
    pub(crate) fn invoke(&self, request_id: &str, payload: &Value, function: &Function) -> oneshot::Receiver<Outcome> {
        let (outcome, awaited) = oneshot::channel();
        self.lock().waiting.push_back(Invocation {
            request_id: request_id.to_owned(),
            payload: payload.to_string().into(),
            function_arn: function.arn(),
            // The function lives in the machine's time, whatever the emulator's clock says.
            deadline: SystemTime::now() + function.timeout,
            outcome,
        });
        self.arrived.notify_one();
        awaited
    }

    /// The next invocation, as soon as there is one. Nothing is lost if this is dropped while it waits.
    async fn next(&self) -> Response<Bytes> {
        loop {
            if let Some(answer) = self.take_next() {
                return answer;
            }
            self.arrived.notified().await;
        }
    }

    fn take_next(&self) -> Option<Response<Bytes>> {
        let mut invocations = self.lock();
        let next = loop {
            let next = invocations.waiting.pop_front()?;
            // The invoker may have given up meanwhile.
            if !next.outcome.is_closed() {
                break next;
            }
        };
        let mut answer = json(StatusCode::OK, next.payload);
        let deadline = next.deadline.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis().to_string();
        for (name, value) in [
            ("lambda-runtime-aws-request-id", next.request_id.as_str()),
            ("lambda-runtime-deadline-ms", &deadline),
            ("lambda-runtime-invoked-function-arn", &next.function_arn),
            ("lambda-runtime-trace-id", "Root=1-00000000-000000000000000000000000;Sampled=0"),
        ] {
            if let Ok(value) = HeaderValue::from_str(value) {
                answer.headers_mut().insert(name, value);
            }
        }
        invocations.running.push((next.request_id, next.outcome));
        // A second process may be waiting, and a permit wakes only one.
        if !invocations.waiting.is_empty() {
            self.arrived.notify_one();
        }
        Some(answer)
    }

    /// Ends an invocation with what the function made of it.
    fn finish(&self, request_id: &str, outcome: Outcome) -> Response<Bytes> {
        let mut invocations = self.lock();
        let Some(at) = invocations.running.iter().position(|(running, _)| running == request_id) else {
            let body = r#"{"errorType":"InvalidRequestID","errorMessage":"no such invocation is running"}"#;
            return json(StatusCode::BAD_REQUEST, body);
        };
        // The invoker may have given up: the function was too slow.
        let _ = invocations.running.swap_remove(at).1.send(outcome);
        accepted()
    }

    /// The function cannot start: whatever it was started for fails with its reason.
    fn fail_all(&self, error: &FunctionError) -> Response<Bytes> {
        self.failed.store(true, Ordering::SeqCst);
        let mut invocations = self.lock();
        let waiting = std::mem::take(&mut invocations.waiting).into_iter().map(|invocation| invocation.outcome);
        let running = std::mem::take(&mut invocations.running).into_iter().map(|(_, outcome)| outcome);
        for outcome in waiting.chain(running) {
            let _ = outcome.send(Err(error.clone()));
        }
        accepted()
    }

    fn lock(&self) -> MutexGuard<'_, Invocations> {
        lock(&self.invocations)
    }
}

/// Answers a request to the Runtime API.
pub(crate) async fn answer(environment: &Environment, request: &Request<Bytes>) -> Response<Bytes> {
    let path = request.uri().path().strip_prefix(PREFIX).unwrap_or_default();
    let segments: Vec<&str> = path.split('/').collect();
    match (request.method(), segments.as_slice()) {
        (&Method::GET, ["invocation", "next"]) => environment.next().await,
        (&Method::POST, ["invocation", id, "response"]) => {
            // A function may answer nothing at all, or text that is not JSON.
            let body = request.body();
            let answer = serde_json::from_slice(body).unwrap_or_else(|_| String::from_utf8_lossy(body).into());
            environment.finish(id, Ok(answer))
        }
        (&Method::POST, ["invocation", id, "error"]) => environment.finish(id, Err(reported(request))),
        (&Method::POST, ["init", "error"]) => environment.fail_all(&reported(request)),
        _ => json(StatusCode::NOT_FOUND, r#"{"errorType":"NotFound","errorMessage":"not part of the Runtime API"}"#),
    }
}

/// The error that a function reports: in the body, with the type in a header too.
fn reported(request: &Request<Bytes>) -> FunctionError {
    let mut error: FunctionError = serde_json::from_slice(request.body()).unwrap_or_default();
    if error.error_type.is_empty() {
        let header = request.headers().get("lambda-runtime-function-error-type");
        error.error_type = header.and_then(|value| value.to_str().ok()).unwrap_or("Unhandled").to_owned();
    }
    error
}

fn accepted() -> Response<Bytes> {
    json(StatusCode::ACCEPTED, r#"{"status":"OK"}"#)
}

/// Who is given a line of output.
pub type OnLine = Arc<dyn Fn(&str) + Send + Sync>;

/// A Lambda function: what is run, and under which configuration.
#[derive(Clone)]
pub struct Function {
    /// Its name, the last part of its ARN.
    pub name: String,
    /// The custom-runtime executable.
    pub executable: PathBuf,
    /// Its arguments: Lambda gives none, but an interpreter needs the name of its script.
    pub arguments: Vec<String>,
    /// Configured environment variables. They win over those that the emulator sets.
    pub environment: Vec<(String, String)>,
    /// After this long an invocation fails and its process is killed.
    pub timeout: Duration,
    /// Is given every line that a process writes to its standard output or error.
    pub on_line: Option<OnLine>,
}

impl Function {
    /// The function `kosli-key-rotation` with the template's time-out and no variables of its own.
    pub fn new(executable: impl Into<PathBuf>) -> Self {
        Self {
            name: "kosli-key-rotation".to_owned(),
            executable: executable.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            timeout: DEFAULT_TIMEOUT,
            on_line: None,
        }
    }

    /// The ARN for `RotateSecret`, in the account and region that [`SecretsManager::new`] has.
    ///
    /// [`SecretsManager::new`]: crate::secrets_manager::SecretsManager::new
    pub fn arn(&self) -> String {
        format!("arn:aws:lambda:eu-west-1:123456789012:function:{}", self.name)
    }
}

/// Not derived: the variables may hold secrets.
impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Function")
            .field("name", &self.name)
            .field("executable", &self.executable)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// The words that Lambda uses for a process that has died.
pub(crate) fn exit_error(request_id: &str, how: &str) -> FunctionError {
    let message = format!("RequestId: {request_id} Error: Runtime exited with error: {how}");
    FunctionError::new("Runtime.ExitError", message)
}

/// The words that Lambda uses for an invocation that took too long.
pub(crate) fn timed_out(request_id: &str, timeout: Duration) -> FunctionError {
    let seconds = timeout.as_secs_f64();
    let message = format!("RequestId: {request_id} Error: Task timed out after {seconds:.2} seconds");
    FunctionError::new("Sandbox.Timedout", message)
}

pub(crate) fn new_request_id() -> String {
    let bits = fastrand::u128(..);
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
