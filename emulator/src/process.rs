//! The function's real executable, run as Lambda runs it: a process that is kept, killed and started again.

use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::emulator::Emulator;
use crate::runtime_api::{Environment, Function, FunctionError, Outcome, exit_error, lock, new_request_id, timed_out};

/// One execution environment with a process of its own: kept over invocations, started anew when it has died.
///
/// Several of them are several executions at once. Each has a port of its own, so that calls carry its tag.
/// Cloning it gives another handle; the process is killed with the last one.
#[derive(Clone)]
pub struct FunctionProcess(Arc<Execution>);

struct Execution {
    emulator: Emulator,
    tag: String,
    function: Function,
    /// Lambda never gives an execution environment a second invocation while it works on one.
    turn: tokio::sync::Mutex<()>,
    process: Mutex<Option<Arc<Process>>>,
    output: Arc<Mutex<Vec<String>>>,
}

/// A process, and the port that exists for it alone: an invocation can never be handed to a predecessor that has just
/// been killed and whose connection looks alive for a moment.
struct Process {
    child: Arc<Mutex<Child>>,
    killed: AtomicBool,
    environment: Arc<Environment>,
    port: AbortHandle,
    /// How the process has ended: once it has, and all its output has been read.
    ended: watch::Receiver<Option<String>>,
}

impl FunctionProcess {
    /// An execution environment whose calls carry `tag`. Its process is started by the first invocation.
    pub fn new(emulator: &Emulator, tag: &str, function: Function) -> Self {
        Self(Arc::new(Execution {
            emulator: emulator.clone(),
            tag: tag.to_owned(),
            function,
            turn: tokio::sync::Mutex::new(()),
            process: Mutex::new(None),
            output: Arc::default(),
        }))
    }

    /// Invokes the function as Lambda would, and waits for what it comes to.
    pub async fn invoke(&self, payload: &Value) -> Outcome {
        let execution = &*self.0;
        let _turn = execution.turn.lock().await;
        let request_id = new_request_id();
        let process = execution.process().await.map_err(|error| {
            let why = format!("cannot run {}: {error}", execution.function.executable.display());
            FunctionError::new("Runtime.InvalidEntrypoint", format!("RequestId: {request_id} Error: {why}"))
        })?;
        let awaited = process.environment.invoke(&request_id, payload, &execution.function);
        tokio::select! {
            biased;
            Ok(outcome) = awaited => outcome,
            how = process.ended() => Err(exit_error(&request_id, &how)),
            () = tokio::time::sleep(execution.function.timeout) => {
                self.stop().await;
                Err(timed_out(&request_id, execution.function.timeout))
            }
        }
    }

    /// Kills the process (SIGKILL) before this returns; the next invocation starts another. False if none is running.
    pub fn kill(&self) -> bool {
        lock(&self.0.process).as_ref().is_some_and(|process| process.kill())
    }

    /// Kills the process and waits until it is gone and [`FunctionProcess::output`] is complete.
    pub async fn stop(&self) {
        let process = lock(&self.0.process).take();
        if let Some(process) = process {
            process.kill();
            process.ended().await;
        }
    }

    /// The id of the process that is running.
    pub fn pid(&self) -> Option<u32> {
        lock(&self.0.process).as_ref().and_then(|process| lock(&process.child).id())
    }

    /// The function that it runs.
    pub fn function(&self) -> &Function {
        &self.0.function
    }

    /// All lines that its processes have written so far, standard output and error together.
    pub fn output(&self) -> Vec<String> {
        lock(&self.0.output).clone()
    }
}

impl Execution {
    /// The process that is running, or a new one.
    async fn process(&self) -> io::Result<Arc<Process>> {
        let former = lock(&self.process).clone();
        if let Some(process) = former {
            if process.is_alive() {
                return Ok(process);
            }
            // It may still be about to end, and its last lines belong before the first ones of its successor.
            process.kill();
            process.ended().await;
        }
        let environment = Arc::new(Environment::default());
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (address, port) = self.emulator.listen_for(&self.tag, loopback, environment.clone(), None).await?;
        let process = Arc::new(self.start(address, environment, port)?);
        *lock(&self.process) = Some(process.clone());
        Ok(process)
    }

