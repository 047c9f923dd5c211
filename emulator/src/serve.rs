//! `emulator serve`: everything on one port, for a person with the `aws` command line and `curl`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use emulator::faults::Rule;
use emulator::kosli::{Role, Switches};
use emulator::lambda_endpoint::LambdaEndpoint;
use emulator::page::Page;
use emulator::process::{FunctionProcess, invoke_external};
use emulator::rotation::{self, Event, Retries};
use emulator::runtime_api::{Function, Outcome};
use emulator::secrets_manager::RotationRequest;
use emulator::{Call, Clock, Emulator, Hook, Identity};
use http::Request;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "\
emulator serve [--listen ADDRESS] [--port NUMBER] [--function PATH | --lambda-endpoint URL] [--env NAME=VALUE]...
               [--https CA_FILE | --https-pem FILE] [--tls-name NAME]... [--fault FAULT]...
               [--kosli ANSWER]...

  --listen ADDRESS    an address of this machine (default 127.0.0.1, which no other machine reaches): 172.17.0.1, for
                      containers of a Docker engine on Linux; scripts/sam-local finds it out
  --port NUMBER       the port (default 7878; 0: a free one)
  --function PATH     the function's executable, which RotateSecret runs: target/debug/kosli-key-rotation
                      (default: wait for a function that you start yourself, in a debugger for example)
  --lambda-endpoint URL
                      instead, where RotateSecret invokes the function that it is given: http://127.0.0.1:3001 for
                      `sam local start-lambda`
  --env NAME=VALUE    a variable of the function, such as KOSLI_GRACE_PERIOD_HOURS=1; may be repeated
  --https CA_FILE     HTTPS as well, on a free port, for localhost and 127.0.0.1, with a certificate made up at each start;
                      CA_FILE is written: the authority that clients are to trust (SSL_CERT_FILE=CA_FILE)
  --tls-name NAME     with --https, a further name or address that the certificate is for, such as host.docker.internal;
                      may be repeated. The address of --listen is one
  --https-pem FILE    the same with the certificates and the private key of a PEM file
  --fault FAULT       what goes wrong, such as rotate#1=drop-after or PutSecretValue#1..3=error-before:503; may be
                      repeated. `curl http://127.0.0.1:7878/_emulator` lists all faults and what else can be done.
  --kosli ANSWER      how Kosli answers what its documents leave open, such as rotate_in_grace=404; may be repeated:";

/// The options, and every answer that Kosli can be told to give.
fn usage() -> String {
    const WIDTH: usize = 96;
    let mut usage = USAGE.to_owned();
    let mut room = 0;
    for (name, _) in Switches::named() {
        if name.len() >= room {
            usage.push_str("\n                     ");
            room = WIDTH;
        }
        usage.push(' ');
        usage.push_str(name);
        room = room.saturating_sub(name.len() + 1);
    }
    usage
}

const OPTIONS: [&str; 10] = [
    "--kosli",
    "--listen",
    "--port",
    "--function",
    "--lambda-endpoint",
    "--env",
    "--https",
    "--https-pem",
    "--tls-name",
    "--fault",
];

const DEFAULT_PORT: u16 = 7878;

/// The secret, organization and service account that are there from the start.
const SECRET: &str = "kosli/ci";
const ORG: &str = "acme";
const ACCOUNT: &str = "ci";

/// The service account whose key a person's `kosli` command line uses.
const PERSON: &str = "you";

