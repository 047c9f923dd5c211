//! Control.
use bytes::Bytes;
use http::{Request, Response, StatusCode};

use crate::server::{Emulator, json};

pub(crate) const PREFIX: &str = "/_emulator";

pub(crate) fn answer(_emulator: &Emulator, _request: &Request<Bytes>) -> Response<Bytes> {
    json(StatusCode::NOT_FOUND, "{}")
}
