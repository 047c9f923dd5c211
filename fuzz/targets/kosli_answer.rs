//! Kosli's answers: `STATUS RETRY-AFTER\nKEY\nBODY`, where the key is the one that the call was made with. Whatever comes is read
//! whole or not at all, is refused or unclear as documented, and shows no key.
#![no_main]

use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderValue, StatusCode};
use kosli_key_rotation::api_key::ApiKey;
use kosli_key_rotation::budget::Repeatable;
use kosli_key_rotation::identity::KeyId;
use kosli_key_rotation::kosli::{KeyEntry, KosliError, MintAnswer, failed, key_in, keys_in, minted_in};
use libfuzzer_sys::fuzz_target;
use serde::Deserialize;
use serde_json::value::RawValue;

/// So long a piece of a key tells something about it.
const TELLING: usize = 12;

fuzz_target!(|data: &[u8]| {
    let mut lines = data.splitn(3, |&byte| byte == b'\n');
    let (Some(head), Some(ours), Some(body)) = (lines.next(), lines.next(), lines.next()) else { return };
    let ours = std::str::from_utf8(ours).ok().filter(|text| ApiKey::parse(text).is_some());
    let ours_text = ours.unwrap_or("made-up-currentkeyvalue-0123456789");
    let Some(ours) = ApiKey::parse(ours_text) else { return };
    listed(body, ours_text, &ours);
    looked_up(body, ours_text, &ours);
    minted(body, ours_text, &ours);
    not_a_success(head, body, ours_text, &ours);
});

fn listed(body: &[u8], ours_text: &str, ours: &ApiKey) {
    match keys_in(body, ours) {
        Ok(keys) => {
            let whole: Vec<WireId> = serde_json::from_slice(body).expect("a list is an array");
            assert_eq!(keys.len(), whole.len(), "all of it or nothing");
            for (key, on_the_wire) in keys.iter().zip(&whole) {
                let id = text(on_the_wire.id).expect("every entry has an id");
                assert_eq!(key.as_ref().is_some(), KeyId::parse(&id).is_some() && !tells(ours_text, &id));
                if let Some(key) = key {
                    assert_eq!(id, key.id.as_str());
                    valid(key, ours_text);
                }
            }
        }
        Err(error) => unclear(&error, "its list of keys is not an array of keys"),
    }
}

fn looked_up(body: &[u8], ours_text: &str, ours: &ApiKey) {
    match key_in(body, ours) {
        Ok(key) => valid(&key, ours_text),
        Err(error) => unclear(&error, "its answer is not a key"),
    }
}

fn valid(key: &KeyEntry, ours_text: &str) {
    assert!(!tells(ours_text, key.id.as_str()));
    shows_no_piece_of(ours_text, &key.description);
    assert!(KeyId::parse(key.id.as_str()).is_some());
    assert_ne!(key.expires_at, Some(0), "0 means never");
    for at in [Some(key.created_at), key.last_used_at].into_iter().flatten() {
        assert!(at >= UNIX_EPOCH);
        // The function adds its tolerances to it.
        assert!(at.checked_add(Duration::from_secs(1_000 * 86_400)).is_some());
    }
}

fn minted(body: &[u8], ours_text: &str, ours: &ApiKey) {
    let answer = minted_in(body, ours);
    let shown = format!("{answer:?}");
    let id = match &answer {
        Ok(MintAnswer::Minted(minted)) => {
            assert!(!minted.key.same(ours), "a new key that is the old one is none");
            assert_ne!(minted.expires_at, Some(0));
            if let Some(at) = minted.grace_period_expires_at {
                assert!(at > UNIX_EPOCH && at.checked_add(Duration::from_secs(1_000 * 86_400)).is_some());
            }
            minted.id.as_str()
        }
        Ok(MintAnswer::Lost(id)) => id.as_str(),
        Err(error) => {
            let text = error.to_string();
            let known = ["its answer to a mint cannot be read", "its answer to a mint has no proper key id"];
            assert!(known.contains(&text.as_str()), "{text}");
            unclear(error, &text);
            return;
        }
    };
    assert!(KeyId::parse(id).is_some());
    let wire: Wire = serde_json::from_slice(body).expect("a mint's answer is an object");
    assert_eq!(text(wire.id).as_deref(), Some(id));
    for value in [text(wire.key), text(wire.api_key), Some(ours_text.to_owned())].into_iter().flatten() {
        assert_ne!(id, value, "a key's value in the place of its id would be printed");
        // Neither an instant nor a word of the output, then.
        let telling = value.len() >= TELLING
            && value.bytes().all(|byte| byte.is_ascii_alphanumeric())
            && value.bytes().any(|byte| byte.is_ascii_digit())
            && value.bytes().any(|byte| byte.is_ascii_alphabetic());
        // What an id holds besides is not known to be a key.
        assert!(!telling || id.contains(&value) || !shown.contains(&value), "{shown}");
    }
}

fn not_a_success(head: &[u8], body: &[u8], ours_text: &str, ours: &ApiKey) {
    let mut head = head.splitn(2, |&byte| byte == b' ');
    let status = head.next().and_then(|status| StatusCode::from_bytes(status).ok());
    let Some(status) = status.filter(|status| !status.is_success()) else { return };
    let retry_after = head.next().and_then(|value| HeaderValue::from_bytes(value).ok());
    let error = failed(status, retry_after.as_ref(), body, ours);
    let told_nothing = [408, 421, 425, 499].contains(&status.as_u16());
    let did_not_happen = status.is_redirection() || (status.is_client_error() && !told_nothing);
    match &error {
        KosliError::Refused { status: said, message, .. } => {
            assert!(did_not_happen);
            assert_eq!(*said, status);
            assert_eq!(error.repeat_after().is_some(), [409, 429].contains(&status.as_u16()));
            assert!(message.chars().count() <= 300 && !message.chars().any(char::is_control));
        }
        KosliError::Unclear(why) => {
            assert!(!did_not_happen);
            unclear(&error, why);
        }
        KosliError::NotSent(_) => panic!("there was an answer"),
    }
    shows_no_piece_of(ours_text, &error.to_string());
}

/// An id that shows a piece of a key, and is not just a part of it that leaves enough unknown.
fn tells(key: &str, id: &str) -> bool {
    let is_a_part = key.contains(id) && key.len() - id.len() >= 16;
    let piece = TELLING.min(key.len());
    !is_a_part && key.as_bytes().windows(piece).any(|piece| id.contains(std::str::from_utf8(piece).expect("ASCII")))
}

fn shows_no_piece_of(key: &str, shown: &str) {
    for piece in key.as_bytes().windows(TELLING) {
        let piece = std::str::from_utf8(piece).expect("a key is ASCII");
        assert!(!shown.contains(piece), "{shown} has {piece}");
    }
}

/// A listed key on the wire: of what else it has, nothing is read.
#[derive(Deserialize)]
struct WireId<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
}

/// A mint's fields on the wire.
#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    key: Option<&'a RawValue>,
    #[serde(borrow)]
    api_key: Option<&'a RawValue>,
}

fn text(field: Option<&RawValue>) -> Option<String> {
    serde_json::from_str(field?.get()).ok()
}

/// It may have happened, and it may be asked again, in just these words.
fn unclear(error: &KosliError, text: &str) {
    assert!(matches!(error, KosliError::Unclear(_)));
    assert_eq!(error.to_string(), text);
    assert_eq!((error.status(), error.repeat_after()), (None, Some(Duration::ZERO)));
    assert!(text.len() < 100);
}
