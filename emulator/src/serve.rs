//! `emulator serve`: everything on one port, for a person with the `aws` command line and `curl`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use emulator::faults::Rule;
use emulator::kosli::Role;
use emulator::process::{FunctionProcess, invoke_external};
use emulator::rotation::{self, Event, Retries};
use emulator::runtime_api::Function;
use emulator::secrets_manager::RotationRequest;
use emulator::{Call, Clock, Emulator, Hook, Identity};
use http::Request;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "\
emulator serve [--port NUMBER] [--function PATH] [--env NAME=VALUE]... [--https CA_FILE | --https-pem FILE]
               [--fault FAULT]...

  --port NUMBER       the port on 127.0.0.1 (default 7878; 0: a free one)
  --function PATH     the function's executable, which RotateSecret runs: target/debug/kosli-key-rotation
                      (default: wait for a function that somebody else starts, in a debugger for example)
  --env NAME=VALUE    a variable of the function, such as KOSLI_GRACE_PERIOD_HOURS=1; may be repeated
  --https CA_FILE     HTTPS as well, on a free port, for localhost and 127.0.0.1, with a certificate made up at each start;
                      CA_FILE is written: the authority that clients are to trust (SSL_CERT_FILE=CA_FILE)
  --https-pem FILE    the same with the certificates and the private key of a PEM file
  --fault FAULT       what goes wrong, such as rotate#1=drop-after or PutSecretValue#1..3=error-before:503; may be
                      repeated. `curl http://127.0.0.1:7878/_emulator` lists all faults and what else can be done.";

const DEFAULT_PORT: u16 = 7878;

/// The secret, organization and service account that are there from the start.
const SECRET: &str = "kosli/ci";
const ORG: &str = "acme";
const ACCOUNT: &str = "ci";

#[derive(Debug)]
struct Options {
    port: u16,
    function: Option<PathBuf>,
    environment: Vec<(String, String)>,
    https: Option<Https>,
    faults: Vec<Rule>,
}

/// Whose certificate is shown.
#[derive(Debug)]
enum Https {
    /// One that is made up; its authority is written to this file.
    MadeUp(PathBuf),
    /// The one in this file.
    Pem(PathBuf),
}

/// Serves until it is interrupted. The error is a text for the person who has typed the command.
pub(crate) async fn run(arguments: &[&str]) -> Result<(), String> {
    if arguments.iter().any(|argument| ["--help", "-h"].contains(argument)) {
        println!("{USAGE}");
        return Ok(());
    }
    let options = Options::parse(arguments)?;
    let emulator = Emulator::new(Clock::real());
    let address = emulator.listen("serve", options.port).await.map_err(|error| {
        let port = options.port;
        format!(
            "cannot listen on port {port} of 127.0.0.1 ({error}); choose another one with --port, or 0 for a free one"
        )
    })?;
    seed(&emulator)?;
    if let Some(https) = &options.https {
        listen_with_tls(&emulator, https).await?;
    }
    options.faults.iter().for_each(|rule| emulator.faults().add(rule.clone()));
    let function = Function {
        environment: options.environment.clone(),
        ..Function::new(options.function.clone().unwrap_or_default())
    };
    stay_up(emulator, address, function).await
}

/// Lets a person play with what there is, until it is interrupted. A function without an executable is one that somebody
/// else starts.
pub(crate) async fn stay_up(emulator: Emulator, address: SocketAddr, function: Function) -> Result<(), String> {
    let function = Function { on_line: Some(Arc::new(|line| println!("  function | {line}"))), ..function };
    let runs_it = !function.executable.as_os_str().is_empty();
    let process = runs_it.then(|| FunctionProcess::new(&emulator, "function", function.clone()));
    emulator.set_hook(Arc::new(Narrator { process: process.clone() }));
    print_welcome(&emulator, &format!("http://{address}"), &function);

    let invoking = emulator.clone();
    let invoke = move |event: Value| {
        let (emulator, function, process) = (invoking.clone(), function.clone(), process.clone());
        async move {
            match process {
                Some(process) => process.invoke(&event).await,
                None => invoke_external(&emulator, &function, &event).await,
            }
        }
    };
    tokio::spawn(rotation::drive(emulator, Retries::default(), invoke, narrate));
    interrupted().await.map_err(|error| error.to_string())
}

impl Options {
    fn parse(arguments: &[&str]) -> Result<Self, String> {
        let mut options =
            Self { port: DEFAULT_PORT, function: None, environment: Vec::new(), https: None, faults: Vec::new() };
        let mut arguments = arguments.iter();
        while let Some(&name) = arguments.next() {
            if !["--port", "--function", "--env", "--https", "--https-pem", "--fault"].contains(&name) {
                return Err(format!("\"{name}\" is not an option of serve.\n\n{USAGE}"));
            }
            let value = *arguments.next().ok_or_else(|| format!("{name} needs a value.\n\n{USAGE}"))?;
            match name {
                "--port" => {
                    options.port =
                        value.parse().map_err(|_| format!("--port takes a number from 0 to 65535, not \"{value}\""))?;
                }
                "--function" => options.function = Some(executable(value)?),
                "--env" => {
                    let (name, value) =
                        value.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(|| {
                            format!("--env takes NAME=VALUE, such as KOSLI_GRACE_PERIOD_HOURS=1, not \"{value}\"")
                        })?;
                    options.environment.push((name.to_owned(), value.to_owned()));
                }
                "--https" => options.https = Some(Https::MadeUp(value.into())),
                "--https-pem" => options.https = Some(Https::Pem(value.into())),
                _ => options.faults.push(value.parse().map_err(|error| format!("--fault: {error}"))?),
            }
        }
        Ok(options)
    }
}

