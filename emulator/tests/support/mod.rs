//! A client that shows exactly what comes over the wire: no retries, no pool, and a time-out on the emulator's clock.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]
#![allow(dead_code, reason = "every test file uses a part of it")]

use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use emulator::Clock;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long a client waits for an answer.
pub(crate) const TIME_OUT: Duration = Duration::from_secs(5);

/// Where frozen clocks stand: 2026-09-01 00:00:00 UTC.
pub(crate) fn epoch() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_788_220_800)
}

/// A `ClientRequestToken`.
pub(crate) fn token(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

/// Why there is no answer that one could read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The connection ended before the first byte of an answer.
    Reset,
    /// The connection ended before the last byte.
    CutShort,
    TimedOut,
    NotJson,
}

/// Keeps its connection while the server does.
pub(crate) struct Client {
    pub(crate) address: SocketAddr,
    clock: Clock,
    key: String,
    pub(crate) time_out: Duration,
    connection: Option<TcpStream>,
    head: String,
}

impl Client {
    pub(crate) fn new(address: SocketAddr, clock: Clock) -> Self {
        Self { address, clock, key: String::new(), time_out: TIME_OUT, connection: None, head: String::new() }
    }

    pub(crate) fn with_key(mut self, key: &str) -> Self {
        self.set_key(key);
        self
    }

    pub(crate) fn set_key(&mut self, key: &str) {
        key.clone_into(&mut self.key);
    }

    /// Another client with the same key.
    pub(crate) fn another(&self) -> Self {
        Self::new(self.address, self.clock.clone()).with_key(&self.key)
    }

    pub(crate) fn at(self, address: SocketAddr) -> Self {
        Self { address, ..self }
    }

    pub(crate) async fn get(&mut self, path: &str) -> Result<(u16, Value), Failure> {
        self.send("GET", path, &self.bearer(), "").await
    }

    pub(crate) async fn post(&mut self, path: &str, body: &Value) -> Result<(u16, Value), Failure> {
        self.send("POST", path, &self.bearer(), &body.to_string()).await
    }

    /// A header of the last answer, by its name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub(crate) async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> Result<(u16, Value), Failure> {
        let clock = self.clock.clone();
        let time_out = self.time_out;
        let answer = tokio::select! {
            biased;
            answer = self.exchange(method, path, headers, body) => answer,
            () = clock.timer(time_out) => Err(Failure::TimedOut),
        };
        if answer.is_err() {
            self.connection = None;
        }
        let (status, body) = answer?;
        if body.is_empty() {
            return Ok((status, Value::Null));
        }
        Ok((status, serde_json::from_slice(&body).map_err(|_| Failure::NotJson)?))
    }

    /// Sends a request at once, and ends the connection without waiting for anything.
    pub(crate) fn send_and_go(self, path: &str, body: &Value) {
        let bearer = self.bearer();
        let mut connection = match self.connection {
            Some(connection) => connection.into_std().unwrap(),
            None => std::net::TcpStream::connect(self.address).unwrap(),
        };
        let body = body.to_string();
        let length = body.len();
        write!(connection, "POST {path} HTTP/1.1\r\nhost: test\r\n{bearer}content-length: {length}\r\n\r\n{body}")
            .unwrap();
    }

    fn bearer(&self) -> String {
        format!("authorization: Bearer {}\r\n", self.key)
    }

    async fn exchange(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> Result<(u16, Vec<u8>), Failure> {
        if self.connection.is_none() {
            self.connection = Some(TcpStream::connect(self.address).await.map_err(|_| Failure::Reset)?);
        }
        let connection = self.connection.as_mut().unwrap();
        let length = body.len();
        let request =
            format!("{method} {path} HTTP/1.1\r\nhost: test\r\n{headers}content-length: {length}\r\n\r\n{body}");
        connection.write_all(request.as_bytes()).await.map_err(|_| Failure::Reset)?;
        let mut received = Vec::new();
        let head_end = loop {
            if let Some(at) = received.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if connection.read_buf(&mut received).await.map_or(true, |read| read == 0) {
                return Err(Failure::Reset);
            }
        };
        self.head = String::from_utf8_lossy(&received[..head_end]).to_lowercase().replace("\r\n", "\n");
        let status = self.head.split(' ').nth(1).unwrap().parse().unwrap();
        let length: usize = self.header("content-length").map_or(0, |length| length.parse().unwrap());
        let connection = self.connection.as_mut().unwrap();
        while received.len() < head_end + length {
            if connection.read_buf(&mut received).await.map_or(true, |read| read == 0) {
                return Err(Failure::CutShort);
            }
        }
        Ok((status, received.split_off(head_end)))
    }
}

/// Calls an operation of Secrets Manager.
pub(crate) async fn aws(client: &mut Client, operation: &str, input: &Value) -> Result<(u16, Value), Failure> {
    let headers = format!(
        "x-amz-target: secretsmanager.{operation}\r\ncontent-type: application/x-amz-json-1.1\r\n\
         authorization: AWS4-HMAC-SHA256 Credential=test\r\n"
    );
    client.send("POST", "/", &headers, &input.to_string()).await
}

/// How many sockets at this address wait for stray packets of connections that have ended, on either side.
pub(crate) fn sockets_in_time_wait(address: SocketAddr) -> usize {
    const TIME_WAIT: &str = "06";
    let port = format!(":{:04X}", address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[3] == TIME_WAIT && (row[1].ends_with(&port) || row[2].ends_with(&port))).count()
}
