//! A function that something else invokes, at an address that answers as Lambda's `Invoke` does: `sam local start-lambda`.
//!
//! `Invoke` in the Lambda API reference: a function's error is status 200 as well, and the header `X-Amz-Function-Error` tells.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::emulator::Emulator;
use crate::runtime_api::{DEFAULT_TIMEOUT, FunctionError, Outcome};

/// `errorType` where the endpoint, and not the function, has failed.
const UNREACHABLE: &str = "LambdaEndpoint.Failed";

/// How long an answer may take: the function's own time-out, which is the endpoint's business, and the making of a container.
const LONGEST: Duration = Duration::from_secs(DEFAULT_TIMEOUT.as_secs() + 300);

/// Largest answer that is read: Lambda's own limit.
const LARGEST_ANSWER: usize = 6 << 20;

/// Where functions are invoked over plain HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LambdaEndpoint {
    host: String,
    port: u16,
}

impl LambdaEndpoint {
    /// Invokes the rotation function of the secret that the event is about, as Secrets Manager does.
    pub async fn invoke(&self, emulator: &Emulator, event: &Value) -> Outcome {
        let secret = event["SecretId"].as_str().unwrap_or_default();
        let arn = emulator.with_secrets_manager(|service| service.secret(secret)?.rotation.function_arn.clone());
        let name = arn.as_deref().map(name).unwrap_or_default();
        let failed =
            |why: &dyn fmt::Display| FunctionError::new(UNREACHABLE, format!("{self}, function {name}: {why}"));
        let exchanged = tokio::time::timeout(LONGEST, self.exchange(name, event)).await;
        let (status, headers, body) =
            exchanged.map_err(|_| failed(&"no answer came"))?.map_err(|error| failed(&error))?;
        if status != StatusCode::OK {
            return Err(failed(&format!("status {}: {}", status.as_u16(), String::from_utf8_lossy(&body))));
        }
        if headers.contains_key("x-amz-function-error") {
            return Err(serde_json::from_slice(&body).map_err(|_| failed(&String::from_utf8_lossy(&body)))?);
        }
        serde_json::from_slice(&body).map_err(|_| failed(&String::from_utf8_lossy(&body)))
    }

    async fn exchange(&self, name: &str, event: &Value) -> Result<(StatusCode, HeaderMap, Bytes), BoxError> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("/2015-03-31/functions/{name}/invocations"))
            .header(header::HOST, format!("{}:{}", self.host, self.port))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(event.to_string())))?;
        // The connection ends with its one answer.
        let connection = tokio::spawn(connection);
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, LARGEST_ANSWER).collect().await?.to_bytes();
        connection.abort();
        Ok((head.status, head.headers, body))
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The name in a function's ARN, without a version or an alias.
fn name(arn: &str) -> &str {
    arn.split(':').nth(6).unwrap_or(arn)
}

impl FromStr for LambdaEndpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uri: Option<Uri> = text.parse().ok();
        let plain = uri.filter(|uri| uri.scheme_str() == Some("http") && matches!(uri.path(), "" | "/"));
        let host = plain.as_ref().and_then(|uri| uri.host());
        let host =
            host.ok_or_else(|| format!("it takes http:// and a host, such as http://127.0.0.1:3001, not \"{text}\""))?;
        let port = plain.as_ref().and_then(Uri::port_u16).unwrap_or(80);
        Ok(Self { host: host.trim_matches(['[', ']']).to_owned(), port })
    }
}

impl fmt::Display for LambdaEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_plain_http_and_a_host() {
        for (text, expected) in [
            ("http://127.0.0.1:3001", Some(("127.0.0.1", 3001))),
            ("http://localhost:3001/", Some(("localhost", 3001))),
            ("http://[::1]:3001", Some(("::1", 3001))),
            ("http://lambda", Some(("lambda", 80))),
            ("https://127.0.0.1:3001", None),
            ("http://127.0.0.1:3001/2015-03-31", None),
            ("127.0.0.1:3001", None),
            ("", None),
        ] {
            let parsed = text.parse::<LambdaEndpoint>();
            let expected = expected.map(|(host, port)| LambdaEndpoint { host: host.to_owned(), port });
            assert_eq!(parsed.ok(), expected, "{text}");
        }
    }

    #[test]
    fn a_functions_name_is_the_seventh_part_of_its_arn() {
        let arn = "arn:aws:lambda:eu-west-1:123456789012:function:f";
        assert_eq!([name(arn), name(&format!("{arn}:live")), name("f")], ["f"; 3]);
    }
}