async fn listen_with_tls(emulator: &Emulator, https: &Https) -> Result<(), String> {
    let (identity, trust) = match https {
        Https::MadeUp(file) => {
            let (identity, authority) = Identity::made_up().map_err(|error| format!("--https: {error}"))?;
            std::fs::write(file, authority).map_err(|error| format!("--https: {}: {error}", file.display()))?;
            (identity, format!(" to who is started with SSL_CERT_FILE={}", file.display()))
        }
        Https::Pem(file) => {
            let identity =
                Identity::from_pem(file).map_err(|error| format!("--https-pem: {}: {error}", file.display()))?;
            (identity, String::new())
        }
    };
    let address = emulator.listen_with_tls("serve", 0, &identity).await.map_err(|error| error.to_string())?;
    println!("Secrets Manager and Kosli listen on https://{address} and https://localhost:{}{trust}.", address.port());
    Ok(())
}

/// A mistyped path is found now, not when the first rotation fails.
fn executable(path: &str) -> Result<PathBuf, String> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| Path::new(path).to_owned());
    if absolute.is_file() {
        return Ok(absolute);
    }
    Err(format!("--function: there is no file {path}; `cargo build` makes target/debug/kosli-key-rotation"))
}

/// A service account with a key, and a secret that holds it: `RotateSecret` works from the first moment on.
fn seed(emulator: &Emulator) -> Result<(), String> {
    let now = emulator.clock().now();
    let expires_at = now + Duration::from_secs(90 * 24 * 3600);
    let (key_id, value) = emulator.with_kosli(|kosli| {
        kosli.add_account(ORG, ACCOUNT, Role::Admin);
        kosli.add_key(ORG, ACCOUNT, "made when the emulator started", now, Some(expires_at))
    });
    let document = json!({ "api_key": value, "org": ORG, "service_account": ACCOUNT, "key_id": key_id });
    let token = format!("{:032x}", fastrand::u128(..));
    let input = json!({ "Name": SECRET, "SecretString": document.to_string(), "ClientRequestToken": token });
    let request = Request::post("/")
        .header("x-amz-target", "secretsmanager.CreateSecret")
        .header("authorization", "AWS4-HMAC-SHA256 Credential=emulator")
        .body(input.to_string().into())
        .map_err(|error| error.to_string())?;
    let answer = emulator.with_secrets_manager(|service| service.handle(&request));
    if answer.status().is_success() { Ok(()) } else { Err(String::from_utf8_lossy(answer.body()).into_owned()) }
}

fn print_welcome(emulator: &Emulator, endpoint: &str, function: &Function) {
    println!(
        "\
EMULATOR: nothing here is AWS or Kosli, every key is made up, and nothing is kept.
Secrets Manager and Kosli listen on {endpoint} until you press Ctrl+C.
The secret {SECRET} holds a made-up key of the Kosli service account {ORG}/{ACCOUNT}.

Paste into another terminal:

  export AWS_ACCESS_KEY_ID=emulator AWS_SECRET_ACCESS_KEY=emulator AWS_DEFAULT_REGION=eu-west-1
  aws secretsmanager rotate-secret --secret-id {SECRET} --rotation-lambda-arn {arn} --endpoint-url {endpoint}
  aws secretsmanager describe-secret --secret-id {SECRET} --endpoint-url {endpoint}
  aws secretsmanager get-secret-value --secret-id {SECRET} --endpoint-url {endpoint}
  curl {endpoint}/_emulator/state
  curl {endpoint}/_emulator
",
        arn = function.arn(),
    );
    if !function.executable.as_os_str().is_empty() {
        println!("RotateSecret runs {}.", function.executable.display());
    } else {
        println!(
            "\
RotateSecret waits up to {} s for a function that you start yourself, with these variables:

  AWS_LAMBDA_RUNTIME_API={api} AWS_LAMBDA_FUNCTION_NAME={name} AWS_LAMBDA_FUNCTION_VERSION='$LATEST' \\
  AWS_LAMBDA_FUNCTION_MEMORY_SIZE=128 AWS_ENDPOINT_URL_SECRETS_MANAGER={endpoint} KOSLI_HOST={endpoint}",
            function.timeout.as_secs(),
            api = endpoint.trim_start_matches("http://"),
            name = function.name,
        );
    }
    for (rule, _) in emulator.faults().rules() {
        println!("Fault: {rule}");
    }
    println!("\nWhat happens from here on:");
}

/// Prints every call, and kills the function where a fault says so.
struct Narrator {
    process: Option<FunctionProcess>,
}

impl Hook for Narrator {
    fn after(&self, call: &Call) {
        println!("  {} | {call}", if call.tag == "function" { "function" } else { "caller  " });
    }

    fn kill(&self, call: &Call) {
        match &self.process {
            Some(process) if call.tag == "function" => drop(process.kill()),
            _ => println!("  fault    | there is no process to kill: the connection is dropped all the same"),
        }
    }
}

fn narrate(rotation: &RotationRequest, event: &Event) {
    // The name without the ARN's beginning and without its six random characters.
    let name = rotation.arn.rsplit(':').next().and_then(|name| name.rsplit_once('-')).map_or("", |(name, _)| name);
    println!("  rotation | {name}: {event}");
}

async fn interrupted() -> std::io::Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result,
        _ = terminated.recv() => Ok(()),
    }
}
