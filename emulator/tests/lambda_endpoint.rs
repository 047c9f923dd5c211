//! The rotation function behind an endpoint that invokes it as Lambda's does: what is asked of it, and what its answers come to.
//! `tests/containers` has the same with the real `sam local start-lambda`.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

mod support;

use std::net::SocketAddr;

use emulator::lambda_endpoint::LambdaEndpoint;
use emulator::rotation::{Event, Retries, rotate};
use emulator::runtime_api::Outcome;
use emulator::{Clock, Emulator};
use serde_json::{Value, json};
use support::{Client, aws, epoch, token};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Answers one request after the other with these texts, and gives what it was sent.
async fn endpoint(answers: Vec<String>) -> (LambdaEndpoint, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let mut requests = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"}") {
                stream.read_buf(&mut request).await.unwrap();
            }
            requests.push(String::from_utf8(request).unwrap());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        requests
    });
    (at(address), serving)
}

fn at(address: SocketAddr) -> LambdaEndpoint {
    format!("http://{address}").parse().unwrap()
}

fn answer(head: &str, body: &str) -> String {
    format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// An emulator with the secret `s`, whose rotation by the function `f` has begun.
async fn emulator() -> Emulator {
    let emulator = Emulator::new(Clock::frozen(epoch()));
    let mut client = Client::new(emulator.listen("test", 0).await.unwrap(), emulator.clock().clone());
    for (operation, input) in [
        ("CreateSecret", json!({ "Name": "s", "SecretString": "value 1", "ClientRequestToken": token(1) })),
        (
            "RotateSecret",
            json!({
                "SecretId": "s",
                "ClientRequestToken": token(2),
                "RotationLambdaARN": "arn:aws:lambda:eu-west-1:123456789012:function:f",
            }),
        ),
    ] {
        assert_eq!(aws(&mut client, operation, &input).await.unwrap().0, 200);
    }
    emulator
}

async fn invoke(endpoint: &LambdaEndpoint) -> Outcome {
    endpoint.invoke(&emulator().await, &json!({ "Step": "createSecret", "SecretId": "s" })).await
}

/// Lambda API reference, "Invoke".
#[tokio::test]
async fn the_secrets_own_function_is_invoked() {
    let (endpoint, requests) = endpoint(vec![answer("200 OK", r#"{"outcome":"rotated"}"#)]).await;
    assert_eq!(invoke(&endpoint).await, Ok(json!({ "outcome": "rotated" })));
    let requests = requests.await.unwrap();
    let (head, body) = requests[0].split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /2015-03-31/functions/f/invocations HTTP/1.1\r\n"), "{head}");
    let event: Value = serde_json::from_str(body).unwrap();
    assert_eq!(event, json!({ "Step": "createSecret", "SecretId": "s" }));
}

#[tokio::test]
async fn what_is_no_answer_of_the_function_is_an_error() {
    let error = r#"{"errorType":"CurrentKeyDead","errorMessage":"make a key by hand"}"#;
    for (answer, error_type, message) in [
        (answer("200 OK\r\nX-Amz-Function-Error: Unhandled", error), "CurrentKeyDead", "make a key by hand"),
        (answer("200 OK\r\nX-Amz-Function-Error: Unhandled", "gone"), "LambdaEndpoint.Failed", ", function f: gone"),
        (answer("200 OK", "Task timed out"), "LambdaEndpoint.Failed", ", function f: Task timed out"),
        (answer("404 Not Found", "no such function"), "LambdaEndpoint.Failed", "status 404: no such function"),
        (String::new(), "LambdaEndpoint.Failed", ", function f: "),
    ] {
        let (endpoint, _) = endpoint(vec![answer.clone()]).await;
        let failed = invoke(&endpoint).await.unwrap_err();
        assert_eq!(failed.error_type, error_type, "{answer}: {failed}");
        assert!(failed.error_message.contains(message), "{answer}: {failed}");
    }
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_is_an_error_that_names_it() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let failed = invoke(&at(closed)).await.unwrap_err();
    assert_eq!(failed.error_type, "LambdaEndpoint.Failed");
    assert!(failed.error_message.starts_with(&format!("http://{closed}, function f: ")), "{failed}");
}

/// The process is repeated as for a function of the emulator's own.
#[tokio::test]
async fn a_rotation_is_tried_again_after_an_error() {
    let unhandled = "200 OK\r\nX-Amz-Function-Error: Unhandled";
    let failing = answer(unhandled, r#"{"errorType":"KosliUnavailable","errorMessage":"away"}"#);
    let (endpoint, requests) = endpoint(vec![failing.clone(), answer("200 OK", "null"), failing]).await;
    let emulator = emulator().await;
    let rotation = emulator.with_secrets_manager(|service| service.take_rotations().pop().unwrap());
    let retries = Retries { attempts: 2, spacing: std::time::Duration::from_secs(60) };
    let invoke = async |event: Value| endpoint.invoke(&emulator, &event).await;
    let end = rotate(&emulator, &rotation, retries, invoke, |_, _| {}).await;
    assert_eq!(end, Event::GivenUp);
    let requests = requests.await.unwrap();
    let steps: Vec<_> = ["createSecret", "createSecret", "setSecret"].iter().zip(&requests).collect();
    assert!(steps.iter().all(|(step, request)| request.contains(&format!(r#""Step":"{step}""#))), "{requests:?}");
}
