//! What the client gets to see of an answer.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::{Frame, SizeHint};
use serde_json::{Value, json};

use crate::call::Service;
use crate::faults::{Fault, Refusal};
use crate::secrets_manager;

/// What becomes of a call in the end.
pub(crate) enum Reply {
    Answer(Response<Bytes>),
    /// The first half of the answer, and then the end of the connection.
    Cut(Response<Bytes>),
    Late(Duration, Response<Bytes>),
    Drop,
    Silence,
}

impl Reply {
    /// What the fault makes of the service's answer to this request. There is an answer unless the fault keeps the effect from
    /// happening now.
    pub(crate) fn new(
        service: Service,
        request: &Request<Bytes>,
        fault: Option<&Fault>,
        answer: Option<Response<Bytes>>,
    ) -> Self {
        let Some(fault) = fault else { return answer.map_or(Self::Drop, Self::Answer) };
        let echoing = |answer| Self::Answer(echoing(answer, request));
        match (fault, answer) {
            (Fault::Refuse(refusal), _) => echoing(refusal.render(service)),
            (Fault::ErrorBefore(status) | Fault::ErrorAfter(status), _) => echoing(failure(service, *status)),
            (Fault::Html(status), _) => echoing(page(*status)),
            (Fault::DropBefore | Fault::DropAfter | Fault::KillBefore | Fault::KillAfter, _) => Self::Drop,
            (Fault::NoAnswer | Fault::NoAnswerAfter | Fault::LateEffect(_), _) => Self::Silence,
            (Fault::Delay(by), Some(answer)) => Self::Late(*by, answer),
            (Fault::Garble, Some(answer)) => {
                // With the answer in it, so that an error that quotes what it cannot read is found out.
                let garbled = [b"\x1f".as_slice(), answer.body()].concat();
                echoing(with_body(answer, garbled.into()))
            }
            (Fault::Truncate, Some(answer)) => Self::Cut(answer),
            (Fault::Incomplete, Some(answer)) => Self::Answer(incomplete(answer)),
            (Fault::Delay(_) | Fault::Garble | Fault::Truncate | Fault::Incomplete, None) => Self::Drop,
        }
    }

    /// The status that the client gets to see.
    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Self::Answer(answer) | Self::Cut(answer) | Self::Late(_, answer) => Some(answer.status().as_u16()),
            Self::Drop | Self::Silence => None,
        }
    }
}

