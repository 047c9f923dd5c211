//! One HTTP client and one TLS stack, for Kosli and for the SDK.

mod authorities;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_smithy_runtime_api::client::connection::{CaptureSmithyConnection, ConnectionMetadata};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use reqwest::redirect::Policy;
use zeroize::Zeroizing;

use crate::config::Network;
use crate::error::{ErrorKind, RotationError};

/// How long a TCP connection and its TLS handshake may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// An idle connection is not used again after this long: a frozen Lambda's connections are dead when it thaws, and a request
/// on a dead connection has an unclear outcome.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Far above every answer that Secrets Manager gives: a value has at most 64 KiB.
const LARGEST_ANSWER: usize = 1 << 20;

/// What every request to Kosli says it comes from.
const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// Connections to hosts, and what new ones are made with.
#[derive(Clone, Debug)]
pub struct Connections {
    maker: Maker,
    client: reqwest::Client,
}

/// What a client is made with.
#[derive(Clone, Debug)]
struct Maker {
    tls: rustls::ClientConfig,
    proxy: Option<reqwest::Proxy>,
}

impl Connections {
    /// Reads the certificates and makes the client.
    ///
    /// Redirects are never followed: a key goes to the configured host alone. Nothing is retried here: the caller knows which call
    /// may be repeated.
    ///
    /// The roots are Mozilla's, compiled in, and those of the file that `network` names: for a proxy that inspects TLS, or a Kosli
    /// with a certificate of its own. The proxy is the configured one, and the environment is not asked again.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfiguration`], when the additional certificates cannot be used.
    pub fn new(network: &Network) -> Result<Self, RotationError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        if let Some(file) = &network.certificate_file {
            authorities::add(file, &mut roots).map_err(|why| no_roots(&why))?;
        }
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(&error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let proxy =
            network.proxy.as_ref().map(|proxy| proxy.for_client()).transpose().map_err(|error| unusable(&error))?;
        let maker = Maker { tls, proxy };
        let client = maker.client(CONNECT_TIMEOUT).map_err(|error| unusable(&error))?;
        Ok(Self { maker, client })
    }

    /// The client for Kosli.
    pub fn client(&self) -> reqwest::Client {
        self.client.clone()
    }

    /// The same client, for the SDK.
    pub fn for_sdk(&self) -> SdkHttpClient {
        let clients = BTreeMap::from([(CONNECT_TIMEOUT, self.client.clone())]);
        SdkHttpClient { maker: self.maker.clone(), clients: Arc::new(Mutex::new(clients)) }
    }
}

impl Maker {
    fn client(&self, connect_timeout: Duration) -> reqwest::Result<reqwest::Client> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(self.tls.clone())
            .user_agent(USER_AGENT)
            .redirect(Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(connect_timeout)
            .pool_idle_timeout(IDLE_TIMEOUT)
            // What the environment says is parsed already.
            .no_proxy();
        match &self.proxy {
            Some(proxy) => client.proxy(proxy.clone()),
            None => client,
        }
        .build()
    }
}

fn no_roots(why: &str) -> RotationError {
    RotationError::before_any_change(
        ErrorKind::InvalidConfiguration,
        format!(
            "The environment variable SSL_CERT_FILE is malformed: it accepts the name of a PEM file with certificates, and {why}."
        ),
        "Correct the function's configuration.",
    )
}

fn unusable(error: &dyn fmt::Display) -> RotationError {
    RotationError::before_any_change(
        ErrorKind::InvalidConfiguration,
        format!("The HTTP client cannot be set up: {error}."),
        "Correct the function's configuration.",
    )
}

/// The client as the SDK wants it: with its connect and read time-outs, its classes of failures, and a way for it to give up
/// a connection.
#[derive(Clone, Debug)]
pub struct SdkHttpClient {
    maker: Maker,
    /// By their connect time-out, which is a client's own, while the SDK may have one for each operation. Here it has none, so
    /// there is one client.
    clients: Arc<Mutex<BTreeMap<Duration, reqwest::Client>>>,
}

