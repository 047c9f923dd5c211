//! The one HTTP client, as the AWS SDK uses it (its time-outs, its classes of failures, and its wish never to see a connection
//! again: the function switches the SDK's own time-outs and retries off, here they are on), and the proxy that it goes through.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::config::retry::{ReconnectMode, RetryConfig};
use aws_sdk_secretsmanager::config::timeout::TimeoutConfig;
use aws_sdk_secretsmanager::config::{BehaviorVersion, Builder, Credentials, Region};
use aws_sdk_secretsmanager::error::SdkError;
use aws_sdk_secretsmanager::operation::describe_secret::DescribeSecretError;
use aws_smithy_runtime_api::client::result::DispatchFailure;
use base64::prelude::{BASE64_STANDARD, Engine};
use emulator::Clock;
use emulator::kosli::Role;
use kosli_key_rotation::config::Network;
use kosli_key_rotation::http_client::Connections;
use serde_json::json;
use testbed::{ACCOUNT, Executable, SECRET};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// What the server does with a request.
#[derive(Clone, Copy, Debug)]
enum Reply {
    Status(u16),
    /// A body of this many bytes.
    Large(usize),
    Hang,
    Drop,
}

/// A server that replies to its requests as told, one reply after the other, the last one for ever.
struct Server {
    address: String,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

impl Server {
    async fn start(replies: &'static [Reply]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap().to_string(),
            connections: Arc::default(),
            requests: Arc::default(),
        };
        let (connections, requests) = (Arc::clone(&server.connections), Arc::clone(&server.requests));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, replies, Arc::clone(&requests)));
            }
        });
        server
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn serve(stream: TcpStream, replies: &[Reply], requests: Arc<AtomicUsize>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        stream.read_exact(&mut vec![0; length]).await?;
        let number = requests.fetch_add(1, Ordering::SeqCst);
        let (status, body) = match replies[number.min(replies.len() - 1)] {
            Reply::Status(status) => (status, b"{}".to_vec()),
            Reply::Large(bytes) => (200, vec![b' '; bytes]),
            Reply::Hang => std::future::pending().await,
            Reply::Drop => return Ok(()),
        };
        let head = format!(
            "HTTP/1.1 {status} Made up\r\nContent-Type: application/x-amz-json-1.1\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&body).await?;
    }
}

/// The SDK's client, with nothing of its own switched off.
fn client(endpoint: &str, configure: impl FnOnce(Builder) -> Builder) -> Client {
    let config = Builder::new()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(Credentials::new("made-up", "made-up", None, None, "tests"))
        .endpoint_url(endpoint)
        .http_client(Connections::new(&Network::default()).unwrap().for_sdk())
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::disabled());
    Client::from_conf(configure(config).build())
}

/// A call, which a time-out that is not honoured would let wait for ever.
async fn describe(client: &Client) -> Result<(), SdkError<DescribeSecretError>> {
    let call = client.describe_secret().secret_id("made-up").send();
    tokio::time::timeout(Duration::from_secs(60), call).await.expect("it ends").map(drop)
}

/// The failure of a call that got no answer: the SDK's retries and its poisoning go by its class.
async fn failure(client: &Client) -> DispatchFailure {
    match describe(client).await {
        Err(SdkError::DispatchFailure(failure)) => failure,
        other => panic!("no answer was expected, and not {other:?}"),
    }
}

const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(600);

#[tokio::test]
async fn the_read_time_out_is_the_sdks() {
    let server = Server::start(&[Reply::Hang]).await;
    let times = TimeoutConfig::builder().connect_timeout(LONG).read_timeout(SHORT).build();
    let client = client(&format!("http://{}", server.address), |config| config.timeout_config(times));
    assert!(failure(&client).await.is_timeout());
    assert_eq!(server.requests(), 1);
}

