//! HTTPS with certificates that only those clients trust that are told to: for tests and measurements with real handshakes.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// How a server that speaks HTTPS proves that it is `localhost` and `127.0.0.1`, or what else it is called.
#[derive(Clone)]
pub struct Identity {
    config: Arc<ServerConfig>,
}

impl Identity {
    /// Makes an authority, an intermediate authority and the server's own certificate, and answers the authority's as PEM:
    /// clients are to trust it, by `SSL_CERT_FILE` for example.
    ///
    /// All keys are ECDSA on P-256, because ring cannot make RSA keys. [`Identity::from_pem`] takes RSA.
    ///
    /// # Errors
    /// There is no randomness to be had.
    pub fn made_up() -> Result<(Self, String), Unusable> {
        Self::made_up_for(&[])
    }

    /// The same for more than `localhost` and `127.0.0.1`: for further names and addresses of this server.
    ///
    /// # Errors
    /// One of them is no name that a certificate can have.
    pub fn made_up_for(further: &[String]) -> Result<(Self, String), Unusable> {
        let root_key = KeyPair::generate()?;
        let root_params = authority("the emulator's root")?;
        let root = root_params.self_signed(&root_key)?;
        let root_issuer = Issuer::new(root_params, root_key);

        // The authorities of AWS and of Kosli's host sign through intermediate ones as well.
        let intermediate_key = KeyPair::generate()?;
        let intermediate_params = authority("the emulator's intermediate")?;
        let intermediate = intermediate_params.signed_by(&intermediate_key, &root_issuer)?;
        let intermediate_issuer = Issuer::new(intermediate_params, intermediate_key);

        let key = KeyPair::generate()?;
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()].into_iter().chain(further.iter().cloned());
        let mut params = CertificateParams::new(names.collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, "the emulator");
        let certificate = params.signed_by(&key, &intermediate_issuer)?;

        let chain = vec![certificate.der().clone(), intermediate.der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(Unusable::new)?;
        Ok((Self::new(chain, key)?, root.pem()))
    }

    /// Reads the server's certificate, the intermediate ones and the server's private key from one PEM file.
    ///
    /// # Errors
    /// The file cannot be read, or the key does not belong to the certificate.
    pub fn from_pem(file: &Path) -> Result<Self, Unusable> {
        let chain = CertificateDer::pem_file_iter(file)?.collect::<Result<Vec<_>, _>>()?;
        Self::new(chain, PrivateKeyDer::from_pem_file(file)?)
    }

    fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, Unusable> {
        let mut provider = ring::default_provider();
        // As AWS's endpoints and load balancers do: AES-128 with SHA-256 first, whatever the client likes best. What a
        // handshake costs depends on it (<https://docs.aws.amazon.com/elasticloadbalancing/latest/application/describe-ssl-policies.html>).
        provider.cipher_suites.sort_by_key(|suite| !format!("{:?}", suite.suite()).contains("AES_128_GCM_SHA256"));
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.ignore_client_order = true;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config) })
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.config.clone().into()
    }
}

/// Not derived: it holds a private key.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

fn authority(name: &str) -> Result<CertificateParams, Unusable> {
    let mut params = CertificateParams::new([])?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(params)
}

/// Why there is no identity: a sentence.
#[derive(Debug)]
pub struct Unusable(String);

impl Unusable {
    fn new(why: impl fmt::Display) -> Self {
        Self(why.to_string())
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unusable {}

impl From<rcgen::Error> for Unusable {
    fn from(error: rcgen::Error) -> Self {
        Self::new(error)
    }
}

impl From<tokio_rustls::rustls::Error> for Unusable {
    fn from(error: tokio_rustls::rustls::Error) -> Self {
        Self::new(error)
    }
}

impl From<tokio_rustls::rustls::pki_types::pem::Error> for Unusable {
    fn from(error: tokio_rustls::rustls::pki_types::pem::Error) -> Self {
        Self::new(error)
    }
}