impl SdkHttpClient {
    fn client(&self, connect_timeout: Duration) -> Result<reqwest::Client, ConnectorError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&connect_timeout) {
            return Ok(client.clone());
        }
        let client = self.maker.client(connect_timeout).map_err(|error| ConnectorError::other(error.into(), None))?;
        clients.insert(connect_timeout, client.clone());
        Ok(client)
    }

    /// The SDK saw a failure that may be the connection's fault. reqwest does not say which connection a request had, so all idle
    /// ones are given up: requests under way end as they would have, and the next one makes a handshake.
    fn poison(&self, connect_timeout: Duration) {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).remove(&connect_timeout);
    }
}

impl HttpClient for SdkHttpClient {
    fn http_connector(&self, settings: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(Connector {
            http_client: self.clone(),
            connect_timeout: settings.connect_timeout().unwrap_or(CONNECT_TIMEOUT),
            read_timeout: settings.read_timeout(),
        })
    }
}

#[derive(Clone, Debug)]
struct Connector {
    http_client: SdkHttpClient,
    connect_timeout: Duration,
    read_timeout: Option<Duration>,
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let connector = self.clone();
        HttpConnectorFuture::new(async move {
            let client = connector.http_client.client(connector.connect_timeout)?;
            let captured = request.extension::<CaptureSmithyConnection>().cloned();
            let mut request = into_reqwest(request)?;
            *request.timeout_mut() = connector.read_timeout;
            if let Some(captured) = captured {
                captured.set_connection_retriever(move || {
                    let connector = connector.clone();
                    let poison = move || connector.http_client.poison(connector.connect_timeout);
                    Some(ConnectionMetadata::builder().proxied(false).poison_fn(poison).build())
                });
            }
            let mut response = client.execute(request).await.map_err(failure)?;
            let mut answer = http::Response::builder().status(response.status());
            if let Some(headers) = answer.headers_mut() {
                std::mem::swap(headers, response.headers_mut());
            }
            let mut body = read_bounded(response, LARGEST_ANSWER).await.map_err(|error| match error {
                BodyError::Broken(error) => failure(error),
                BodyError::TooLarge => ConnectorError::other("the answer is too large".into(), None),
            })?;
            // From here on it is the SDK's, which frees it and does not wipe it.
            let answer = answer
                .body(SdkBody::from(std::mem::take(&mut *body)))
                .map_err(|error| ConnectorError::other(error.into(), None))?;
            HttpResponse::try_from(answer).map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

fn into_reqwest(request: HttpRequest) -> Result<reqwest::Request, ConnectorError> {
    let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
    let (parts, body) = request.into_parts();
    // Every request of this service has its body in memory.
    let body = body.bytes().map(<[u8]>::to_vec).unwrap_or_default();
    reqwest::Request::try_from(http::Request::from_parts(parts, body))
        .map_err(|error| ConnectorError::user(error.into()))
}

fn failure(error: reqwest::Error) -> ConnectorError {
    let never_connected = error.is_connect();
    let failure =
        if error.is_timeout() { ConnectorError::timeout(error.into()) } else { ConnectorError::io(error.into()) };
    if never_connected { failure.never_connected() } else { failure }
}

/// The innermost cause of an error, which is what the operator needs: a name that does not resolve, a certificate, a closed port.
pub fn innermost<'a>(error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause
}

/// Why a body could not be read.
#[derive(Debug)]
pub enum BodyError {
    /// The connection broke.
    Broken(reqwest::Error),
    /// There was more of it than allowed.
    TooLarge,
}

/// Reads a body of at most `limit` bytes. There may be a key in it: it is wiped when dropped, and so is what it has outgrown.
///
/// # Errors
/// See [`BodyError`]; the rest of the body is not read.
pub async fn read_bounded(mut response: reqwest::Response, limit: usize) -> Result<Zeroizing<Vec<u8>>, BodyError> {
    let mut body = Zeroizing::new(Vec::new());
    while let Some(chunk) = response.chunk().await.map_err(BodyError::Broken)? {
        let length = body.len() + chunk.len();
        if length > limit {
            return Err(BodyError::TooLarge);
        }
        if length > body.capacity() {
            // A vector that grows by itself leaves what it has outgrown behind.
            let mut larger = Zeroizing::new(Vec::with_capacity(length.max(2 * body.capacity())));
            larger.extend_from_slice(&body);
            body = larger;
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