/// The server accepts the connection and never answers the TLS handshake, which is a part of connecting.
#[tokio::test]
async fn the_connect_time_out_is_the_sdks() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let times = TimeoutConfig::builder().connect_timeout(SHORT).read_timeout(LONG).build();
    let endpoint = format!("https://{}", server.local_addr().unwrap());
    let client = client(&endpoint, |config| config.timeout_config(times));
    assert!(failure(&client).await.is_timeout());
}

/// Two attempts, as the SDK counts them.
fn twice(config: Builder) -> Builder {
    config.retry_config(RetryConfig::standard().with_max_attempts(2).with_initial_backoff(Duration::from_millis(1)))
}

#[tokio::test]
async fn what_may_pass_is_retried_and_what_will_not_is_not() {
    let dropped = Server::start(&[Reply::Drop, Reply::Status(200)]).await;
    describe(&client(&format!("http://{}", dropped.address), twice)).await.unwrap();
    assert_eq!(dropped.requests(), 2);

    let slow = Server::start(&[Reply::Hang, Reply::Status(200)]).await;
    let times = TimeoutConfig::builder().read_timeout(SHORT).build();
    describe(&client(&format!("http://{}", slow.address), |config| twice(config).timeout_config(times))).await.unwrap();
    assert_eq!(slow.requests(), 2);

    let huge = Server::start(&[Reply::Large(2 << 20), Reply::Status(200)]).await;
    assert!(failure(&client(&format!("http://{}", huge.address), twice)).await.is_other());
    assert_eq!(huge.requests(), 1);
}

#[tokio::test]
async fn a_connection_that_was_never_made_is_told_from_one_that_broke() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let never = failure(&client(&format!("http://{closed}"), |config| config)).await;
    assert!(never.is_io());
    assert!(format!("{never:?}").contains("NeverConnected"), "{never:?}");

    let server = Server::start(&[Reply::Drop]).await;
    let broke = failure(&client(&format!("http://{}", server.address), |config| config)).await;
    assert!(broke.is_io());
    assert!(!format!("{broke:?}").contains("NeverConnected"), "{broke:?}");
}

#[tokio::test]
async fn a_connection_that_the_sdk_gives_up_is_not_used_again() {
    let call_twice = async |replies, configure: fn(Builder) -> Builder| {
        let server = Server::start(replies).await;
        let client = client(&format!("http://{}", server.address), configure);
        let _ = describe(&client).await;
        describe(&client).await.unwrap();
        (server.requests(), server.connections())
    };
    let as_it_is: fn(Builder) -> Builder = |config| config;
    assert_eq!(call_twice(&[Reply::Status(200)], as_it_is).await, (2, 1));
    assert_eq!(call_twice(&[Reply::Status(400), Reply::Status(200)], as_it_is).await, (2, 1));
    assert_eq!(call_twice(&[Reply::Status(503), Reply::Status(200)], as_it_is).await, (2, 2));
    let keeps: fn(Builder) -> Builder =
        |config| config.retry_config(RetryConfig::disabled().with_reconnect_mode(ReconnectMode::ReuseAllConnections));
    assert_eq!(call_twice(&[Reply::Status(503), Reply::Status(200)], keeps).await, (2, 1));
}

/// A proxy that refuses, and remembers the first that it was asked.
async fn proxy() -> (String, JoinHandle<String>) {
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = proxy.local_addr().unwrap().to_string();
    (address, tokio::spawn(async move { head(&mut proxy.accept().await.unwrap().0).await }))
}

/// The head of a request.
async fn head(stream: &mut TcpStream) -> String {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).await.unwrap() > 0, "{head}");
    }
    head
}

/// A world with one secret, in which little time is left to every invocation, so that nothing is tried for long.
async fn hasty_world(variables: &[(&str, &str)]) -> Executable {
    let mut world = world(variables).await;
    world.configure(Duration::from_secs(4), &[]);
    world
}

/// A world with one secret.
async fn world(variables: &[(&str, &str)]) -> Executable {
    let world = Executable::new(env!("CARGO_BIN_EXE_kosli-key-rotation"), Clock::real(), variables).await;
    let (id, key) = world.add_key(ACCOUNT, Role::Admin);
    let value = json!({"api_key": key, "org": "acme", "service_account": ACCOUNT, "key_id": id}).to_string();
    world.create_secret(SECRET, json!({ "SecretString": value })).await;
    world
}

