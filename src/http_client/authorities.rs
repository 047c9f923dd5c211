//! The file of further authorities: what a person may have saved in its place is told in words.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{RootCertStore, pki_types};

/// Adds the certificates of a PEM file to the roots.
///
/// # Errors
/// What is wrong with the file, in words. None of it is repeated: there may be a private key in it.
pub(super) fn add(file: &str, roots: &mut RootCertStore) -> Result<(), String> {
    const BEGIN: &[u8] = b"-----BEGIN ";
    let text = std::fs::read(file).map_err(|error| format!("it cannot be read: {error}"))?;
    let wrong = |why: &str| Err(why.to_owned());
    match text.as_slice() {
        [] => return wrong("it is empty"),
        [0xef, 0xbb, 0xbf, ..] => return wrong("it begins with a byte order mark: save it as UTF-8 without one"),
        [0xfe, 0xff, ..] | [0xff, 0xfe, ..] => return wrong("it is UTF-16: save it as UTF-8"),
        [0x30, second, ..] if *second >= 0x80 => return wrong("it is DER: convert it with `openssl x509 -inform der`"),
        _ => {}
    }
    // The parser passes over what it does not know, and with it over an authority that the operator trusts.
    for (at, _) in text.windows(BEGIN.len()).enumerate().filter(|(_, window)| *window == BEGIN) {
        let (before, from) = text.split_at(at);
        if before.last().is_some_and(|byte| !matches!(byte, b'\n' | b'\r')) {
            return wrong("a line with BEGIN does not begin at the line's start");
        }
        let label = from.get(BEGIN.len()..).unwrap_or_default();
        for other in ["TRUSTED CERTIFICATE", "X509 CERTIFICATE", "PKCS7"] {
            if label.starts_with(other.as_bytes()) {
                return Err(format!(
                    "it has a section {other}: convert it into CERTIFICATE, with `openssl x509` or `openssl pkcs7`"
                ));
            }
        }
    }
    let mut number = 0;
    for certificate in CertificateDer::pem_slice_iter(&text) {
        number += 1;
        let certificate = certificate.map_err(|error| format!("its section {number} {}", in_words(&error)))?;
        roots.add(certificate).map_err(|_| format!("its certificate number {number} is none"))?;
    }
    if number == 0 { wrong("there is no certificate in it") } else { Ok(()) }
}

/// The parser's own words are lists of bytes.
fn in_words(error: &pki_types::pem::Error) -> &'static str {
    match error {
        pki_types::pem::Error::MissingSectionEnd { .. } => "has no END",
        pki_types::pem::Error::IllegalSectionStart { .. } => "has a BEGIN that does not end in five dashes",
        pki_types::pem::Error::Base64Decode(_) => "is not base64",
        _ => "cannot be read",
    }
}
