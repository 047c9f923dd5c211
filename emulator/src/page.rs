//! One page for a browser: the secret's versions, a time line of its keys, the calls as they come, and the promises.
//!
//! It has a port of its own on the loopback interface. Another page in the same browser must neither read nor change anything here:
//! the `Host` has to be this port's (against DNS rebinding), and whatever is more than the page itself has to carry a header that
//! no other origin can send without being asked for permission, which the page does not give. No key's value ever leaves: an answer
//! that held one would not be sent.
//!
//! - `words`: a call in words, and the promise that it serves
//! - `promises`: what was seen, and what has become of the promises
//! - `state`: what the page is told
//! - `page.html`: the page, which is all there is: no framework, nothing from elsewhere

mod promises;
mod state;
mod words;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::call::{Call, Service};
use crate::emulator::{Busy, Emulator};
use crate::faults::parse_duration;
use crate::process::FunctionProcess;
use crate::reply::{Reply, json as answer_with};
use crate::rotation::Event;
use crate::secrets_manager::{AWSCURRENT, RotationRequest};
use promises::{Seen, World, disorder, is_mint, was_killed};

const PAGE: &str = include_str!("page/page.html");

/// Only a script of this origin can send it.
const HEADER: &str = "x-emulator-page";

/// What calls that the page's buttons make are tagged with.
const PERSON: &str = "page";

/// What may go wrong, by the words that the page shows for it.
const FAULTS: [&str; 5] = [
    "rotate@function#1=drop-after",
    "PutSecretValue@function#1=error-before:503",
    "PutSecretValue@function#1=drop-after",
    "rotate@function#1=kill-after",
    "UpdateSecretVersionStage@function#1=drop-after",
];

/// The page of one secret.
pub struct Page {
    emulator: Emulator,
    secret: String,
    /// The function that rotates the secret where none has been named yet.
    function_arn: String,
    process: Option<FunctionProcess>,
    port: OnceLock<u16>,
    seen: Mutex<Seen>,
}

type Said = Result<String, (StatusCode, String)>;

impl Page {
    /// Serves the page of the secret on a free port, until the runtime ends; the address comes with it. Calls and events have to be
    /// [told](Self::see_call) to it.
    ///
    /// # Errors
    /// There is no port to be had.
    pub async fn serve(
        emulator: &Emulator,
        secret: &str,
        function_arn: &str,
        process: Option<FunctionProcess>,
    ) -> io::Result<(Arc<Self>, SocketAddr)> {
        let page = Arc::new(Self {
            emulator: emulator.clone(),
            secret: secret.to_owned(),
            function_arn: function_arn.to_owned(),
            process,
            port: OnceLock::new(),
            seen: Mutex::default(),
        });
        let answering = page.clone();
        let answer = move |request| {
            let page = answering.clone();
            Box::pin(async move { page.answer(&request).await }) as _
        };
        let address = emulator.listen_for_pages(Arc::new(answer)).await?;
        let _ = page.port.set(address.port());
        Ok((page, address))
    }

    /// After a call to one of the services.
    pub fn see_call(&self, call: &Call) {
        let replaced = self.current_version();
        let mut seen = self.seen();
        if call.tag == "function" {
            let step = (seen.step, seen.pending.clone());
            seen.steps.insert(call.number, step);
            let minted = call.outcome.strip_prefix("id=").filter(|_| is_mint(call));
            if let (Some(id), Some(version)) = (minted, replaced) {
                seen.replaces.insert(id.to_owned(), version);
            }
        }
        drop(seen);
        self.look();
    }

    /// Something happened in a rotation.
    pub fn see_event(&self, rotation: &RotationRequest, event: &Event) {
        let calls = self.emulator.calls();
        let world = self.world();
        let mut seen = self.seen();
        let mut words = event.to_string();
        match event {
            Event::AttemptBegan(attempt) => {
                seen.ended = None;
                seen.pending.clone_from(&rotation.token);
                seen.repeated += usize::from(*attempt > 1);
            }
            Event::StepBegan(step) => seen.step = step,
            Event::StepSucceeded(step, answer) => {
                seen.leaks += usize::from(state::shows_a_key(&answer.to_string(), &world.keys));
                words = format!("{step}: {}", answer["outcome"].as_str().unwrap_or("done"));
            }
            Event::StepFailed(step, error) => {
                seen.leaks += usize::from(state::shows_a_key(&error.to_string(), &world.keys));
                if !was_killed(&calls) {
                    seen.failures.push(error.error_type.clone());
                }
                words = format!("{step} failed: {}", error.error_type);
            }
            Event::Succeeded if !rotation.test_only => {
                seen.disorder.extend(disorder(&world.versions, &rotation.token));
                seen.ended = Some(event.clone());
            }
            Event::Succeeded | Event::GivenUp | Event::Abandoned => seen.ended = Some(event.clone()),
        }
        // The calls of a step stand below its name already.
        seen.told.push((calls.len(), words));
        drop(seen);
        self.look();
    }

