//! How the two services are reached: addresses, the proxy and further authorities. What an HTTP library would take from the
//! environment by itself is parsed here: a malformed value is an error, and is not ignored.

use std::fmt;
use std::net::IpAddr;

use reqwest::{NoProxy, Url};

use super::{Variables, malformed};
use crate::error::RotationError;

/// Where and through what https goes, beside the services' own addresses.
#[derive(Clone, Debug, Default)]
pub struct Network {
    /// The proxy for every https call; http, which is for loopback hosts alone, never goes through one.
    pub proxy: Option<Proxy>,
    /// A PEM file of authorities to trust beside Mozilla's.
    pub certificate_file: Option<String>,
}

impl Network {
    pub(super) fn from_vars(variables: &Variables<'_>) -> Result<Self, RotationError> {
        let mut no_proxy = None;
        for variable in ["NO_PROXY", "no_proxy"] {
            let entries = variables.parsed(variable, NO_PROXY_ACCEPTS, |text| Some(parse_no_proxy(text)))?.transpose();
            let entries = entries.map_err(|number| {
                malformed(variable, &format!("{NO_PROXY_ACCEPTS} (its entry number {number} is none of these)"))
            })?;
            no_proxy = no_proxy.or(entries);
        }
        let mut proxy = None;
        // Curl's order. Each of them has been honoured by HTTP clients for decades; none of them may be passed over in silence.
        for variable in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
            let parsed = variables.parsed(variable, Proxy::ACCEPTS, |text| Proxy::parse(text, no_proxy.clone()))?;
            proxy = proxy.or(parsed);
        }
        let certificate_file = variables.parsed("SSL_CERT_FILE", "the name of a file", |file| Some(file.to_owned()))?;
        Ok(Self { proxy, certificate_file })
    }
}

/// A proxy, and the hosts that do without it. Its address may hold a password, so it does not print itself.
#[derive(Clone)]
pub struct Proxy {
    address: Url,
    no_proxy: Option<String>,
}

impl Proxy {
    /// What an address has to look like.
    pub(super) const ACCEPTS: &'static str = "http:// or https://, host and port, such as http://proxy.example.com:3128, with user:password@ \
                                      before the host where the proxy asks for it (percent-encoded, where a character means something in a URL)";

    /// `None`: it is no address of a proxy. One without a scheme is taken for http, as curl takes it.
    pub(super) fn parse(text: &str, no_proxy: Option<String>) -> Option<Self> {
        let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let (scheme, rest) = text.split_once("://")?;
        let (user, host) = rest.rsplit_once('@').map_or((None, rest), |(user, host)| (Some(user), host));
        parse_origin(&format!("{scheme}://{host}"))?;
        if odd(&text) || user.is_some_and(|user| user.is_empty() || user.contains(['@', '/'])) {
            return None;
        }
        let address = Url::parse(&text).ok()?;
        // The HTTP client reads it once more, with another parser, and would do without a proxy where that one fails.
        address.as_str().parse::<http::Uri>().ok()?.authority()?;
        Some(Self { address, no_proxy })
    }

    /// The proxy as the HTTP client takes it: for https alone.
    pub(crate) fn for_client(&self) -> reqwest::Result<reqwest::Proxy> {
        let proxy = reqwest::Proxy::https(self.address.clone())?;
        Ok(proxy.no_proxy(self.no_proxy.as_deref().and_then(NoProxy::from_string)))
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("host", &self.address.host_str())
            .field("port", &self.address.port_or_known_default())
            .field("no_proxy", &self.no_proxy)
            .finish_non_exhaustive()
    }
}

/// What a list of hosts without proxy has to look like.
pub(super) const NO_PROXY_ACCEPTS: &str = "hosts, separated by commas: a name (example.com or .example.com, each for it and for all \
                                           names below it), an address, a network (10.0.0.0/8), or * alone; no port, no scheme, no \
                                           other *";

/// A list of hosts to reach without the proxy. An entry that would match nothing is an error: its author meant something by it.
///
/// # Errors
/// The number of the first entry that is none.
pub(super) fn parse_no_proxy(text: &str) -> Result<String, usize> {
    let entries = text.split(',').map(|entry| entry.trim_matches(' ')).enumerate();
    let mut parsed = Vec::new();
    for (index, entry) in entries {
        if !is_no_proxy_entry(entry) {
            return Err(index + 1);
        }
        parsed.push(entry);
    }
    Ok(parsed.join(","))
}

fn is_no_proxy_entry(entry: &str) -> bool {
    if entry == "*" || entry.parse::<IpAddr>().is_ok() {
        return true;
    }
    if let Some((address, bits)) = entry.split_once('/') {
        let most = match address.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        return bits.bytes().all(|byte| byte.is_ascii_digit()) && bits.parse::<u8>().is_ok_and(|bits| bits <= most);
    }
    let name = entry.strip_prefix('.').unwrap_or(entry);
    let plain = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    // A URL takes a name that ends in a number for an address, and writes it otherwise.
    name.split('.').all(plain)
        && Url::parse(&format!("https://{name}"))
            .is_ok_and(|url| url.host_str().is_some_and(|host| host.eq_ignore_ascii_case(name)))
}

/// An origin: scheme, host and port, and nothing that could send a key anywhere else.
pub(super) fn parse_origin(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    url.host_str()?;
    // The parser resolves `/..`, and puts slashes in where some are missing.
    let written = text.get(url.scheme().len()..).and_then(|rest| rest.strip_prefix("://"));
    let bare = written.is_some_and(|origin| !origin.strip_suffix('/').unwrap_or(origin).contains('/'))
        && url.username().is_empty()
        && url.password().is_none()
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none()
        && !text.contains('@')
        && !odd(text);
    (bare && matches!(url.scheme(), "http" | "https")).then_some(url)
}

/// The parser forgives what a person would not: white space, a backslash, an empty query.
fn odd(text: &str) -> bool {
    text.contains(['\\', '?', '#']) || text.chars().any(|character| character.is_whitespace() || character.is_control())
}

/// What the address of a service has to look like.
pub(super) const SERVICE_ACCEPTS: &str =
    "an https:// address without user, path, query or fragment (http:// for a loopback host only)";

/// The address of a service, to which a key or a secret's value goes: no third party may read that on its way.
pub(super) fn parse_service(text: &str) -> Option<Url> {
    let url = parse_origin(text)?;
    let host = url.host_str()?;
    let loopback = host == "localhost"
        || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    (url.scheme() == "https" || loopback).then_some(url)
}
