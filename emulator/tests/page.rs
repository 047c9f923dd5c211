//! The page's port: what it answers, to whom, and that no key's value leaves through it. How it looks is tested in a browser, by
//! tests/python/test_page.py.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use emulator::page::Page;
use emulator::{Clock, Emulator};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ARN: &str = "arn:aws:lambda:eu-west-1:123456789012:function:f";

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_788_220_800)
}

/// The status and everything that comes with it. `HOST` in a header stands for the page's own.
async fn ask(address: SocketAddr, request: &str, headers: &[&str]) -> (u16, String) {
    let own = address.to_string();
    let mut head = format!("{request} HTTP/1.1\r\nconnection: close\r\ncontent-length: 2\r\n");
    if !headers.iter().any(|header| header.starts_with("host:")) {
        head += &format!("host: {own}\r\n");
    }
    for header in headers {
        head += &format!("{}\r\n", header.replace("HOST", &own));
    }
    let mut connection = TcpStream::connect(address).await.unwrap();
    connection.write_all(format!("{head}\r\n{{}}").as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    (answer[9..12].parse().unwrap(), answer)
}

#[tokio::test]
async fn only_the_page_itself_may_ask() {
    let emulator = Emulator::new(Clock::frozen(now()));
    let (_, address) = Page::serve(&emulator, "kosli/ci", ARN, None).await.unwrap();
    const OURS: &str = "x-emulator-page: 1";
    for (request, headers, expected) in [
        ("GET /", &[][..], 200),
        ("GET /state", &[OURS], 200),
        ("GET /state", &[OURS, "origin: http://HOST", "sec-fetch-site: same-origin"], 200),
        ("GET /nothing", &[OURS], 404),
        ("POST /nothing", &[OURS], 404),
        ("POST /clock", &[OURS], 400),
        ("POST /fault", &[OURS], 400),
        // A page of somebody else's: it cannot send the header, and says where it is from.
        ("GET /state", &[], 403),
        ("POST /rotate", &[], 403),
        ("POST /rotate", &[OURS, "origin: http://evil.example"], 403),
        ("POST /rotate", &[OURS, "origin: null"], 403),
        ("POST /rotate", &[OURS, "sec-fetch-site: same-site"], 403),
        ("OPTIONS /rotate", &["origin: http://evil.example", "access-control-request-headers: x-emulator-page"], 403),
        // A name of somebody else's that leads here.
        ("GET /", &["host: evil.example"], 403),
        ("GET /state", &[OURS, "host: 127.0.0.1:1"], 403),
    ] {
        let (status, answer) = ask(address, request, headers).await;
        assert_eq!(status, expected, "{request} {headers:?}: {answer}");
        assert!(!answer.contains("access-control-allow"), "{answer}");
        assert!(answer.contains("x-content-type-options: nosniff"), "{answer}");
    }
    assert!(emulator.calls().is_empty());
}

/// A person can put a key's value where anybody sees it: into another key's description, for one.
#[tokio::test]
async fn an_answer_that_holds_a_keys_value_is_not_sent() {
    let emulator = Emulator::new(Clock::frozen(now()));
    let (_, address) = Page::serve(&emulator, "kosli/ci", ARN, None).await.unwrap();
    let (_, value) = emulator.with_kosli(|kosli| kosli.add_key("acme", "ci", "harmless", now(), None));
    let (status, answer) = ask(address, "GET /state", &["x-emulator-page: 1"]).await;
    assert!(status == 200 && answer.contains("harmless") && !answer.contains(&value), "{answer}");
    emulator.with_kosli(|kosli| kosli.add_key("acme", "ci", &value, now(), None));
    let (status, answer) = ask(address, "GET /state", &["x-emulator-page: 1"]).await;
    assert!(status == 500 && !answer.contains(&value), "{answer}");
}
