//! Nobody takes the emulator for the real thing, and nobody else reaches it.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

mod support;

use emulator::kosli::Role;
use emulator::{Clock, Emulator};
use serde_json::json;
use support::{Client, Failure, aws, epoch, token};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const NAME: Option<&str> = Some("kosli-key-rotation-emulator");

async fn emulator() -> (Emulator, Client) {
    let emulator = Emulator::new(Clock::frozen(epoch()));
    let address = emulator.listen("test", 0).await.unwrap();
    let (_, value) = emulator.with_kosli(|kosli| {
        kosli.add_account("acme", "ci", Role::Admin);
        kosli.add_key("acme", "ci", "the first", epoch(), None)
    });
    let client = Client::new(address, emulator.clock().clone()).with_key(&value);
    (emulator, client)
}

/// A whole answer to raw text.
async fn exchange(client: &Client, request: &str) -> String {
    let mut stream = TcpStream::connect(client.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// All of 127.0.0.0/8 is this machine's: a socket on every interface would be reached by another of its addresses too.
#[tokio::test]
async fn it_listens_on_one_loopback_address_and_nowhere_else() {
    let (_emulator, client) = emulator().await;
    assert!(client.address.ip().is_loopback());
    assert!(TcpStream::connect(client.address).await.is_ok());
    assert!(TcpStream::connect(("127.0.0.2", client.address.port())).await.is_err());
}

#[tokio::test]
async fn every_answer_says_who_gives_it() {
    let (emulator, mut client) = emulator().await;
    for path in [
        "/api/v2/environments/acme",
        "/api/v2/environments/other",
        "/api/v2/nothing",
        "/nothing",
        "/_emulator",
        "/_emulator/state",
    ] {
        // One of them is text.
        let answer = client.get(path).await;
        assert!(matches!(answer, Ok(_) | Err(Failure::NotJson)), "{path}: {answer:?}");
        assert_eq!(client.header("server"), NAME, "{path}");
    }
    for operation in ["ListSecrets", "DescribeSecret", "NoSuchOperation"] {
        aws(&mut client, operation, &json!({})).await.unwrap();
        assert_eq!(client.header("server"), NAME, "{operation}");
    }
    client.post("/2018-06-01/runtime/init/error", &json!({})).await.unwrap();
    assert_eq!(client.header("server"), NAME);
    for fault in ["refuse", "error-after", "html", "garble", "truncate", "incomplete"] {
        emulator.faults().clear();
        emulator.faults().add(format!("verify={fault}").parse().unwrap());
        let answer = client.get("/api/v2/environments/acme").await;
        assert!(!matches!(answer, Err(Failure::Reset | Failure::TimedOut)), "{fault}");
        assert_eq!(client.header("server"), NAME, "{fault}");
    }
}

/// A proxy or the machine's `hosts` file may lead a request here that was meant for the real thing.
#[tokio::test]
async fn a_request_for_the_real_services_is_refused() {
    let (emulator, client) = emulator().await;
    let body = json!({ "Name": "s", "SecretString": "made-up value", "ClientRequestToken": token(1) }).to_string();
    let create = |target: &str, host: &str| {
        let length = body.len();
        format!(
            "POST {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\nx-amz-target: secretsmanager.CreateSecret\r\n\
             authorization: AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    };
    for host in [
        "secretsmanager.eu-west-1.amazonaws.com",
        "secretsmanager.eu-west-1.amazonaws.com:443",
        "SecretsManager.eu-west-1.AmazonAWS.com.",
        "secretsmanager-fips.us-gov-west-1.amazonaws.com",
        "secretsmanager.cn-north-1.amazonaws.com.cn",
        "secretsmanager.eu-west-1.api.aws",
        "vpce-0123-abcd.secretsmanager.eu-west-1.vpce.amazonaws.com",
        "app.kosli.com",
        "app.us.kosli.com:443",
        "kosli.com",
    ] {
        let proxied = create(&format!("http://{host}/"), "127.0.0.1");
        for request in [create("/", host), proxied] {
            let answer = exchange(&client, &request).await;
            assert!(answer.starts_with("HTTP/1.1 421 "), "{host}: {answer}");
            assert!(answer.contains("this is an emulator, and not"), "{host}: {answer}");
        }
        let tunnel =
            exchange(&client, &format!("CONNECT {host} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")).await;
        assert!(tunnel.starts_with("HTTP/1.1 421 "), "{host}: {tunnel}");
    }
    assert!(emulator.calls().is_empty(), "none of them was a call");
    assert!(emulator.with_secrets_manager(|service| service.secret("s").is_none()));

    // With the same credentials, which a person's shell is full of, and under a name that only sounds like it.
    for (number, host) in [
        "127.0.0.1:7878",
        "localhost",
        "[::1]:7878",
        "host.docker.internal:7878",
        "notkosli.com",
        "amazonaws.com.example",
    ]
    .into_iter()
    .enumerate()
    {
        let request = create("/", host).replace("\"s\"", &format!("\"s{number}\""));
        let answer = exchange(
            &client,
            &request
                .replace(&format!("content-length: {}", body.len()), &format!("content-length: {}", body.len() + 1)),
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{host}: {answer}");
    }
}

/// A key that has got out of the emulator is recognized, and a real one is none here.
#[tokio::test]
async fn keys_are_made_up_and_look_it() {
    let (emulator, mut client) = emulator().await;
    client.post("/api/v2/service-accounts/acme/ci/api-keys", &json!({ "description": "another" })).await.unwrap();
    let values: Vec<String> = emulator.with_kosli(|kosli| kosli.keys().map(|key| key.value.clone()).collect());
    assert_eq!(values.len(), 2);
    assert!(values.iter().all(|value| value.starts_with("emulated-kosli-key-")), "{values:?}");
    client.set_key("a-key-from-somewhere-else");
    assert_eq!(client.get("/api/v2/environments/acme").await.unwrap().0, 401);
}
