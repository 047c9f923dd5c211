//! Why a call to Secrets Manager failed, told as deep as it is known, and whose fault it is: through the real executable, which meets
//! what a network, a proxy and a firewall do. For Kosli the same is told (tests/words.rs, tests/http_client.rs).

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use std::time::Duration;

use emulator::Clock;
use emulator::rotation::step_event;
use serde_json::json;
use testbed::{Executable, SECRET, Setting, Testbed, World, refused, second};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// A server that has one answer to everything.
async fn server(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = [0; 4_096];
            let _ = stream.read(&mut asked).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    address
}

const FORBIDDEN: &str =
    "HTTP/1.1 403 Forbidden\r\ncontent-type: text/html\r\ncontent-length: 13\r\nconnection: close\r\n\r\n<html></html>";
const ASKS_FOR_A_NAME: &str =
    "HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn what_is_between_the_function_and_secrets_manager_is_told() {
    const ENDPOINT: &str = "AWS_ENDPOINT_URL_SECRETS_MANAGER";
    let emulator = emulator::Emulator::new(Clock::real());
    let untrusted = emulator.listen_with_tls("test", 0, &emulator::Identity::made_up().unwrap().0).await.unwrap();
    let (html, proxy) = (server(FORBIDDEN).await, server(ASKS_FOR_A_NAME).await);
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let somewhere = "https://secretsmanager.invalid".to_owned();
    let mut cases = JoinSet::new();
    for (variables, error_type, says) in [
        (
            vec![(ENDPOINT, format!("http://{closed}"))],
            "SecretsManagerUnavailable",
            "no connection could be made: Connection refused",
        ),
        (vec![(ENDPOINT, somewhere.clone())], "SecretsManagerUnavailable", "lookup"),
        (
            vec![(ENDPOINT, format!("https://localhost:{}", untrusted.port()))],
            "SecretsManagerUnavailable",
            "certificate",
        ),
        (vec![(ENDPOINT, somewhere), ("HTTPS_PROXY", format!("http://{proxy}"))], "SecretsManagerUnavailable", "proxy"),
        (
            vec![(ENDPOINT, format!("http://{html}"))],
            "SecretsManagerRefused",
            "HTTP status 403: the answer is none of Secrets Manager's",
        ),
    ] {
        cases.spawn(async move {
            let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let world = Executable::new(env!("CARGO_BIN_EXE_kosli-key-rotation"), Clock::real(), &variables).await;
            world.create_secret(SECRET, json!({"SecretString": "made-up"})).await;
            let rotation = world.begin(SECRET, json!({})).await;
            // Also where no secret is named: that is no missing permission.
            for event in [step_event(&rotation, "createSecret"), json!({"Step": "checkSecret"})] {
                let error = world.invoke(&event).await.unwrap_err();
                assert_eq!(error.error_type, error_type, "{variables:?}: {error}");
                assert!(error.error_message.contains(says), "{variables:?}: {says} is not in: {error}");
                assert!(!error.error_message.contains("ListSecrets on *"), "{error}");
            }
            world.end().await;
        });
    }
    cases.join_all().await;
}

/// Throttling passes: it is as an outage, and nobody has anything to correct.
#[test]
fn throttling_is_an_outage() {
    Testbed::run(async |testbed| {
        for code in ["ThrottlingException", "TooManyRequestsException", "RequestLimitExceeded", "SlowDown"] {
            for operation in ["DescribeSecret", "GetSecretValue", "ListSecrets"] {
                let world = testbed.world(&Setting::default());
                let rotation = world.begin_rotation(&second()).unwrap();
                world.rule(&format!("{operation}=refuse:400:{code}"));
                let event = match operation {
                    "ListSecrets" => json!({"Step": "checkSecret"}),
                    _ => step_event(&rotation, "createSecret"),
                };
                let message = refused(world.invoke(0, &event).await, "SecretsManagerUnavailable");
                assert!(message.contains(code) && !message.contains("Correct what"), "{message}");
                assert!(!message.contains("Allow"), "{message}");
            }
        }
    });
}

/// A longer time-out is advised where it is shorter than the template's, and not where it is not.
#[test]
fn a_longer_time_out_is_advised_only_where_it_would_be_longer() {
    const ADVICE: &str = "Set the function's time-out to 90 s";
    Testbed::run(async |testbed| {
        let silent = async |world: &World, timeout| {
            let rotation = world.begin_rotation(&second()).unwrap();
            let event = step_event(&rotation, "createSecret");
            refused(world.invoke_within(0, &event, timeout).await, "OutOfTime")
        };
        // Lambda's own default, and a service that takes two seconds.
        let world = testbed.world(&Setting::default());
        world.rule("DescribeSecret=delay:2s");
        world.rule("verify=delay:2s");
        let message = silent(&world, Duration::from_secs(3)).await;
        assert!(message.contains(ADVICE), "{message}");
        // A Kosli that is silent uses up all the time that there can be.
        let world = testbed.world(&Setting::default());
        world.rule("rotate=no-answer");
        let message = silent(&world, testbed::TIMEOUT).await;
        assert!(!message.contains(ADVICE), "{message}");
    });
}
