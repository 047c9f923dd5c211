//! What a hostile Kosli answers, as data.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::server::{Honest, Make, Trap, reply};
use testbed::DESCRIPTION;

/// What is answered, and what comes of it for each of the operations: the error's type, or `ok`.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) trap: Trap,
    pub(crate) expected: Expected,
}

/// For verify, list, rotate, revoke, get and create.
type Expected = [&'static str; 6];

/// Nothing is believed, whatever is asked. What was created and lost is replaced by rotating it, which is not trapped then.
pub(crate) const NOTHING: Expected =
    ["KosliUnavailable", "KosliUnavailable", "MintUnclear", "CleanUpIncomplete", "KosliUnavailable", "ok"];

/// The status is an answer where nothing but the status is wanted.
pub(crate) const STATUS: Expected = ["ok", "KosliUnavailable", "MintUnclear", "ok", "KosliUnavailable", "ok"];

/// The same, and the connection is no good either: a revocation is repeated then, as if nothing had been said.
const BROKEN: Expected = ["ok", "KosliUnavailable", "MintUnclear", "CleanUpIncomplete", "KosliUnavailable", "ok"];

/// So slow is an answer that there is none in time.
const SLOW: Expected =
    ["KosliUnavailable", "KosliUnavailable", "OutOfTime", "CleanUpIncomplete", "KosliUnavailable", "ok"];

fn make(make: impl Fn(&Honest) -> Vec<u8> + Send + Sync + 'static) -> Make {
    Arc::new(make)
}

fn bytes(text: impl Into<Vec<u8>>) -> Trap {
    let text = text.into();
    Trap::Bytes(make(move |_| text.clone()))
}

fn forever(begin: &str, piece: impl Into<Vec<u8>>, every: Duration) -> Trap {
    let begin = begin.as_bytes().to_vec();
    Trap::Forever(make(move |_| begin.clone()), piece.into(), every)
}

/// The honest body, under other headers or in other pieces.
fn dressed(dress: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Trap {
    Trap::Bytes(make(move |honest| dress(&honest.body.to_string())))
}

/// Answers whose form is wrong.
pub(crate) fn answers() -> Vec<Case> {
    const NOW: Duration = Duration::ZERO;
    const SLOWLY: Duration = Duration::from_millis(700);
    let case = |name, trap, expected| Case { name, trap, expected };
    vec![
        case("nothing", bytes(""), NOTHING),
        case("garbage", bytes([0xff, 0x00, 0x16, 0x03, b'\r', b'\n'].repeat(100)), NOTHING),
        case("half a status line", bytes("HTTP/1.1 2"), NOTHING),
        case("another protocol", bytes("SSH-2.0-OpenSSH_9.6\r\n"), NOTHING),
        case(
            "a version of HTTP that was not asked for",
            bytes("HTTP/2.0 200 OK\r\ncontent-length: 2\r\n\r\n[]"),
            NOTHING,
        ),
        case("a status of four digits", bytes("HTTP/1.1 2000 OK\r\ncontent-length: 2\r\n\r\n[]"), NOTHING),
        case("a status beyond all", bytes("HTTP/1.1 999 Made Up\r\ncontent-length: 2\r\n\r\n[]"), NOTHING),
        case(
            "another protocol from here on",
            bytes("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"),
            NOTHING,
        ),
        case("an endless head", forever("HTTP/1.1 200 OK\r\nx: ", "x".repeat(16 << 10), NOW), NOTHING),
        case(
            "a head that never ends",
            Trap::Stays(make(|_| b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n".to_vec())),
            SLOW,
        ),
        case("a head that drips", forever("HTTP/1.1 200 OK\r\nx: ", "x", SLOWLY), SLOW),
        case(
            "a thousand headers",
            bytes(format!("HTTP/1.1 200 OK\r\n{}content-length: 2\r\n\r\n[]", "x: x\r\n".repeat(1_000))),
            NOTHING,
        ),
        case(
            "a header of a megabyte",
            bytes(format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 2\r\n\r\n[]", "x".repeat(1 << 20))),
            NOTHING,
        ),
        case(
            "an endless row of interim answers",
            forever("", "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n", SLOWLY),
            SLOW,
        ),
        case("silence", Trap::Stays(make(|_| Vec::new())), SLOW),
        case(
            "an endless body with a length",
            forever("HTTP/1.1 200 OK\r\ncontent-length: 99999999999999\r\n\r\n", " ".repeat(16 << 10), NOW),
            BROKEN,
        ),
        case(
            "an endless body without a length",
            forever("HTTP/1.1 200 OK\r\n\r\n[", " ".repeat(16 << 10), NOW),
            BROKEN,
        ),
        case(
            "an endless body in chunks",
            forever(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n[\r\n",
                format!("4000\r\n{}\r\n", " ".repeat(16 << 10)),
                NOW,
            ),
            BROKEN,
        ),
        case("a body that drips", forever("HTTP/1.1 200 OK\r\ncontent-length: 40000\r\n\r\n", " ", SLOWLY), SLOW),
        case("an endless error page", forever("HTTP/1.1 500 Made Up\r\n\r\n<html>", "<p>".repeat(5_000), NOW), NOTHING),
        case(
            "a length that is too long",
            dressed(|body| format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len() + 7).into()),
            BROKEN,
        ),
        case(
            "a length that is too short",
            dressed(|body| format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len() - 1).into()),
            STATUS,
        ),
        case(
            "a length that is no number",
            dressed(|body| format!("HTTP/1.1 200 OK\r\ncontent-length: +{}\r\n\r\n{body}", body.len()).into()),
            NOTHING,
        ),
        case(
            "two lengths",
            dressed(|body| {
                format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into()
            }),
            NOTHING,
        ),
        case(
            "chunks that are none",
            dressed(|body| {
                format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nno number\r\n{body}\r\n0\r\n\r\n").into()
            }),
            BROKEN,
        ),
        case(
            "a chunk longer than memory",
            dressed(|body| {
                format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n{body}").into()
            }),
            BROKEN,
        ),
        case(
            "chunks without an end",
            dressed(|body| {
                format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n", body.len()).into()
            }),
            BROKEN,
        ),
        case("a page of HTML", bytes(reply(200, &[], "<!DOCTYPE html><title>Sign in</title>")), STATUS),
        case(
            "a body that says it is compressed",
            bytes([reply(200, &[("content-encoding", "gzip")], "").as_slice()].concat()),
            STATUS,
        ),
        case(
            "not UTF-8",
            dressed(|_| [b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n".as_slice(), b"\"\xff\xfe\""].concat()),
            STATUS,
        ),
        case("deeply nested", bytes(reply(200, &[], &"[".repeat(60_000))), STATUS),
        case(
            "deeply nested in an object",
            bytes(reply(201, &[], &format!("{{\"id\":{}", "{\"id\":".repeat(9_000)))),
            STATUS,
        ),
        case("no content", bytes("HTTP/1.1 204 No Content\r\n\r\n"), STATUS),
        case("no JSON but null", bytes(reply(200, &[], "null")), STATUS),
    ]
}

/// The honest answer to a mint with some fields changed.
pub(crate) fn changed(change: impl Fn(&mut Value, &Honest) + Send + Sync + 'static) -> Trap {
    Trap::Bytes(make(move |honest| {
        let mut body = honest.body.clone();
        change(&mut body, honest);
        reply(honest.status, &[], &body.to_string())
    }))
}

fn field(name: &'static str, value: Value) -> Trap {
    changed(move |body, _| body[name] = value.clone())
}

/// Mints whose answers are well-formed, and what they say is not.
pub(crate) fn new_keys() -> Vec<Case> {
    let case = |name, trap, expected| Case { name, trap, expected: ["", "", expected, "", "", "ok"] };
    let key = |value: Value| field("key", value);
    let id = |value: Value| field("id", value);
    const LOST: &str = "MintUnclear";
    vec![
        case("an empty key", key(json!("")), LOST),
        case("a key of white space", key(json!("   ")), LOST),
        case(
            "a key with a line break",
            changed(|body, _| body["key"] = format!("{}\r\nx-evil: 1", body["key"].as_str().unwrap()).into()),
            LOST,
        ),
        case("a key with a control character", key(json!("made\u{0}up\u{1b}[31m")), LOST),
        case("a key in another script", key(json!("ключ-ключ-ключ")), LOST),
        case("the key that asked", changed(|body, honest| body["key"] = honest.presented.clone().into()), LOST),
        case("a key of a megabyte", key(json!("k".repeat(1 << 20))), LOST),
        case("a key of five kilobytes", key(json!("k".repeat(5_000))), LOST),
        case("a number for a key", key(json!(17)), LOST),
        case("an object for a key", changed(|body, _| body["key"] = json!({ "value": body["key"].clone() })), LOST),
        case("no key", changed(|body, _| drop(body.as_object_mut().unwrap().remove("key"))), LOST),
        case("an id that is a path", id(json!("../../../admin")), LOST),
        case("an id with a line break", id(json!("a\r\nb")), LOST),
        case("an empty id", id(json!("")), LOST),
        case("an id of 10,000 characters", id(json!("a".repeat(10_000))), LOST),
        case("a number for an id", id(json!(17)), LOST),
        case("the new key in the place of its id", changed(|body, _| body["id"] = body["key"].clone()), LOST),
        case(
            "the key that asked in the place of the id",
            changed(|body, honest| body["id"] = honest.presented.clone().into()),
            LOST,
        ),
        case(
            "an id that holds the new key",
            changed(|body, _| body["id"] = format!("id:{}", body["key"].as_str().unwrap()).into()),
            LOST,
        ),
        case("an expiry beyond time", field("expires_at", json!(1e300)), "ok"),
        case("an expiry before time", field("expires_at", json!(-1e300)), "ok"),
        case("a grace period beyond time", field("grace_period_expires_at", json!(1e18)), "ok"),
        case("a grace period before time", field("grace_period_expires_at", json!("yesterday")), "ok"),
    ]
}

/// Lists that are well-formed, and whose keys are not. `marked` is an expiry by which the function knows its own keys.
pub(crate) fn lists(marked: u64, created_at: u64) -> Vec<Case> {
    let case = |name, trap, expected| Case { name, trap, expected: ["", expected, "", "", "", ""] };
    let list = |change: fn(&mut Vec<Value>)| changed(move |body, _| change(body.as_array_mut().unwrap()));
    let planted = move |id: String| json!({ "id": id, "description": DESCRIPTION, "created_at": created_at, "expires_at": marked, "last_used_at": 0 });
    const NONE: &str = "KosliUnavailable";
    vec![
        case(
            "100,000 keys",
            changed(move |body, _| *body = (0..100_000).map(|n| planted(format!("{n:032}"))).collect()),
            NONE,
        ),
        case(
            "10,000 keys of other people",
            changed(|body, _| {
                let keys = body.as_array_mut().unwrap();
                keys.extend((0..10_000).map(|n| json!({ "id": format!("{n:032}"), "description": "", "created_at": 1, "expires_at": 0, "last_used_at": 1 })));
            }),
            "ok",
        ),
        case("an id that is a path", list(|keys| keys[0]["id"] = "../../../admin".into()), "ok"),
        case("an id with a question mark", list(|keys| keys[0]["id"] = "a?b".into()), "ok"),
        case("an id with a line break", list(|keys| keys[0]["id"] = "a\r\nb".into()), "ok"),
        case("an empty id", list(|keys| keys[0]["id"] = "".into()), "ok"),
        case("no id", list(|keys| drop(keys[0].as_object_mut().unwrap().remove("id"))), NONE),
        case("an id of a megabyte", list(|keys| keys[0]["id"] = "a".repeat(1 << 20).into()), "ok"),
        case(
            "an id that is the key that asked",
            changed(|body, honest| body[0]["id"] = honest.presented.clone().into()),
            "ok",
        ),
        case("a description of a megabyte", list(|keys| keys[0]["description"] = "a".repeat(1 << 20).into()), "ok"),
        case(
            "a description with the key that asked",
            changed(|body, honest| body[0]["description"] = format!("key {}", honest.presented).into()),
            "ok",
        ),
        case(
            "a creation beyond time",
            list(|keys| keys.iter_mut().for_each(|key| key["created_at"] = json!(1e300))),
            "ok",
        ),
        case(
            "a creation before time",
            list(|keys| keys.iter_mut().for_each(|key| key["created_at"] = json!(-1))),
            "ok",
        ),
        case(
            "creations in a far future",
            list(|keys| keys.iter_mut().for_each(|key| key["created_at"] = json!(9e15))),
            "ok",
        ),
        case(
            "expiries beyond time",
            list(|keys| keys.iter_mut().for_each(|key| key["expires_at"] = json!(1e300))),
            "ok",
        ),
        case("every key twice", list(|keys| keys.extend_from_within(..)), "ok"),
        case("no keys", list(Vec::clear), "ok"),
        case("nested lists", list(|keys| *keys = vec![Value::Array(keys.clone())]), NONE),
        case(
            "every key with our mark, and never used",
            changed(move |body, _| {
                for key in body.as_array_mut().unwrap() {
                    (key["expires_at"], key["last_used_at"], key["created_at"]) =
                        (marked.into(), 0.into(), created_at.into());
                }
            }),
            "ok",
        ),
        case(
            "lost keys that there are not",
            changed(move |body, _| {
                body.as_array_mut().unwrap().extend((0..8).map(|n| planted(format!("planted-{n}"))));
            }),
            "ok",
        ),
    ]
}

/// A key that is looked up, and that there is not.
pub(crate) fn keys() -> Vec<Case> {
    let case = |name, body: Value, expected| Case {
        name,
        trap: Trap::Bytes(make(move |honest| {
            let mut body = body.clone();
            if body["id"] == "<the key that asked>" {
                body["id"] = honest.presented.clone().into();
            }
            reply(200, &[], &body.to_string())
        })),
        expected: ["", "", "", "", expected, ""],
    };
    let key = |field: &str, value: Value| {
        let mut key =
            json!({ "id": "made-up", "description": DESCRIPTION, "created_at": 1, "expires_at": 0, "last_used_at": 1 });
        key[field] = value;
        key
    };
    const NONE: &str = "KosliUnavailable";
    vec![
        case("a key that there is not", key("id", json!("made-up")), "KeyIdMismatch"),
        case("an id that is a path", key("id", json!("../../../admin")), NONE),
        case("an id of 10,000 characters", key("id", json!("a".repeat(10_000))), NONE),
        case("an id that is the key that asked", key("id", json!("<the key that asked>")), NONE),
        case("a number for an id", key("id", json!(17)), NONE),
        case("a creation beyond time", key("created_at", json!(1e300)), "KeyIdMismatch"),
        case("a text for a creation", key("created_at", json!("yesterday")), "KeyIdMismatch"),
        case("a list", json!([key("id", json!("made-up"))]), NONE),
    ]
}

/// The key that asked, in every place where an answer has room for it.
pub(crate) fn echoes(status: u16) -> Trap {
    Trap::Bytes(make(move |honest| {
        let key = &honest.presented;
        let quoted = json!({
            "message": format!("Bearer {key} is wrong: {key}, '{key}'; Authorization={key} {}", escaped(key)),
            "errors": { key.as_str(): key, "authorization": format!("\"{key}\"") },
            "key": key,
            "id": key,
        });
        let body = quoted.to_string();
        format!(
            "HTTP/1.1 {status} {key}\r\nauthorization: Bearer {key}\r\nx-{key}: {key}\r\nset-cookie: {key}={key}\r\n\
             location: https://{key}@127.0.0.1:1/{key}?{key}#{key}\r\nwww-authenticate: Bearer realm=\"{key}\"\r\n\
             date: {key}\r\nretry-after: {key}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }))
}

/// As a proxy may write it that trusts no character.
fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// An honest answer under another status and with further headers.
pub(crate) fn under(status: u16, headers: Vec<(&'static str, String)>) -> Trap {
    Trap::Bytes(make(move |honest| {
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        reply(status, &headers, &honest.body.to_string())
    }))
}

/// Answers that go on for ever, or almost.
pub(crate) fn endless() -> Vec<(&'static str, Trap)> {
    const NOW: Duration = Duration::ZERO;
    let keys = |number: usize| {
        changed(move |body, _| {
            let key = |n| json!({ "id": format!("{n:032}"), "description": DESCRIPTION, "created_at": 1, "expires_at": 0, "last_used_at": 1 });
            body.as_array_mut().unwrap().extend((0..number).map(key));
        })
    };
    let spaces = " ".repeat(16 << 10);
    vec![
        ("verify", forever("HTTP/1.1 200 OK\r\n\r\n[", spaces.clone(), NOW)),
        ("verify", forever("HTTP/1.1 200 OK\r\nx: ", spaces.clone(), NOW)),
        ("list", forever("HTTP/1.1 200 OK\r\n\r\n[", spaces.clone(), NOW)),
        ("list", forever("HTTP/1.1 200 OK\r\ncontent-length: 99999999999999\r\n\r\n[", spaces, NOW)),
        ("list", keys(100_000)),
        ("list", keys(60_000)),
    ]
}