/// Kosli's own Terraform modules document both variables for functions in a VPC; their other spellings are as old as they are.
#[tokio::test]
async fn a_proxy_is_used_but_for_the_hosts_that_do_without() {
    let mut cases = JoinSet::new();
    for (variable, prefix, no_proxy, asks) in [
        ("HTTPS_PROXY", "http://", "", true),
        ("HTTPS_PROXY", "", "", true),
        ("https_proxy", "http://", "", true),
        ("ALL_PROXY", "http://user:p%5Cw@", "", true),
        ("all_proxy", "http://", "127.0.0.1", true),
        ("HTTPS_PROXY", "http://", "osli.invalid,kosli.invalid.example,10.0.0.0/8", true),
        ("HTTP_PROXY", "http://", "", false),
        ("HTTPS_PROXY", "http://", "127.0.0.1,kosli.invalid", false),
        ("HTTPS_PROXY", "http://", "127.0.0.1, .invalid", false),
        ("HTTPS_PROXY", "http://", "KOSLI.invalid", false),
        ("https_proxy", "http://", "*", false),
    ] {
        cases.spawn(async move {
            let case = format!("{variable} {prefix} {no_proxy}");
            let (address, asked) = proxy().await;
            let address = format!("{prefix}{address}");
            let variables =
                [(variable, address.as_str()), ("NO_PROXY", no_proxy), ("KOSLI_HOST", "https://kosli.invalid")];
            let world = hasty_world(&variables).await;
            let rotation = world.begin(SECRET, json!({})).await;
            let error = world.step(&rotation, "createSecret").await.unwrap_err();
            assert_eq!(error.error_type, "KosliUnavailable", "{case}: {error}");
            if asks {
                let asked = asked.await.unwrap();
                assert!(asked.starts_with("CONNECT kosli.invalid:443 HTTP/1.1\r\n"), "{case}: {asked}");
                let password = asked.contains(&format!("Basic {}\r\n", BASE64_STANDARD.encode("user:p\\w")));
                assert_eq!(password, prefix.contains('@'), "{case}: {asked}");
            } else {
                assert!(!asked.is_finished(), "{case}: the proxy was asked");
                asked.abort();
            }
            world.end().await;
        });
    }
    cases.join_all().await;
}

/// With http the key would be in clear text in front of the proxy. Here http is for this machine alone, and stays on it.
#[tokio::test]
async fn http_never_goes_through_a_proxy() {
    let mut cases = JoinSet::new();
    for variable in
        ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "KOSLI_HTTP_PROXY"]
    {
        cases.spawn(async move {
            let (address, asked) = proxy().await;
            let world = world(&[(variable, &format!("http://{address}"))]).await;
            world.rotate(SECRET).await;
            assert!(!asked.is_finished(), "{variable}: the proxy was asked");
            asked.abort();
            world.end().await;
        });
    }
    cases.join_all().await;
}

/// Whoever reads the logs of either service sees who asked.
#[tokio::test]
async fn requests_say_where_they_come_from() {
    for (variable, path, header, said) in [
        ("KOSLI_HOST", "GET /api/v2/", "user-agent: kosli-key-rotation/", env!("CARGO_PKG_VERSION")),
        ("AWS_ENDPOINT_URL_SECRETS_MANAGER", "POST / ", "app/kosli-key-rotation-", env!("CARGO_PKG_VERSION")),
    ] {
        let (address, asked) = proxy().await;
        let world = hasty_world(&[(variable, &format!("http://{address}"))]).await;
        let rotation = world.begin(SECRET, json!({})).await;
        world.step(&rotation, "createSecret").await.unwrap_err();
        let asked = asked.await.unwrap();
        assert!(asked.starts_with(path) && asked.contains(&format!("{header}{said}")), "{asked}");
        world.end().await;
    }
}
