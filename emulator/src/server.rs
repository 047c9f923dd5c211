//! The sockets: on every port the [`Emulator`] serves Secrets Manager, Kosli, the Runtime API and its own control pages.

use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::call::Service;
use crate::control;
use crate::emulator::{Busy, Emulator, quiet_rounds};
use crate::hook::BoxFuture;
use crate::reply::{Body, Dropped, Reply, json};
use crate::runtime_api::{self, Environment};
use crate::tls::Identity;

/// What is known of a call from the port that it came through.
#[derive(Clone)]
struct Port {
    tag: Arc<str>,
    environment: Arc<Environment>,
    /// Where it is there, the port has pages for a browser, and nothing else.
    pages: Option<Pages>,
}

/// Answers every request to a port of its own.
pub(crate) type Pages = Arc<dyn Fn(Request<Bytes>) -> BoxFuture<'static, Response<Bytes>> + Send + Sync>;

/// Largest body that is read: a secret's value has 65,536 bytes at most, escaped sixfold in the worst case.
const LARGEST_BODY: usize = 1 << 20;

impl Emulator {
    /// Serves everything on one more port of the loopback interface (`0`: a free one), until the runtime ends.
    ///
    /// Calls that come through this port carry `tag`: this is how executions are told apart.
    pub async fn listen(&self, tag: &str, port: u16) -> io::Result<SocketAddr> {
        self.listen_on(tag, SocketAddr::from((Ipv4Addr::LOCALHOST, port)), None).await
    }

    /// The same over HTTPS. The address stands for `https://127.0.0.1` and for `https://localhost` with its port.
    pub async fn listen_with_tls(&self, tag: &str, port: u16, identity: &Identity) -> io::Result<SocketAddr> {
        self.listen_on(tag, SocketAddr::from((Ipv4Addr::LOCALHOST, port)), Some(identity)).await
    }

    /// The same at any address of this machine, over HTTPS where there is an identity. Any client that reaches an address beyond the loopback
    /// interface may do everything here.
    pub async fn listen_on(
        &self,
        tag: &str,
        address: SocketAddr,
        identity: Option<&Identity>,
    ) -> io::Result<SocketAddr> {
        let acceptor = identity.map(Identity::acceptor);
        let (address, _) = self.listen_for(tag, address, self.environment().clone(), acceptor).await?;
        Ok(address)
    }

