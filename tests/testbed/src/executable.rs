//! The function's real executable, with Secrets Manager and Kosli around it: everything that happens goes over sockets.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use emulator::kosli::{Key, Role};
use emulator::process::FunctionProcess;
use emulator::rotation::{Event, Retries, STEPS, rotate, step_event};
use emulator::runtime_api::{Function, Outcome};
use emulator::secrets_manager::{RotationRequest, SecretValue};
use emulator::{Call, Clock, Emulator, Service};
use reqwest::header::AUTHORIZATION;
use serde_json::{Value, json};

use crate::canary::Canaries;
use crate::emitted::path;
use crate::values::{ADMIN_SECRET, ORG, SECRET};

/// The service account of the admin key.
pub const ADMIN: &str = "admin";

/// The emulator, one execution environment of the function, and a caller of both services.
pub struct Executable {
    /// Both services.
    pub emulator: Emulator,
    /// The execution environment.
    pub process: FunctionProcess,
    endpoint: String,
    http: reqwest::Client,
    /// What the function has answered, as text.
    answers: Mutex<Vec<String>>,
    /// What is in no key list and is as secret as a key.
    rotation_tokens: Mutex<Vec<String>>,
    /// The number of the latest version id that was made up here.
    versions: Mutex<u32>,
}

/// A version as a test compares it: id, labels and value.
pub type Seen = (String, BTreeSet<String>, Option<SecretValue>);

impl Executable {
    /// No secret and no key yet, and a function that runs this file. It logs as much as it can, so that whatever it must not log would be found.
    pub async fn new(executable: &str, clock: Clock, variables: &[(&str, &str)]) -> Self {
        let emulator = Emulator::new(clock);
        let address = emulator.listen("test", 0).await.unwrap();
        let verbose = [
            ("AWS_LAMBDA_LOG_LEVEL", "TRACE"),
            ("RUST_LOG", "trace"),
            ("RUST_BACKTRACE", "full"),
            ("RUST_LIB_BACKTRACE", "full"),
        ];
        let environment = verbose.iter().chain(variables);
        let environment = environment.map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        let function = Function { environment, ..Function::new(executable) };
        Self {
            process: FunctionProcess::new(&emulator, "function", function),
            emulator,
            endpoint: format!("http://{address}"),
            http: http_client(),
            answers: Mutex::default(),
            rotation_tokens: Mutex::default(),
            versions: Mutex::default(),
        }
    }

    /// Gives the function, before its first invocation, another time-out and further variables.
    pub fn configure(&mut self, timeout: Duration, variables: &[(&str, &str)]) {
        let mut function = Function { timeout, ..self.process.function().clone() };
        let variables = variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
        function.environment.extend(variables);
        self.process = FunctionProcess::new(&self.emulator, "function", function);
    }

    /// Where both services listen.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Makes a key: its id and its value.
    pub fn add_key(&self, account: &str, role: Role) -> (String, String) {
        let now = self.emulator.clock().now();
        let expires_at = now + Duration::from_secs(90 * 86_400);
        self.emulator.with_kosli(|kosli| {
            kosli.add_account(ORG, account, role);
            kosli.add_key(ORG, account, "made by a person", now, Some(expires_at))
        })
    }

    /// Makes the admin key, and the secret that holds it.
    pub async fn add_admin(&self) -> (String, String) {
        let (id, value) = self.add_key(ADMIN, Role::Admin);
        self.create_secret(ADMIN_SECRET, json!({ "SecretString": value })).await;
        (id, value)
    }

    /// Makes a secret; `fields` are those of `CreateSecret` besides name and version id.
    pub async fn create_secret(&self, name: &str, mut fields: Value) -> Value {
        fields["Name"] = name.into();
        fields["ClientRequestToken"] = self.new_version_id().into();
        self.aws("CreateSecret", fields).await
    }

    /// Puts a tag on the secret.
    pub async fn tag(&self, name: &str, value: &str) {
        let tags = json!([{ "Key": name, "Value": value }]);
        self.aws("TagResource", json!({ "SecretId": SECRET, "Tags": tags })).await;
    }

    /// Asks for a rotation as a person does, over HTTP, and says what the service is about to do.
    pub async fn begin(&self, name: &str, mut options: Value) -> RotationRequest {
        options["SecretId"] = name.into();
        options["RotationLambdaARN"] = self.process.function().arn().into();
        if options.get("ClientRequestToken").is_none() {
            options["ClientRequestToken"] = self.new_version_id().into();
        }
        self.aws("RotateSecret", options).await;
        let rotation = self.emulator.with_secrets_manager(|service| service.take_rotations().pop().unwrap());
        self.rotation_tokens.lock().unwrap().push(rotation.rotation_token.clone());
        rotation
    }

    /// Lets the service drive a rotation to its end: one attempt, because nothing is to fail.
    pub async fn run(&self, rotation: &RotationRequest) -> Event {
        let retries = Retries { attempts: 1, ..Retries::default() };
        // Shown by a test that fails.
        let observe = |_: &RotationRequest, event: &Event| println!("{event}");
        rotate(&self.emulator, rotation, retries, |event| async move { self.invoke(&event).await }, observe).await
    }