#[derive(Debug)]
struct Options {
    listen: IpAddr,
    port: u16,
    function: Option<PathBuf>,
    lambda_endpoint: Option<LambdaEndpoint>,
    environment: Vec<(String, String)>,
    https: Option<Https>,
    tls_names: Vec<String>,
    faults: Vec<Rule>,
    kosli: Switches,
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
        println!("{}", usage());
        return Ok(());
    }
    let options = Options::parse(arguments)?;
    let emulator = Emulator::new(Clock::real());
    let address = emulator.listen_on("serve", (options.listen, options.port).into(), None).await.map_err(|error| {
        format!(
            "cannot listen on port {} of {} ({error}); choose another one with --port, or 0 for a free one",
            options.port, options.listen
        )
    })?;
    emulator.with_kosli(|kosli| kosli.switches = options.kosli.clone());
    seed(&emulator)?;
    if let Some(https) = &options.https {
        listen_with_tls(&emulator, https, &options).await?;
    }
    warning(options.listen).iter().for_each(|warning| println!("{warning}"));
    options.faults.iter().for_each(|rule| emulator.faults().add(rule.clone()));
    let invoked = match (options.function, options.lambda_endpoint) {
        (_, Some(endpoint)) => Invoked::Endpoint(endpoint),
        (Some(executable), None) => {
            let function = Function { environment: options.environment, ..Function::new(executable) };
            Invoked::process(&emulator, function)
        }
        (None, None) => Invoked::Polling(Function::new(PathBuf::new())),
    };
    stay_up(emulator, address, invoked).await
}

/// What RotateSecret invokes.
#[derive(Clone)]
pub(crate) enum Invoked {
    /// An executable, which is run here.
    Process(FunctionProcess),
    /// A function that a person starts, and that polls the Runtime API here.
    Polling(Function),
    /// A function that something else runs.
    Endpoint(LambdaEndpoint),
}

impl Invoked {
    /// An executable whose lines are printed.
    pub(crate) fn process(emulator: &Emulator, function: Function) -> Self {
        let function = Function { on_line: Some(Arc::new(|line| println!("  function | {line}"))), ..function };
        Self::Process(FunctionProcess::new(emulator, "function", function))
    }

    async fn invoke(&self, emulator: &Emulator, event: &Value) -> Outcome {
        match self {
            Self::Process(process) => process.invoke(event).await,
            Self::Polling(function) => invoke_external(emulator, function, event).await,
            Self::Endpoint(endpoint) => endpoint.invoke(emulator, event).await,
        }
    }
}

/// Lets a person play with what there is, until it is interrupted.
pub(crate) async fn stay_up(emulator: Emulator, address: SocketAddr, invoked: Invoked) -> Result<(), String> {
    let process = match &invoked {
        Invoked::Process(process) => Some(process.clone()),
        Invoked::Polling(_) | Invoked::Endpoint(_) => None,
    };
    let arn = Function::new(PathBuf::new()).arn();
    let (page, see) = Page::serve(&emulator, SECRET, &arn, process).await.map_err(|error| error.to_string())?;
    emulator.set_hook(Arc::new(Narrator { invoked: invoked.clone(), page: page.clone() }));
    print_welcome(&emulator, &format!("http://{}", asked_at(address)), see, &invoked, &key_of_a_person(&emulator));

    let invoking = emulator.clone();
    let invoke = move |event: Value| {
        let (emulator, invoked) = (invoking.clone(), invoked.clone());
        async move { invoked.invoke(&emulator, &event).await }
    };
    let observe = move |rotation: &RotationRequest, event: &Event| {
        narrate(rotation, event);
        page.see_event(rotation, event);
    };
    tokio::spawn(rotation::drive(emulator, Retries::default(), invoke, observe));
    interrupted().await.map_err(|error| error.to_string())
}

/// The address at which this machine reaches what listens on every interface.
fn asked_at(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => (Ipv4Addr::LOCALHOST, address.port()).into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => (Ipv6Addr::LOCALHOST, address.port()).into(),
        _ => address,
    }
}

/// What an address beyond the loopback interface opens.
fn warning(address: IpAddr) -> Option<String> {
    if address.is_loopback() {
        return None;
    }
    let reached = if address.is_unspecified() { "any address of this machine".to_owned() } else { address.to_string() };
    Some(format!(
        "OPEN: any program that reaches {reached}, from a container or from another machine, can use and change everything here, \
         and invoke the function. The default, 127.0.0.1, is for this machine alone."
    ))
}

