//! A server that speaks for Kosli and does not mean well. It keeps the emulator's keys and answers as it does, but for the
//! calls of one operation: those meet a trap.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use emulator::Emulator;
use http::{Method, Request};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

/// What the caller meets instead of Kosli's answer.
#[derive(Clone)]
pub(crate) enum Trap {
    /// Bytes, made from the honest answer, and then the end of the connection.
    Bytes(Make),
    /// Bytes, and then nothing: the connection stays open.
    Stays(Make),
    /// Bytes, and then the same piece again and again, with so much time in between, as long as somebody takes them.
    Forever(Make, Vec<u8>, Duration),
}

/// Makes the bytes of an answer from the honest one.
pub(crate) type Make = Arc<dyn Fn(&Honest) -> Vec<u8> + Send + Sync>;

/// The honest answer: its effect has happened.
pub(crate) struct Honest {
    pub(crate) status: u16,
    pub(crate) body: Value,
    /// The key that the caller has authenticated with.
    pub(crate) presented: String,
}

/// Listens until it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

struct Shared {
    emulator: Emulator,
    trap: Mutex<Option<(&'static str, Trap)>>,
    /// The operation and the whole head of every request.
    requests: Mutex<Vec<(String, String)>>,
    /// How many bytes the longest answer of a trap had when the caller stopped reading.
    longest: AtomicUsize,
}

impl Server {
    /// Listens on loopback, with TLS where there is an acceptor.
    pub(crate) async fn listen(emulator: &Emulator, tls: Option<TlsAcceptor>) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        // So that what is counted as written has been read, but for little.
        socket.set_send_buffer_size(64 << 10).unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let listener = socket.listen(64).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            emulator: emulator.clone(),
            trap: Mutex::default(),
            requests: Mutex::default(),
            longest: AtomicUsize::new(0),
        });
        let accepting = tokio::spawn(accept(shared.clone(), listener, tls)).abort_handle();
        Self { address, shared, accepting }
    }

    /// From now on every call of this operation meets this trap.
    pub(crate) fn set_trap(&self, operation: &'static str, trap: Trap) {
        *self.shared.trap.lock().unwrap() = Some((operation, trap));
    }

    /// From now on every answer is honest.
    pub(crate) fn be_honest(&self) {
        *self.shared.trap.lock().unwrap() = None;
    }

    /// How many requests for this operation have come.
    pub(crate) fn count(&self, operation: &str) -> usize {
        self.shared.requests.lock().unwrap().iter().filter(|(of, _)| of == operation).count()
    }

    /// How many requests have come.
    pub(crate) fn requests(&self) -> usize {
        self.shared.requests.lock().unwrap().len()
    }

    /// How many bytes of one answer were taken, at the most.
    pub(crate) fn longest(&self) -> usize {
        self.shared.longest.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener, tls: Option<TlsAcceptor>) {
    // Connections end with the set.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (shared, tls) = (shared.clone(), tls.clone());
        connections.spawn(async move {
            match tls {
                None => drop(shared.serve(stream).await),
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        drop(shared.serve(stream).await);
                    }
                }
            }
        });
    }
}

impl Shared {
    /// Serves one connection; the error is its end.
    async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
        loop {
            let (head, body) = read_request(&mut stream).await?;
            let request = parse(&head, body);
            let operation = emulator::kosli::Kosli::operation(&request).map_or("unknown", |of| of.as_str());
            self.requests.lock().unwrap().push((operation.to_owned(), head));
            let (answer, presented) = (self.emulator.with_kosli(|kosli| kosli.handle(&request)), presented(&request));
            let status = answer.status().as_u16();
            let date = answer.headers()["date"].to_str().unwrap().to_owned();
            let body: Value = serde_json::from_slice(answer.body()).unwrap();
            let trap = self.trap.lock().unwrap().clone().filter(|(of, _)| *of == operation);
            let Some((_, trap)) = trap else {
                stream.write_all(&reply(status, &[("date", &date)], &body.to_string())).await?;
                continue;
            };
            let mut taken = 0;
            let end = self.spring(&mut stream, &trap, &Honest { status, body, presented }, &mut taken).await;
            self.longest.fetch_max(taken, Ordering::SeqCst);
            return end;
        }
    }

    async fn spring(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        trap: &Trap,
        honest: &Honest,
        taken: &mut usize,
    ) -> std::io::Result<()> {
        let (Trap::Bytes(make) | Trap::Stays(make) | Trap::Forever(make, ..)) = trap;
        for piece in make(honest).chunks(16 << 10) {
            stream.write_all(piece).await?;
            *taken += piece.len();
        }
        match trap {
            Trap::Bytes(_) => {
                stream.shutdown().await?;
                // A connection that is closed with bytes unread is reset, and a reset overtakes the answer.
                while stream.read(&mut [0; 1024]).await? > 0 {}
                Ok(())
            }
            Trap::Stays(_) => loop {
                self.let_pass(Duration::from_secs(1)).await;
                let gone = tokio::time::timeout(Duration::from_millis(1), stream.read(&mut [0; 1024])).await;
                if let Ok(read) = gone
                    && read? == 0
                {
                    return Ok(());
                }
            },
            Trap::Forever(_, piece, every) => loop {
                stream.write_all(piece).await?;
                *taken += piece.len();
                self.let_pass(*every).await;
            },
        }
    }

    /// On a frozen clock nobody else moves the time while the caller waits for this server.
    async fn let_pass(&self, time: Duration) {
        if time.is_zero() {
            return;
        }
        if self.emulator.clock().is_frozen() {
            self.emulator.clock().advance(time);
        }
        // Long enough for the caller to notice.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// An answer that is well-formed.
pub(crate) fn reply(status: u16, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status} Made Up\r\ncontent-type: application/json\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    format!("{head}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<(String, Vec<u8>)> {
    let mut received = Vec::new();
    loop {
        if stream.read_buf(&mut received).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8(received[..end].to_vec()).unwrap();
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok())
            .unwrap_or(0);
        if received.len() >= end + 4 + length {
            return Ok((head, received.split_off(end + 4)));
        }
    }
}

fn parse<B: From<Vec<u8>>>(head: &str, body: Vec<u8>) -> Request<B> {
    let mut lines = head.lines();
    let mut words = lines.next().unwrap().split(' ');
    let method: Method = words.next().unwrap().parse().unwrap();
    let mut request = Request::builder().method(method).uri(words.next().unwrap());
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        request = request.header(name, value);
    }
    request.body(body.into()).unwrap()
}

fn presented<B>(request: &Request<B>) -> String {
    let authorization = request.headers().get("authorization").map(|value| value.to_str().unwrap()).unwrap_or_default();
    authorization.strip_prefix("Bearer ").unwrap_or_default().to_owned()
}