    /// Promise I1, at this instant.
    fn look(&self) {
        let world = self.world();
        let mut seen = self.seen();
        seen.looks += 1;
        let outage = world.outage(&seen);
        seen.outages.extend(outage);
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current_version(&self) -> Option<String> {
        self.emulator.with_secrets_manager(|service| {
            Some(service.secret(&self.secret)?.versions.labelled(AWSCURRENT)?.id.clone())
        })
    }

    fn world(&self) -> World {
        let keys = self.emulator.with_kosli(|kosli| kosli.keys().cloned().collect::<Vec<_>>());
        let versions = self.emulator.with_secrets_manager(|service| {
            service.secret(&self.secret).map(|secret| secret.versions.iter().cloned().collect()).unwrap_or_default()
        });
        let output = self.process.as_ref().map(FunctionProcess::output).unwrap_or_default();
        let leaked_lines = output.iter().filter(|line| state::shows_a_key(line, &keys)).count();
        let (now, calls) = (self.emulator.clock().now(), self.emulator.calls());
        World { now, calls, versions, keys, leaked_lines, lines: output.len() }
    }

    async fn answer(&self, request: &Request<Bytes>) -> Response<Bytes> {
        if let Err(why) = self.is_from_the_page(request) {
            return plain(StatusCode::FORBIDDEN, why);
        }
        let answer = match (request.method(), request.uri().path()) {
            (&Method::GET, "/") => return document(),
            (&Method::GET, "/state") => answer_with(StatusCode::OK, self.state().to_string()),
            (&Method::POST, action) => {
                let (status, said) = match self.act(action, request.body()).await {
                    // What AWS refuses is an answer to show, and no error of the page's, which a browser would make of it.
                    Ok(said) | Err((StatusCode::CONFLICT, said)) => (StatusCode::OK, said),
                    Err((status, why)) => (status, why),
                };
                answer_with(status, json!({ "said": said }).to_string())
            }
            _ => plain(StatusCode::NOT_FOUND, "there is only the page itself: GET /"),
        };
        let keys = self.emulator.with_kosli(|kosli| kosli.keys().cloned().collect::<Vec<_>>());
        if state::shows_a_key(&String::from_utf8_lossy(answer.body()), &keys) {
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "the answer held a key's value: it is not sent");
        }
        protected(answer)
    }