impl Options {
    fn parse(arguments: &[&str]) -> Result<Self, String> {
        let mut options = Self {
            listen: Ipv4Addr::LOCALHOST.into(),
            port: DEFAULT_PORT,
            function: None,
            lambda_endpoint: None,
            environment: Vec::new(),
            https: None,
            tls_names: Vec::new(),
            faults: Vec::new(),
            kosli: Switches::default(),
        };
        let mut arguments = arguments.iter();
        while let Some(&name) = arguments.next() {
            if !OPTIONS.contains(&name) {
                return Err(format!("\"{name}\" is not an option of serve.\n\n{}", usage()));
            }
            let value = *arguments.next().ok_or_else(|| format!("{name} needs a value.\n\n{}", usage()))?;
            match name {
                "--listen" => {
                    let why =
                        |_| format!("--listen takes an address of this machine, such as 172.17.0.1, not \"{value}\"");
                    options.listen = value.parse().map_err(why)?;
                }
                "--port" => {
                    options.port =
                        value.parse().map_err(|_| format!("--port takes a number from 0 to 65535, not \"{value}\""))?;
                }
                "--function" => options.function = Some(executable(value)?),
                "--lambda-endpoint" => {
                    options.lambda_endpoint = Some(value.parse().map_err(|why| format!("--lambda-endpoint: {why}"))?);
                }
                "--env" => {
                    let (name, value) =
                        value.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(|| {
                            format!("--env takes NAME=VALUE, such as KOSLI_GRACE_PERIOD_HOURS=1, not \"{value}\"")
                        })?;
                    options.environment.push((name.to_owned(), value.to_owned()));
                }
                "--https" => options.https = Some(Https::MadeUp(value.into())),
                "--kosli" => {
                    let answer = Switches::named().into_iter().find(|(name, _)| *name == value);
                    let (_, answer) = answer.ok_or_else(|| {
                        format!("--kosli: \"{value}\" is none of the answers; `emulator serve --help` lists them")
                    })?;
                    options.kosli = options.kosli.and(&answer);
                }
                "--https-pem" => options.https = Some(Https::Pem(value.into())),
                "--tls-name" => options.tls_names.push(value.to_owned()),
                _ => options.faults.push(value.parse().map_err(|error| format!("--fault: {error}"))?),
            }
        }
        if options.lambda_endpoint.is_some() && (options.function.is_some() || !options.environment.is_empty()) {
            return Err(
                "--lambda-endpoint goes without --function and --env: whatever is there runs the function".to_owned()
            );
        }
        if !options.tls_names.is_empty() && !matches!(options.https, Some(Https::MadeUp(_))) {
            return Err("--tls-name needs --https: it is a name in the certificate that is made up".to_owned());
        }
        Ok(options)
    }
}