impl Refusal {
    fn render(&self, service: Service) -> Response<Bytes> {
        let message = self.message.as_deref().unwrap_or(match self.status {
            StatusCode::TOO_MANY_REQUESTS => "Rate exceeded",
            StatusCode::CONFLICT => "Resource is locked by another request",
            StatusCode::UNAUTHORIZED => "Unauthorized",
            StatusCode::FORBIDDEN => "Forbidden",
            StatusCode::NOT_FOUND => "Not found",
            _ => "Refused",
        });
        let mut answer = match service {
            Service::Kosli => json(self.status, json!({ "message": message }).to_string()),
            Service::SecretsManager => {
                let code = self.code.as_deref().unwrap_or(match self.status {
                    StatusCode::TOO_MANY_REQUESTS => "ThrottlingException",
                    StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "AccessDeniedException",
                    StatusCode::NOT_FOUND => "ResourceNotFoundException",
                    _ => "InvalidRequestException",
                });
                // Secrets Manager says all but its own failures with 400; the type is what tells them apart.
                let status = if self.status.is_client_error() { StatusCode::BAD_REQUEST } else { self.status };
                secrets_manager::refusal(status, code, message)
            }
        };
        if let Some(seconds) = self.retry_after {
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        answer
    }
}

/// The answer with what is secret in the request, in the body and in headers, as the error pages of some servers and proxies have
/// it: a function that logs or quotes an answer is found out.
fn echoing(answer: Response<Bytes>, request: &Request<Bytes>) -> Response<Bytes> {
    /// Short enough for a client that bounds its answers' heads.
    const LONGEST_HEADER: usize = 2_000;
    let authorization = request.headers().get(header::AUTHORIZATION).map_or(b"".as_slice(), HeaderValue::as_bytes);
    // Whatever else may be in it, JSON is text; its line breaks would end a header.
    let echo = String::from_utf8_lossy(&[authorization, b" ", request.body()].concat()).replace(char::is_control, " ");
    let body = match serde_json::from_slice(answer.body()) {
        Ok(Value::Object(mut fields)) => {
            fields.insert("request".to_owned(), echo.clone().into());
            // Secrets Manager's messages are repeated to operators, so this is where it would get out.
            if let Some(Value::String(message)) = fields.get_mut("Message") {
                *message += &format!(" {echo}");
            }
            Value::Object(fields).to_string().into_bytes()
        }
        _ => [answer.body(), echo.as_bytes()].concat(),
    };
    let mut answer = with_body(answer, body.into());
    let location = format!("/?{echo}");
    for (name, value) in [("x-request", &echo), ("location", &location)] {
        let value = &value.as_bytes()[..value.len().min(LONGEST_HEADER)];
        if let Ok(value) = HeaderValue::from_bytes(value) {
            answer.headers_mut().insert(name, value);
        }
    }
    answer
}

fn failure(service: Service, status: StatusCode) -> Response<Bytes> {
    match service {
        Service::Kosli => json(status, r#"{"message":"Internal server error"}"#),
        Service::SecretsManager => {
            secrets_manager::refusal(status, "InternalServiceError", "An error occurred on the server side.")
        }
    }
}

fn page(status: StatusCode) -> Response<Bytes> {
    let title = format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or_default());
    let body = format!("<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\n");
    let mut answer = json(status, body);
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
    answer
}

/// An answer with a JSON body.
pub(crate) fn json(status: StatusCode, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut answer = Response::new(body.into());
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn incomplete(answer: Response<Bytes>) -> Response<Bytes> {
    const LEFT_OUT: [&str; 7] =
        ["key", "api_key", "SecretString", "SecretBinary", "VersionId", "VersionStages", "VersionIdsToStages"];
    let Ok(Value::Object(mut body)) = serde_json::from_slice(answer.body()) else { return answer };
    body.retain(|name, _| !LEFT_OUT.contains(&name.as_str()));
    let body = Value::Object(body).to_string();
    with_body(answer, body.into())
}

fn with_body(answer: Response<Bytes>, body: Bytes) -> Response<Bytes> {
    let (mut head, _) = answer.into_parts();
    head.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(head, body)
}

/// A body in one piece; or its first half, and then an end that does not fit the announced length.
pub(crate) struct Body {
    piece: Option<Bytes>,
    then: Then,
}

enum Then {
    End,
    /// Hyper sends what it has before it asks again, and only then learns that there is no more.
    Flush,
    Fail,
}

impl Body {
    pub(crate) fn whole(bytes: Bytes) -> Self {
        Self { piece: Some(bytes).filter(|bytes| !bytes.is_empty()), then: Then::End }
    }

    pub(crate) fn cut(mut answer: Response<Bytes>) -> Response<Self> {
        let length = answer.body().len();
        // An empty body would have nothing to cut.
        answer.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length.max(1)));
        answer.map(|bytes| Self { piece: Some(bytes.slice(..length / 2)), then: Then::Flush })
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Dropped;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Dropped>>> {
        if let Some(piece) = self.piece.take() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match self.then {
            Then::End => Poll::Ready(None),
            Then::Flush => {
                self.then = Then::Fail;
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Then::Fail => Poll::Ready(Some(Err(Dropped))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.piece.is_none() && matches!(self.then, Then::End)
    }

    fn size_hint(&self) -> SizeHint {
        match self.then {
            Then::End => SizeHint::with_exact(self.piece.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Then::Flush | Then::Fail => SizeHint::default(),
        }
    }
}

/// There is no answer: hyper ends the connection.
#[derive(Debug)]
pub(crate) struct Dropped;

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection is dropped")
    }
}

impl std::error::Error for Dropped {}
