//! HTTPS: real handshakes with the library's server and with `emulator serve`.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use emulator::{Clock, Emulator, Identity};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

const BOTH: &[&SupportedProtocolVersion] = &[&TLS12, &TLS13];

/// Asks Kosli without a key, over a connection of its own, as a client that trusts one authority and knows the server by one
/// name. What it gets is the answer as it comes over the wire.
async fn ask(
    address: SocketAddr,
    authority: &str,
    name: &'static str,
    versions: &[&'static SupportedProtocolVersion],
) -> io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name.try_into().unwrap(), stream).await?;
    let request = format!("GET /api/v2/environments/acme HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

async fn listen() -> (Emulator, SocketAddr, String) {
    let emulator = Emulator::new(Clock::real());
    let (identity, authority) = Identity::made_up().unwrap();
    let address = emulator.listen_with_tls("secure", 0, &identity).await.unwrap();
    (emulator, address, authority)
}

/// A file of this test's own.
fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

#[tokio::test]
async fn it_speaks_both_versions_of_tls_under_both_of_its_names() {
    let (emulator, address, authority) = listen().await;
    for versions in [&[&TLS12], &[&TLS13]] {
        for name in ["localhost", "127.0.0.1"] {
            let answer = ask(address, &authority, name, versions).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 401 "), "{versions:?} {name}: {answer}");
        }
    }
    let calls = emulator.calls();
    assert!(calls.len() == 4 && calls.iter().all(|call| call.tag == "secure"), "{calls:?}");
}

/// A client has to trust the authority and to ask for the right name, or it gets no connection and the services hear nothing.
#[tokio::test]
async fn who_does_not_trust_it_gets_no_connection() {
    let (emulator, address, authority) = listen().await;
    // It has the same name, and another key.
    let (_, another_authority) = Identity::made_up().unwrap();
    let distrusted = ask(address, &another_authority, "localhost", BOTH).await.unwrap_err();
    assert!(distrusted.to_string().contains("BadSignature"), "{distrusted}");
    let misnamed = ask(address, &authority, "app.kosli.com", BOTH).await.unwrap_err();
    assert!(misnamed.to_string().contains("not valid for name"), "{misnamed}");
    assert_eq!(emulator.calls(), []);
    // It goes on listening.
    assert!(ask(address, &authority, "localhost", BOTH).await.is_ok());
}

#[tokio::test]
async fn plain_http_is_not_answered_on_its_port() {
    let (emulator, address, _) = listen().await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /api/v2/environments/acme HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // The end, or a reset.
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(emulator.calls(), []);
}

/// Faults are the same behind TLS: here the call has its effect, and its answer is lost.
#[tokio::test]
async fn a_connection_is_dropped_behind_tls_too() {
    let (emulator, address, authority) = listen().await;
    emulator.faults().add("verify#1=drop-after".parse().unwrap());
    let lost = ask(address, &authority, "localhost", BOTH).await;
    assert!(lost.as_ref().map_or(true, String::is_empty), "{lost:?}");
    assert_eq!(emulator.calls()[0].effect, Some(401));
    assert!(ask(address, &authority, "localhost", BOTH).await.is_ok());
}

/// `emulator serve`, with a certificate that it makes up and with one that it is given.
#[tokio::test]
async fn serve_speaks_https_and_says_whom_to_trust() {
    let trusted = file("made-up-authority.pem");
    let address = serve(&["--https", trusted.to_str().unwrap()]).await;
    let authority = std::fs::read_to_string(&trusted).unwrap();
    assert!(ask(address.1, &authority, "localhost", BOTH).await.unwrap().starts_with("HTTP/1.1 401 "));

    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let given = file("given-identity.pem");
    std::fs::write(&given, certificate.pem() + &key.serialize_pem()).unwrap();
    let address = serve(&["--https-pem", given.to_str().unwrap()]).await;
    assert!(ask(address.1, &certificate.pem(), "localhost", BOTH).await.unwrap().starts_with("HTTP/1.1 401 "));
}

/// A container calls the machine that it runs on by a name of its own, and through another address than the loopback interface's first.
#[tokio::test]
async fn serve_listens_where_it_is_told_and_is_certified_for_further_names() {
    let trusted = file("named-authority.pem");
    let options = ["--https", trusted.to_str().unwrap(), "--listen", "127.0.0.2", "--tls-name", "host.docker.internal"];
    let (_serve, address) = serve(&options).await;
    assert_eq!(address.ip().to_string(), "127.0.0.2");
    let authority = std::fs::read_to_string(&trusted).unwrap();
    for name in ["host.docker.internal", "127.0.0.2", "localhost"] {
        assert!(ask(address, &authority, name, BOTH).await.unwrap().starts_with("HTTP/1.1 401 "), "{name}");
    }
    assert!(TcpStream::connect(("127.0.0.1", address.port())).await.is_err());
}

/// Starts the program; it ends with the handle. The line about HTTPS names its address.
async fn serve(options: &[&str]) -> (tokio::process::Child, SocketAddr) {
    let mut serve = Command::new(env!("CARGO_BIN_EXE_emulator"))
        .args(["serve", "--port", "0"])
        .args(options)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(serve.stdout.take().unwrap()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        if let Some((_, rest)) = line.split_once("listen on https://") {
            let address = rest.split_once(' ').unwrap().0.parse().unwrap();
            // Whoever reads on keeps the program from waiting for room in the pipe.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return (serve, address);
        }
    }
    panic!("no line about HTTPS");
}

#[test]
fn a_file_without_an_identity_is_refused() {
    let empty = file("no-identity.pem");
    std::fs::write(&empty, json!({}).to_string()).unwrap();
    assert!(Identity::from_pem(&empty).is_err());
    assert!(Identity::from_pem(&file("no-such-file.pem")).is_err());
}