async fn listen_with_tls(emulator: &Emulator, https: &Https, options: &Options) -> Result<(), String> {
    let names = if options.listen.is_loopback() { vec!["localhost".to_owned()] } else { Vec::new() };
    let names: Vec<String> = names.into_iter().chain(options.tls_names.iter().cloned()).collect();
    let (identity, trust) = match https {
        Https::MadeUp(file) => {
            let address = (!options.listen.is_unspecified()).then(|| options.listen.to_string());
            let further: Vec<String> = options.tls_names.iter().cloned().chain(address).collect();
            let (identity, authority) = Identity::made_up_for(&further).map_err(|error| format!("--https: {error}"))?;
            std::fs::write(file, authority).map_err(|error| format!("--https: {}: {error}", file.display()))?;
            (identity, format!(" to clients that are started with SSL_CERT_FILE={}", file.display()))
        }
        Https::Pem(file) => {
            let identity =
                Identity::from_pem(file).map_err(|error| format!("--https-pem: {}: {error}", file.display()))?;
            (identity, String::new())
        }
    };
    let listening = emulator.listen_on("serve", (options.listen, 0).into(), Some(&identity)).await;
    let address = asked_at(listening.map_err(|error| error.to_string())?);
    let named: String = names.iter().map(|name| format!(" and https://{name}:{}", address.port())).collect();
    println!("Secrets Manager and Kosli listen on https://{address}{named}{trust}.");
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

/// A key that may do everything in the organization: its value.
fn key_of_a_person(emulator: &Emulator) -> String {
    let now = emulator.clock().now();
    emulator.with_kosli(|kosli| {
        kosli.add_account(ORG, PERSON, Role::Admin);
        kosli.add_key(ORG, PERSON, "for the kosli command line", now, None).1
    })
}

fn print_welcome(emulator: &Emulator, endpoint: &str, page: SocketAddr, invoked: &Invoked, token: &str) {
    println!(
        "\
EMULATOR: nothing here is AWS or Kosli, every key is made up, and nothing is kept.
Secrets Manager and Kosli listen on {endpoint} until you press Ctrl+C.
The secret {SECRET} holds a made-up key of the Kosli service account {ORG}/{ACCOUNT}.
See it in a browser: http://{page}/

Paste into another terminal:

  export AWS_ACCESS_KEY_ID=emulator AWS_SECRET_ACCESS_KEY=emulator AWS_DEFAULT_REGION=eu-west-1
  aws secretsmanager rotate-secret --secret-id {SECRET} --rotation-lambda-arn {arn} --endpoint-url {endpoint}
  aws secretsmanager describe-secret --secret-id {SECRET} --endpoint-url {endpoint}
  aws secretsmanager get-secret-value --secret-id {SECRET} --endpoint-url {endpoint}
  export KOSLI_HOST={endpoint} KOSLI_ORG={ORG} KOSLI_API_TOKEN={token}
  kosli list api-keys --service-account {ACCOUNT}
  curl {endpoint}/_emulator/state
  curl {endpoint}/_emulator
",
        arn = Function::new(PathBuf::new()).arn(),
    );
    match invoked {
        Invoked::Process(process) => println!("RotateSecret runs {}.", process.function().executable.display()),
        Invoked::Endpoint(lambda) => println!("RotateSecret invokes the function at {lambda}."),
        Invoked::Polling(function) => println!(
            "\
RotateSecret waits up to {} s for a function that you start yourself, with these variables:

  AWS_LAMBDA_RUNTIME_API={api} AWS_LAMBDA_FUNCTION_NAME={name} AWS_LAMBDA_FUNCTION_VERSION='$LATEST' \\
  AWS_LAMBDA_FUNCTION_MEMORY_SIZE=128 AWS_ENDPOINT_URL_SECRETS_MANAGER={endpoint} KOSLI_HOST={endpoint}",
            function.timeout.as_secs(),
            api = endpoint.trim_start_matches("http://"),
            name = function.name,
        ),
    }
    for (rule, _) in emulator.faults().rules() {
        println!("Fault: {rule}");
    }
    println!("\nWhat happens from here on:");
}

/// Prints every call, shows it on the page, and kills the function where a fault says so.
struct Narrator {
    invoked: Invoked,
    page: Arc<Page>,
}

impl Hook for Narrator {
    fn after(&self, call: &Call) {
        println!("  {} | {call}", if call.tag == "function" { "function" } else { "caller  " });
        self.page.see_call(call);
    }

    fn kill(&self, call: &Call) {
        match &self.invoked {
            Invoked::Process(process) if call.tag == "function" => drop(process.kill()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_others_reach_is_said_to_be_open() {
        for (address, said) in [
            ("127.0.0.1", None),
            ("127.0.0.2", None),
            ("::1", None),
            ("172.17.0.1", Some("any program that reaches 172.17.0.1,")),
            ("0.0.0.0", Some("any program that reaches any address of this machine,")),
            ("::", Some("any program that reaches any address of this machine,")),
        ] {
            let warning = warning(address.parse().expect("an address"));
            assert_eq!(warning.is_some(), said.is_some(), "{address}");
            assert!(warning.unwrap_or_default().contains(said.unwrap_or_default()), "{address}");
        }
    }

    #[test]
    fn what_listens_everywhere_is_asked_here() {
        for (listening, asked) in
            [("0.0.0.0:7878", "127.0.0.1:7878"), ("[::]:7878", "[::1]:7878"), ("172.17.0.1:7878", "172.17.0.1:7878")]
        {
            assert_eq!(asked_at(listening.parse().expect("an address")).to_string(), asked);
        }
    }
}
