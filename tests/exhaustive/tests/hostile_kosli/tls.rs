//! Real TLS servers, with certificates that are right and wrong in every way, in front of the real executable.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use emulator::Clock;
use emulator::kosli::Role;
use emulator::rotation::Event;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, SupportedProtocolVersion};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::server::Server;
use testbed::{ACCOUNT, Executable, SECRET};

/// So short an invocation ends soon where no connection comes about: the function tries again as long as it has time.
const SHORT: Duration = Duration::from_secs(4);

const BOTH: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

/// Who signs certificates.
struct Authority(Issuer<'static, KeyPair>, String);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self(Issuer::new(params, key), pem)
    }

    fn sign(&self, params: &CertificateParams) -> (CertificateDer<'static>, KeyPair) {
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap().der().clone(), key)
    }
}

/// A server's side of TLS with this certificate.
fn acceptor(
    (certificate, key): &(CertificateDer<'static>, KeyPair),
    versions: &[&'static SupportedProtocolVersion],
) -> TlsAcceptor {
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// What a certificate says, unless a case changes it.
fn right() -> CertificateParams {
    CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap()
}

fn changed(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = right();
    change(&mut params);
    params
}

/// A file that is gone with this.
struct Roots(PathBuf);

impl Roots {
    fn new(authority: &Authority) -> Self {
        let path = std::env::temp_dir().join(format!("made-up-roots-{:016x}.pem", fastrand::u64(..)));
        std::fs::write(&path, &authority.1).unwrap();
        Self(path)
    }
}

impl Drop for Roots {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A secret with a good key. Its function calls Kosli at this host, and trusts one authority more than everybody does.
async fn set_up(world: &mut Executable, host: &str, roots: &Roots, timeout: Duration) {
    world.configure(timeout, &[("KOSLI_HOST", host), ("SSL_CERT_FILE", roots.0.to_str().unwrap())]);
    let (id, key) = world.add_key(ACCOUNT, Role::Admin);
    let value = json!({ "api_key": key, "org": "acme", "service_account": ACCOUNT, "key_id": id });
    world.create_secret(SECRET, json!({ "SecretString": value.to_string() })).await;
}

/// The control: the servers below are refused for what is wrong with them, and not because of TLS.
#[tokio::test]
async fn a_trusted_certificate() {
    let authority = Authority::new("trusted");
    let roots = Roots::new(&authority);
    for versions in [&BOTH[..], &BOTH[1..]] {
        for name in ["127.0.0.1", "localhost"] {
            let mut world = Executable::new(env!("CARGO_BIN_EXE_function"), Clock::real(), &[]).await;
            let kosli = Server::listen(&world.emulator, Some(acceptor(&authority.sign(&right()), versions))).await;
            let host = format!("https://{name}:{}", kosli.address.port());
            set_up(&mut world, &host, &roots, Duration::from_secs(90)).await;
            let rotation = world.begin(SECRET, json!({})).await;
            assert_eq!(world.run(&rotation).await, Event::Succeeded);
            assert_eq!(kosli.requests(), 6, "every call came this way");
            assert!(world.kosli_accepts(&world.newest_key().value).await);
            world.end().await;
        }
    }
}

#[tokio::test]
async fn certificates_that_are_not_to_be_trusted() {
    let trusted = Authority::new("trusted");
    let roots = Arc::new(Roots::new(&trusted));
    let own = KeyPair::generate().unwrap();
    let mut cases = JoinSet::new();
    for (name, certificate, words) in [
        (
            "another host's",
            trusted.sign(&CertificateParams::new(["app.kosli.com".to_owned(), "10.0.0.1".to_owned()]).unwrap()),
            "not valid for name",
        ),
        (
            "a name that only its subject has",
            trusted.sign(&changed(|params| {
                params.subject_alt_names.clear();
                params.distinguished_name.push(DnType::CommonName, "127.0.0.1");
            })),
            "not valid for name",
        ),
        ("expired", trusted.sign(&changed(|params| params.not_after = date_time_ymd(2020, 1, 1))), "expired"),
        ("for later", trusted.sign(&changed(|params| params.not_before = date_time_ymd(3020, 1, 1))), "not valid yet"),
        (
            "a client's",
            trusted.sign(&changed(|params| params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth))),
            "certificate",
        ),
        ("signed by nobody known", Authority::new("trusted").sign(&right()), "certificate"),
        ("signed by itself", (right().self_signed(&own).unwrap().der().clone(), own), "certificate"),
    ] {
        let roots = roots.clone();
        cases.spawn(async move {
            let mut world = Executable::new(env!("CARGO_BIN_EXE_function"), Clock::real(), &[]).await;
            let kosli = Server::listen(&world.emulator, Some(acceptor(&certificate, &BOTH))).await;
            set_up(&mut world, &format!("https://{}", kosli.address), &roots, SHORT).await;
            assert_unreachable(world, name, words).await;
            assert_eq!(kosli.requests(), 0, "{name}");
        });
    }
    cases.join_all().await;
}

/// Nothing was sent: the error says why, and nothing was changed.
async fn assert_unreachable(world: Executable, name: &str, words: &str) {
    let rotation = world.begin(SECRET, json!({})).await;
    let before = world.versions(SECRET);
    let error = world.step(&rotation, "createSecret").await.expect_err(name);
    assert_eq!(error.error_type, "KosliUnavailable", "{name}: {error}");
    for words in [words, "no connection could be made", "Nothing was changed."] {
        assert!(error.error_message.contains(words), "{name}: no \"{words}\" in: {error}");
    }
    assert!(before == world.versions(SECRET) && world.keys().len() == 1, "{name}");
    world.end().await;
}

/// What a server of TLS 1.1, 1.0 or SSL 3 says to a client that can do more: its version, and a cipher of its time.
fn server_hello(minor: u8) -> Vec<u8> {
    const RSA_WITH_AES_128_CBC_SHA: [u8; 2] = [0x00, 0x2f];
    let mut hello = vec![3, minor];
    hello.extend([7; 32]);
    hello.push(0);
    hello.extend(RSA_WITH_AES_128_CBC_SHA);
    hello.push(0);
    let length = u8::try_from(hello.len()).unwrap();
    [&[0x16, 3, minor, 0, length + 4, 2, 0, 0, length], hello.as_slice()].concat()
}

/// The client ends the handshake with an alert, and sends nothing else.
#[tokio::test]
async fn tls_before_1_2_and_no_tls_at_all() {
    let roots = Arc::new(Roots::new(&Authority::new("trusted")));
    let mut cases = JoinSet::new();
    for (name, answer) in [
        ("TLS 1.1", server_hello(2)),
        ("TLS 1.0", server_hello(1)),
        ("SSL 3", server_hello(0)),
        ("plain HTTP", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]".to_vec()),
        ("an end", Vec::new()),
    ] {
        let roots = roots.clone();
        cases.spawn(async move {
            let mut world = Executable::new(env!("CARGO_BIN_EXE_function"), Clock::real(), &[]).await;
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            set_up(&mut world, &format!("https://{}", listener.local_addr().unwrap()), &roots, SHORT).await;
            let server = tokio::spawn(async move {
                loop {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    assert_eq!(stream.read_u8().await.unwrap(), 0x16, "{name}: a handshake begins");
                    let mut rest = [0; 4];
                    stream.read_exact(&mut rest).await.unwrap();
                    let length = u16::from_be_bytes([rest[2], rest[3]]);
                    stream.read_exact(&mut vec![0; length.into()]).await.unwrap();
                    stream.write_all(&answer).await.unwrap();
                    stream.shutdown().await.unwrap();
                    let mut said = Vec::new();
                    // A reset says nothing either.
                    let _ = stream.read_to_end(&mut said).await;
                    assert!(said.is_empty() || (said[0] == 0x15 && said.len() == 7), "{name}: {said:x?}");
                }
            });
            assert_unreachable(world, name, "no connection could be made").await;
            assert!(!server.is_finished(), "{name}: the client said more than an alert");
            server.abort();
        });
    }
    cases.join_all().await;
}