    /// Whether the request was meant for this port, and, if it is for more than the page, made by the page.
    fn is_from_the_page(&self, request: &Request<Bytes>) -> Result<(), &'static str> {
        let headers = request.headers();
        let port = self.port.get().copied().unwrap_or_default();
        let host = text(headers, "host");
        if ![format!("127.0.0.1:{port}"), format!("localhost:{port}")].iter().any(|own| host == Some(own.as_str())) {
            return Err("the Host is not this page's");
        }
        if request.method() == Method::GET && request.uri().path() == "/" {
            return Ok(());
        }
        let origin = format!("http://{}", host.unwrap_or_default());
        let foreign = text(headers, "origin").is_some_and(|named| named != origin)
            || text(headers, "sec-fetch-site").is_some_and(|site| site != "same-origin");
        match headers.contains_key(HEADER) && !foreign {
            true => Ok(()),
            false => Err("only the page itself may ask for this"),
        }
    }

    /// What the buttons do.
    async fn act(&self, action: &str, body: &Bytes) -> Said {
        let input: Value = serde_json::from_slice(body).map_err(|error| bad_request(&error.to_string()))?;
        let named = |name: &str| input[name].as_str().unwrap_or_default().to_owned();
        let said = match action {
            "/rotate" => self.rotate().await?,
            "/edit" => self.edit().await?,
            "/revoke" => {
                let id = named("key");
                if !self.emulator.with_kosli(|kosli| kosli.revoke_key(&id)) {
                    return Err((StatusCode::CONFLICT, "No live key has this id.".to_owned()));
                }
                format!("You revoked the key {}", promises::short(&id))
            }
            "/clock" => {
                let by = named("advance");
                self.emulator.clock().advance(parse_duration(&by).map_err(|why| bad_request(&why.to_string()))?);
                format!("You moved the clock by {by}")
            }
            "/fault" => {
                let fault = FAULTS.into_iter().find(|fault| *fault == named("fault"));
                let rule =
                    fault.and_then(|fault| fault.parse().ok()).ok_or_else(|| bad_request("not one of the faults"))?;
                self.emulator.faults().add(rule);
                format!("You put in the fault {}", fault.unwrap_or_default())
            }
            "/old-key" => {
                let when = named("when");
                if !["after-grace-period", "immediately"].contains(&when.as_str()) {
                    return Err(bad_request("after-grace-period or immediately"));
                }
                let tags = json!([{ "Key": "kosli:revoke-old-key", "Value": when }]);
                self.aws("TagResource", json!({ "SecretId": self.secret, "Tags": tags })).await?;
                format!("You tagged the secret: the old key ends {}", when.replace('-', " "))
            }
            _ => return Err((StatusCode::NOT_FOUND, "no such button".to_owned())),
        };
        let calls = self.emulator.calls().len();
        self.seen().told.push((calls, said.clone()));
        self.look();
        Ok(said)
    }

    async fn rotate(&self) -> Said {
        let known = self.emulator.with_secrets_manager(|service| {
            service.secret(&self.secret).and_then(|secret| secret.rotation.function_arn.clone())
        });
        let arn = known.unwrap_or_else(|| self.function_arn.clone());
        let input = json!({ "SecretId": self.secret, "RotationLambdaARN": arn, "ClientRequestToken": token() });
        self.aws("RotateSecret", input).await?;
        Ok("You asked for a rotation".to_owned())
    }

    /// A person changes a field that is not the function's business.
    async fn edit(&self) -> Said {
        let value = self.emulator.with_secrets_manager(|service| {
            let current = service.secret(&self.secret)?.versions.labelled(AWSCURRENT)?;
            serde_json::from_str::<Value>(current.text()?).ok().filter(Value::is_object)
        });
        let Some(mut value) = value else {
            return Err((StatusCode::CONFLICT, "A plain string has no field to edit.".to_owned()));
        };
        value["note"] = json!(format!("edited by hand, {}", promises::short(&token())));
        let input =
            json!({ "SecretId": self.secret, "SecretString": value.to_string(), "ClientRequestToken": token() });
        self.aws("PutSecretValue", input).await?;
        Ok("You edited a field of the value".to_owned())
    }

    /// Calls Secrets Manager as a person at the command line does.
    async fn aws(&self, operation: &str, input: Value) -> Said {
        let request = Request::post("/")
            .header("x-amz-target", format!("secretsmanager.{operation}"))
            .header(header::AUTHORIZATION, "AWS4-HMAC-SHA256 Credential=emulator")
            .body(Bytes::from(input.to_string()))
            .map_err(|error| bad_request(&error.to_string()))?;
        let emulator = self.emulator.clone();
        let (busy, reset) = (Busy::new(&emulator), emulator.generation());
        match emulator.handle_unless_reset(busy, reset, PERSON.into(), Service::SecretsManager, request).await {
            Some(Reply::Answer(answer)) if answer.status().is_success() => Ok(String::new()),
            Some(Reply::Answer(answer)) => {
                let body: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
                Err((StatusCode::CONFLICT, body["Message"].as_str().unwrap_or("refused").to_owned()))
            }
            _ => Err((StatusCode::BAD_GATEWAY, "no answer".to_owned())),
        }
    }
}

fn token() -> String {
    format!("{:032x}", fastrand::u128(..))
}

fn bad_request(why: &str) -> (StatusCode, String) {
    (StatusCode::BAD_REQUEST, why.to_owned())
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn plain(status: StatusCode, text: &str) -> Response<Bytes> {
    let mut answer = answer_with(status, format!("{text}\n"));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    protected(answer)
}

fn document() -> Response<Bytes> {
    let mut answer = answer_with(StatusCode::OK, PAGE);
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    if let Ok(policy) = HeaderValue::from_str(&content_security_policy(PAGE)) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    protected(answer)
}

/// Nothing but the page's own style and script, told by their hashes, and its own port.
fn content_security_policy(page: &str) -> String {
    let hash = |element: &str| {
        let (begin, end) = (format!("<{element}>"), format!("</{element}>"));
        let inner = page.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end)).map_or("", |(inner, _)| inner);
        let digest = ring::digest::digest(&ring::digest::SHA256, inner.as_bytes());
        format!("'sha256-{}'", STANDARD.encode(digest))
    };
    format!(
        "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
        hash("script"),
        hash("style")
    )
}

fn protected(mut answer: Response<Bytes>) -> Response<Bytes> {
    let headers = answer.headers_mut();
    for (name, value) in [
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}
