//! What a person has in hand: the control pages, and `emulator serve`.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

mod support;

use std::process::Stdio;
use std::time::Duration;

use emulator::{Clock, Emulator};
use serde_json::{Value, json};
use support::{Client, aws, epoch, token};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

async fn world() -> (Emulator, Client) {
    let emulator = Emulator::new(Clock::frozen(epoch()));
    let address = emulator.listen("test", 0).await.unwrap();
    let client = Client::new(address, emulator.clock().clone());
    (emulator, client)
}

async fn post(client: &mut Client, page: &str, body: Value) -> (u16, Value) {
    client.post(&format!("/_emulator/{page}"), &body).await.unwrap()
}

/// A person's whole tour: a key, time, a fault, a revocation, and a look at all of it.
#[tokio::test]
async fn a_person_can_play_with_everything() {
    let (emulator, mut client) = world().await;
    let key = json!({ "org": "acme", "service_account": "ci", "role": "admin", "expires_in": "30d" });
    let (status, made) = post(&mut client, "kosli/keys", key).await;
    assert_eq!(status, 200);
    let (id, value) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    let secret = json!({ "Name": "s", "SecretString": value, "ClientRequestToken": token(1) });
    aws(&mut client, "CreateSecret", &secret).await.unwrap();

    let (_, time) = post(&mut client, "clock", json!({ "advance": "25h" })).await;
    assert_eq!(time["time"], httpdate::fmt_http_date(epoch() + Duration::from_secs(25 * 3600)));

    let (_, faults) = post(&mut client, "faults", json!({ "fault": "list#1=error-before:503" })).await;
    assert_eq!(faults, json!([{ "fault": "list#1=error-before:503", "calls_counted": 0 }]));
    client.set_key(value);
    let keys = "/api/v2/service-accounts/acme/ci/api-keys";
    assert_eq!(client.get(keys).await.unwrap().0, 503);
    assert_eq!(client.get(keys).await.unwrap().0, 200);

    let (_, state) = client.get("/_emulator/state").await.unwrap();
    assert_eq!(state["keys"][0]["standing"], "live");
    assert_eq!(state["secrets"][0]["versions"][0]["labels"], json!(["AWSCURRENT"]));
    assert_eq!(state["faults"][0]["calls_counted"], 2);
    let revoked = client.send("DELETE", &format!("/_emulator/kosli/keys/{id}"), "", "").await.unwrap();
    assert_eq!(revoked, (200, json!({ "revoked": id })));
    assert_eq!(client.send("DELETE", "/_emulator/faults", "", "").await.unwrap(), (200, json!([])));
    assert_eq!(client.get(keys).await.unwrap().0, 401);

    let (_, state) = client.get("/_emulator/state").await.unwrap();
    assert_eq!((&state["keys"][0]["standing"], &state["keys"][0]["accepted"]), (&json!("revoked"), &json!(false)));
    let (_, calls) = client.get("/_emulator/calls").await.unwrap();
    assert_eq!(calls.as_array().unwrap().len(), 4);
    assert_eq!(calls[0], format!("#1 Secrets Manager CreateSecret Name=s ClientRequestToken={} -> 200", token(1)));
    assert!(!format!("{state}{calls}{:?}", emulator.calls()).contains(value), "no value of a key is shown");
}

#[tokio::test]
async fn mistakes_are_explained() {
    let (_emulator, mut client) = world().await;
    for (page, body, why) in [
        ("clock", json!({ "advance": "tomorrow" }), "\"tomorrow\" is not a length of time"),
        ("clock", json!({}), "missing field `advance`"),
        ("faults", json!({ "fault": "createSecret=garble" }), "\"createSecret\" is not an operation"),
        ("kosli/keys", json!({ "org": "acme", "service_account": "ci", "role": "boss" }), "\"boss\" is no role"),
    ] {
        let (status, answer) = post(&mut client, page, body).await;
        assert!(status == 400 && answer["message"].as_str().unwrap().contains(why), "{answer}");
    }
    let unknown = client.send("DELETE", "/_emulator/kosli/keys/nothing", "", "").await.unwrap();
    assert_eq!(unknown, (404, json!({ "message": "no live key has the id nothing" })));
    assert_eq!(client.get("/_emulator/nothing").await.unwrap().0, 404);
}