    /// Serves pages for a browser on a free port of the loopback interface, and nothing else there.
    pub(crate) async fn listen_for_pages(&self, pages: Pages) -> io::Result<SocketAddr> {
        let port = Port { tag: "page".into(), environment: self.environment().clone(), pages: Some(pages) };
        let (address, _) = self.listen_at(port, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), None).await?;
        Ok(address)
    }

    /// The same, with a Runtime API of its own, and until the port is closed with the handle.
    pub(crate) async fn listen_for(
        &self,
        tag: &str,
        address: SocketAddr,
        environment: Arc<Environment>,
        tls: Option<TlsAcceptor>,
    ) -> io::Result<(SocketAddr, AbortHandle)> {
        self.listen_at(Port { tag: tag.into(), environment, pages: None }, address, tls).await
    }

    async fn listen_at(
        &self,
        port: Port,
        address: SocketAddr,
        tls: Option<TlsAcceptor>,
    ) -> io::Result<(SocketAddr, AbortHandle)> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let emulator = self.clone();
        let accepting = tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => drop(tokio::spawn(emulator.clone().accept(port.clone(), tls.clone(), stream))),
                    // Out of file descriptors, most likely: others have to close theirs first.
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        });
        Ok((address, accepting.abort_handle()))
    }

    /// Serves one connection, after its handshake if it has one.
    async fn accept(self, port: Port, tls: Option<TlsAcceptor>, stream: TcpStream) {
        // Answers are small and written at once: waiting for more would only add forty milliseconds.
        let _ = stream.set_nodelay(true);
        match tls {
            None => self.serve(port, stream).await,
            Some(tls) => {
                // A client that does not trust the certificate says so itself.
                if let Ok(stream) = tls.accept(stream).await {
                    self.serve(port, stream).await;
                }
            }
        }
    }

    async fn serve(self, port: Port, stream: impl Stream) {
        let generation = AtomicU64::new(0);
        let service = service_fn(|request| {
            let known = generation.swap(*self.generation().borrow(), Ordering::SeqCst);
            Box::pin(self.clone().route(port.clone(), known, request))
        });
        let mut connection = http1::Builder::new()
            // Hyper would put in the machine's time.
            .auto_date_header(false)
            .serve_connection(TokioIo::new(stream), service);
        let ended = poll_fn(|context| connection.poll_without_shutdown(context)).await;
        let mut stream = connection.into_parts().io.into_inner();
        // A reset instead of a farewell, where no answer is on its way any more: this is what a dropped connection looks
        // like, and it leaves no socket in TIME_WAIT, neither here nor at a client that has closed first. Otherwise long
        // test runs would use up all port numbers.
        if ended.is_err() || stream.socket().try_read(&mut [0]).is_ok_and(|read| read == 0) {
            let _ = stream.socket().set_zero_linger();
        } else {
            // TLS has a farewell of its own, without which an answer counts as cut short.
            let _ = stream.shutdown().await;
        }
    }

    /// Finds out whom a request is for. `known` is the generation of the request before it on this connection.
    async fn route(self, port: Port, known: u64, request: Request<Incoming>) -> Result<Response<Body>, Dropped> {
        let reset = self.generation();
        let (head, body) = request.into_parts();
        // The call counts as being handled from here on, or a clock might move while its body still arrives.
        let busy = Busy::new(&self);
        let Ok(body) = Limited::new(body, LARGEST_BODY).collect().await else {
            return Ok(self.dated(json(StatusCode::PAYLOAD_TOO_LARGE, r#"{"message":"the body is too large"}"#)));
        };
        if known != *reset.borrow() {
            // The first request since a reset may have been on its way before it. Its client has gone then, and hyper,
            // which listens for that while a request is handled, drops this future.
            quiet_rounds().await;
        }
        let request = Request::from_parts(head, body.to_bytes());
        if let Some(pages) = &port.pages {
            drop(busy);
            return Ok(self.dated(pages(request).await));
        }
        if let Some(host) = misdirected(&request) {
            drop(busy);
            let text = format!("this is an emulator, and not {host}: nothing was done, and nothing was kept");
            let body = serde_json::json!({ "__type": "MisdirectedRequest", "message": text }).to_string();
            return Ok(self.dated(json(StatusCode::MISDIRECTED_REQUEST, body)));
        }
        let path = request.uri().path();
        if let Some(service) = Service::of(&request) {
            return self.answer(busy, reset, port.tag, service, request).await;
        }
        drop(busy);
        let answer = if path.starts_with(runtime_api::PREFIX) {
            runtime_api::answer(&port.environment, &request).await
        } else if path.starts_with(control::PREFIX) {
            control::answer(&self, &request)
        } else {
            let text =
                r#"{"message":"this is the emulator of Secrets Manager and Kosli: GET /_emulator says what there is"}"#;
            json(StatusCode::NOT_FOUND, text)
        };
        Ok(self.dated(answer))
    }

    /// Has a call to one of the two services handled, and answers it or leaves it unanswered.
    async fn answer(
        self,
        busy: Busy,
        mut reset: watch::Receiver<u64>,
        tag: Arc<str>,
        service: Service,
        request: Request<Bytes>,
    ) -> Result<Response<Body>, Dropped> {
        let replaced = reset.clone();
        let answered = async {
            // In a task of its own: if the client goes away, hyper drops *this* future.
            let handling = tokio::spawn(self.clone().handle_unless_reset(busy, replaced, tag, service, request));
            match handling.await {
                Ok(Some(Reply::Answer(answer))) => Ok(self.dated(answer)),
                Ok(Some(Reply::Cut(answer))) => Ok(Body::cut(named(answer))),
                Ok(Some(Reply::Late(by, answer))) => {
                    self.sleep(by).await;
                    Ok(self.dated(answer))
                }
                Ok(Some(Reply::Silence)) => self.until_client_gives_up().await,
                // The fault says so, or a reset, or a panic in a hook: it has been printed, and the client should not hang.
                Ok(Some(Reply::Drop) | None) | Err(_) => Err(Dropped),
            }
        };
        tokio::select! {
            biased;
            _ = reset.changed() => Err(Dropped),
            answer = answered => answer,
        }
    }

    /// Every answer says who gives it, and what time it is here, as the services' front ends do.
    fn dated(&self, answer: Response<Bytes>) -> Response<Body> {
        let mut answer = named(answer);
        if !answer.headers().contains_key(header::DATE)
            && let Ok(date) = httpdate::fmt_http_date(self.clock().now()).parse()
        {
            answer.headers_mut().insert(header::DATE, date);
        }
        answer.map(Body::whole)
    }
}

/// What every answer says of itself, so that it is not taken for AWS's or Kosli's.
const SERVER: HeaderValue = HeaderValue::from_static("kosli-key-rotation-emulator");

fn named(mut answer: Response<Bytes>) -> Response<Bytes> {
    answer.headers_mut().insert(header::SERVER, SERVER);
    answer
}

/// The real services' names. A request that carries one was meant for the real thing and has been led here, by a proxy or by the
/// machine's `hosts` file: the sender must not believe that it was done.
const REAL: [&str; 4] = ["amazonaws.com", "amazonaws.com.cn", "api.aws", "kosli.com"];

/// The real service that a request was meant for. Credentials that look real are taken all the same: a person's shell is full of
/// them, and neither a signature nor an access key's id gives the secret key away.
fn misdirected(request: &Request<Bytes>) -> Option<String> {
    let named = request.headers().get_all(header::HOST).iter().filter_map(|host| host.to_str().ok());
    let hosts = named.chain(request.uri().authority().map(http::uri::Authority::as_str));
    let mut hosts = hosts.map(|host| {
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        name.trim_end_matches('.').to_ascii_lowercase()
    });
    hosts.find(|host| {
        REAL.iter().any(|real| host.strip_suffix(real).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
    })
}

/// What a connection's bytes come through, and the socket below it.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {
    fn socket(&self) -> &TcpStream;
}

impl Stream for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Stream for TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }
}