    /// A whole rotation that has to succeed.
    pub async fn rotate(&self, name: &str) -> RotationRequest {
        let rotation = self.begin(name, json!({})).await;
        assert_eq!(self.run(&rotation).await, Event::Succeeded);
        rotation
    }

    /// Delivers one step.
    pub async fn step(&self, rotation: &RotationRequest, step: &str) -> Outcome {
        assert!(STEPS.contains(&step), "{step}");
        self.invoke(&step_event(rotation, step)).await
    }

    /// Delivers an event.
    pub async fn invoke(&self, event: &Value) -> Outcome {
        let outcome = self.process.invoke(event).await;
        self.answers.lock().unwrap().push(match &outcome {
            Ok(answer) => answer.to_string(),
            Err(error) => error.to_string(),
        });
        outcome
    }

    /// What the function has answered so far, as text.
    pub fn answers(&self) -> Vec<String> {
        self.answers.lock().unwrap().clone()
    }

    /// A call to Secrets Manager that has to succeed; some of its answers are empty.
    pub async fn aws(&self, operation: &str, input: Value) -> Value {
        let request = self
            .http
            .post(&self.endpoint)
            .header("x-amz-target", format!("secretsmanager.{operation}"))
            .header(AUTHORIZATION, "AWS4-HMAC-SHA256 Credential=test")
            .body(input.to_string());
        let answer = request.send().await.unwrap();
        let (status, body) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{operation} {status}: {body}");
        if body.is_empty() { Value::Null } else { serde_json::from_str(&body).unwrap() }
    }

    /// What readers of the secret get: `GetSecretValue` without anything but the name.
    pub async fn read(&self, name: &str) -> String {
        let answer = self.aws("GetSecretValue", json!({ "SecretId": name })).await;
        answer["SecretString"].as_str().unwrap().to_owned()
    }

    /// Whether Kosli lets somebody in with this key.
    pub async fn kosli_accepts(&self, key: &str) -> bool {
        let url = format!("{}/api/v2/environments/{ORG}", self.endpoint);
        let status = self.http.get(url).bearer_auth(key).send().await.unwrap().status().as_u16();
        assert!([200, 401].contains(&status), "{status}");
        status == 200
    }

    /// Every key there ever was, oldest first.
    pub fn keys(&self) -> Vec<Key> {
        self.emulator.with_kosli(|kosli| kosli.keys().cloned().collect())
    }

    /// The key that was minted last.
    pub fn newest_key(&self) -> Key {
        self.keys().pop().unwrap()
    }

    /// The id of the version with this label.
    pub fn labelled(&self, name: &str, label: &str) -> Option<String> {
        self.emulator.with_secrets_manager(|service| {
            service.secret(name).unwrap().versions.labelled(label).map(|version| version.id.clone())
        })
    }

    /// All versions of a secret.
    pub fn versions(&self, name: &str) -> Vec<Seen> {
        self.emulator.with_secrets_manager(|service| {
            let versions = service.secret(name).map(|secret| secret.versions.clone()).unwrap_or_default();
            versions.iter().map(|version| (version.id.clone(), version.stages.clone(), version.value.clone())).collect()
        })
    }

    /// The calls that the function has made, in the order of their arrival.
    pub fn calls(&self) -> Vec<Call> {
        self.emulator.calls().into_iter().filter(|call| call.tag == "function").collect()
    }

    /// Ends the process, and looks for key values and rotation tokens where none may be (promise I5): in what the function
    /// has answered and in all that it has written.
    pub async fn end(self) {
        self.process.stop().await;
        let mut said = self.answers();
        said.extend(self.process.output());
        let calls = self.calls().into_iter().filter(|call| call.service == Service::Kosli);
        said.extend(calls.map(|call| path(&call).to_owned()));
        assert_eq!(self.find_secret(&said.join("\n"), []), None, "a key or a rotation token got out");
    }

    /// The first line in which there is a piece of a key, of a rotation token, or of one of these.
    pub fn find_secret<'a>(&self, text: &str, others: impl IntoIterator<Item = &'a str>) -> Option<String> {
        let mut canaries = Canaries::default();
        self.emulator.with_kosli(|kosli| canaries.add(kosli.keys().map(Key::secret_part)));
        canaries.add(self.rotation_tokens.lock().unwrap().iter().map(String::as_str));
        canaries.add(others);
        canaries.find(text.as_bytes())
    }

    fn new_version_id(&self) -> String {
        let mut number = self.versions.lock().unwrap();
        *number += 1;
        format!("00000000-0000-4000-8000-{number:012}")
    }
}

/// A client that speaks plain HTTP to this machine, whatever proxy the tester's environment names.
fn http_client() -> reqwest::Client {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let tls = tls.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    reqwest::Client::builder().no_proxy().tls_backend_preconfigured(tls).build().unwrap()
}