    fn start(&self, address: SocketAddr, environment: Arc<Environment>, port: AbortHandle) -> io::Result<Process> {
        let endpoint = format!("http://{address}");
        let spawned = Command::new(&self.function.executable)
            .args(&self.function.arguments)
            // Nothing of the emulator's own environment may reach the function.
            .env_clear()
            .envs(variables(&self.function, &address.to_string(), &endpoint))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => {
                port.abort();
                return Err(error);
            }
        };
        let readers = [
            child.stdout.take().map(|pipe| tokio::spawn(self.read_lines(pipe))),
            child.stderr.take().map(|pipe| tokio::spawn(self.read_lines(pipe))),
        ];
        let (end, ended) = watch::channel(None);
        let child = Arc::new(Mutex::new(child));
        let watched = child.clone();
        tokio::spawn(async move {
            // The lock is not held while waiting, so that the process can be killed at any moment.
            let status = poll_fn(|context| pin!(lock(&watched).wait()).poll(context)).await;
            for reader in readers.into_iter().flatten() {
                // A reader that has panicked has printed why.
                let _ = reader.await;
            }
            // The invoker may have given up waiting.
            let _ = end.send(Some(status.map_or_else(|error| error.to_string(), |status| status.to_string())));
        });
        Ok(Process { child, killed: AtomicBool::new(false), environment, port, ended })
    }

    fn read_lines(&self, pipe: impl AsyncRead + Unpin + Send + 'static) -> impl Future<Output = ()> + Send + 'static {
        let (output, on_line) = (self.output.clone(), self.function.on_line.clone());
        async move {
            let mut lines = BufReader::new(pipe).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some(on_line) = &on_line {
                    on_line(&line);
                }
                lock(&output).push(line);
            }
        }
    }
}

impl Process {
    fn is_alive(&self) -> bool {
        let failed = self.killed.load(Ordering::SeqCst) || self.environment.failed.load(Ordering::SeqCst);
        !failed && self.ended.borrow().is_none()
    }

    /// Sends SIGKILL, unless the process has ended.
    fn kill(&self) -> bool {
        self.killed.store(true, Ordering::SeqCst);
        lock(&self.child).start_kill().is_ok()
    }

    /// Waits for the end of the process and of its output, and says how it ended.
    async fn ended(&self) -> String {
        match self.ended.clone().wait_for(Option::is_some).await {
            Ok(how) => how.clone().unwrap_or_default(),
            Err(_) => "nobody has watched it".to_owned(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        self.port.abort();
    }
}

/// Invokes a function that polls the port of [`Emulator::listen`] by itself: one in a debugger, for example.
pub async fn invoke_external(emulator: &Emulator, function: &Function, payload: &Value) -> Outcome {
    let request_id = new_request_id();
    let awaited = emulator.environment().invoke(&request_id, payload, function);
    match tokio::time::timeout(function.timeout, awaited).await {
        Ok(outcome) => outcome.unwrap_or_else(|_| Err(exit_error(&request_id, "the emulator ended"))),
        Err(_) => Err(timed_out(&request_id, function.timeout)),
    }
}

/// What Lambda sets for every function, and what leads to the emulator. The credentials are made up: the emulator does not check
/// them.
fn variables(function: &Function, address: &str, endpoint: &str) -> Vec<(String, String)> {
    [
        ("AWS_LAMBDA_RUNTIME_API", address),
        ("AWS_LAMBDA_FUNCTION_NAME", &function.name),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"),
        ("AWS_LAMBDA_LOG_GROUP_NAME", &format!("/aws/lambda/{}", function.name)),
        ("AWS_LAMBDA_LOG_STREAM_NAME", "emulator"),
        ("AWS_REGION", "eu-west-1"),
        ("AWS_ACCESS_KEY_ID", "emulator"),
        ("AWS_SECRET_ACCESS_KEY", "emulator"),
        ("AWS_SESSION_TOKEN", "emulator"),
        ("AWS_ENDPOINT_URL_SECRETS_MANAGER", endpoint),
        ("KOSLI_HOST", endpoint),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .chain(function.environment.iter().cloned())
    .collect()
}
