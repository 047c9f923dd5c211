//! A Runtime API that hands out any bytes at all, which the emulator's does not: Lambda itself only ever sends JSON.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use crate::case::add_good_secret;
use emulator::Clock;
use emulator::runtime_api::FunctionError;
use testbed::Executable;

/// Whatever the bytes are, the function says in its own words that they are no event.
#[tokio::test]
async fn bytes_that_are_not_json() {
    let world = Executable::new(env!("CARGO_BIN_EXE_kosli-key-rotation"), Clock::real(), &[]).await;
    let good = add_good_secret(&world).await;
    let runtime = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = world.endpoint();
    let mut function = Command::new(env!("CARGO_BIN_EXE_kosli-key-rotation"))
        .env_clear()
        .env("AWS_LAMBDA_RUNTIME_API", runtime.local_addr().unwrap().to_string())
        .env("AWS_LAMBDA_FUNCTION_NAME", "kosli-key-rotation")
        .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
        .env("AWS_LAMBDA_LOG_LEVEL", "TRACE")
        .env("AWS_REGION", "eu-west-1")
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .env("AWS_ENDPOINT_URL_SECRETS_MANAGER", endpoint)
        .env("KOSLI_HOST", endpoint)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();

    let cut_short = good.to_string();
    let canary = "a-canary-in-what-is-not-json";
    let repeated = format!("{{\"Step\":\"{canary}");
    let mut said = String::new();
    for bytes in [
        b"".as_slice(),
        b" ",
        b"createSecret",
        b"{",
        b"{\"Step\":\"createSecret\"} {}",
        b"{'Step':'createSecret'}",
        b"\xff\xfe\x00",
        b"{\"Step\":\"\xff\"}",
        b"\xef\xbb\xbf{}",
        &cut_short.as_bytes()[..cut_short.len() - 1],
        repeated.as_bytes(),
    ] {
        let (end, body) = invoke(&runtime, bytes).await;
        let error: FunctionError = serde_json::from_str(&body).unwrap();
        assert_eq!((end.as_str(), error.error_type.as_str()), ("error", "InvalidEvent"), "{bytes:?}: {error}");
        assert!(error.error_message.contains("not a JSON object"), "{error}");
        said += &body;
    }
    assert_eq!(world.emulator.calls().len(), 3, "only those of the set-up");

    let (end, body) = invoke(&runtime, good.to_string().as_bytes()).await;
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((end.as_str(), &answer["outcome"]), ("response", &Value::from("tested")));
    function.start_kill().unwrap();
    let output = function.wait_with_output().await.unwrap();
    said += &body;
    for written in [output.stdout, output.stderr] {
        said += &String::from_utf8_lossy(&written);
    }
    assert_eq!(world.find_secret(&said, [canary]), None);
}

/// Answers the function's next request for an event with these bytes: how the invocation ended, and with what.
async fn invoke(runtime: &TcpListener, event: &[u8]) -> (String, String) {
    let (mut connection, request, _) = next_request(runtime).await;
    assert_eq!(request, "GET /2018-06-01/runtime/invocation/next");
    let length = event.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nconnection: close\r\nlambda-runtime-aws-request-id: 1\r\n\
         lambda-runtime-deadline-ms: 99999999999999\r\nlambda-runtime-invoked-function-arn: arn\r\n\
         lambda-runtime-trace-id: Root=1\r\ncontent-length: {length}\r\n\r\n"
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    connection.write_all(event).await.unwrap();
    drop(connection);

    let (mut connection, request, body) = next_request(runtime).await;
    let end = request.strip_prefix("POST /2018-06-01/runtime/invocation/1/").unwrap().to_owned();
    connection.write_all(b"HTTP/1.1 202 Accepted\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    (end, body)
}

/// The next request on a new connection: method and path, and the body.
async fn next_request(runtime: &TcpListener) -> (TcpStream, String, String) {
    let (mut connection, _) = runtime.accept().await.unwrap();
    let mut received = Vec::new();
    loop {
        assert_ne!(connection.read_buf(&mut received).await.unwrap(), 0, "the request is cut short");
        let text = String::from_utf8_lossy(&received);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let mut lines = head.lines();
        let request = lines.next().unwrap().strip_suffix(" HTTP/1.1").unwrap().to_owned();
        let length = lines.find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            let body = body.to_owned();
            return (connection, request, body);
        }
    }
}