/// `emulator serve`, a rotation asked for from outside, and a function that somebody else has started.
#[tokio::test]
async fn serve_drives_a_rotation() {
    let mut serve = Command::new(env!("CARGO_BIN_EXE_emulator"))
        .args(["serve", "--port", "0", "--fault", "list=html", "--kosli", "error_body=bare-string"])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(serve.stdout.take().unwrap()).lines();
    let mut welcome = String::new();
    let address = loop {
        let line = lines.next_line().await.unwrap().unwrap();
        welcome += &line;
        if let Some((_, rest)) = line.split_once("http://") {
            break rest.split(' ').next().unwrap().parse().unwrap();
        }
    };
    while !welcome.contains("What happens from here on:") {
        welcome += &lines.next_line().await.unwrap().unwrap();
    }
    assert!(welcome.contains(&format!("AWS_LAMBDA_RUNTIME_API={address}")), "{welcome}");
    assert!(welcome.contains("Fault: list=html:502"));

    let mut client = Client::new(address, Clock::real());
    let unknown = client.get("/api/v2/environments/acme").await.unwrap();
    assert_eq!(unknown, (401, json!("Invalid or missing API key")), "as --kosli says");
    let line = lines.next_line().await.unwrap().unwrap();
    assert!(line.contains("#1 Kosli verify"), "{line}");
    let function = "arn:aws:lambda:eu-west-1:123456789012:function:kosli-key-rotation";
    let input = json!({ "SecretId": "kosli/ci", "ClientRequestToken": token(1), "RotationLambdaARN": function });
    assert_eq!(aws(&mut client, "RotateSecret", &input).await.unwrap().0, 200);
    let (_, event) = client.get("/2018-06-01/runtime/invocation/next").await.unwrap();
    assert_eq!((&event["Step"], &event["ClientRequestToken"]), (&json!("createSecret"), &json!(token(1))));
    let mut told = Vec::new();
    for _ in 0..3 {
        told.push(lines.next_line().await.unwrap().unwrap());
    }
    assert!(told[0].starts_with("  caller   | #2 Secrets Manager RotateSecret SecretId=kosli/ci "), "{told:?}");
    assert_eq!(told[1..], ["  rotation | kosli/ci: the rotation begins", "  rotation | kosli/ci: createSecret …"]);
}

#[tokio::test]
async fn serve_explains_its_options() {
    for (arguments, why) in [
        (vec![], "emulator serve [OPTIONS]"),
        (vec!["server"], "\"server\" is not a command"),
        (vec!["serve", "--prot", "1"], "\"--prot\" is not an option of serve."),
        (vec!["serve", "--port"], "--port needs a value."),
        (vec!["serve", "--port", "many"], "--port takes a number from 0 to 65535, not \"many\""),
        (vec!["serve", "--function", "no/such/file"], "there is no file no/such/file"),
        (vec!["serve", "--https", "no/such/folder/authority.pem"], "--https: no/such/folder/authority.pem: "),
        (vec!["serve", "--https-pem", "no/such/file"], "--https-pem: no/such/file: "),
        (vec!["serve", "--env", "X"], "--env takes NAME=VALUE"),
        (
            vec!["serve", "--listen", "here"],
            "--listen takes an address of this machine, such as 172.17.0.1, not \"here\"",
        ),
        // Kept for documentation (RFC 5737): no machine has it.
        (vec!["serve", "--listen", "192.0.2.1"], "cannot listen on port 7878 of 192.0.2.1 "),
        (vec!["serve", "--tls-name", "host.docker.internal"], "--tls-name needs --https"),
        (vec!["serve", "--lambda-endpoint", "https://x"], "--lambda-endpoint: it takes http:// and a host"),
        (vec!["serve", "--lambda-endpoint", "http://x", "--env", "A=b"], "--lambda-endpoint goes without"),
        (vec!["serve", "--fault", "rotate"], "--fault: \"rotate\" names no fault"),
        (vec!["serve", "--kosli", "never=mind"], "--kosli: \"never=mind\" is none of the answers"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_emulator")).args(&arguments).output().await.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && said.contains(why), "{arguments:?}: {said}");
    }

    let output = Command::new(env!("CARGO_BIN_EXE_emulator")).args(["serve", "--help"]).output().await.unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let words: Vec<&str> = help.split_whitespace().collect();
    for (name, _) in emulator::kosli::Switches::named() {
        assert!(words.contains(&name), "{name} is not in: {help}");
    }
    assert!(help.lines().all(|line| line.chars().count() <= 124), "{help}");
}
