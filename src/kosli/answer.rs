//! Kosli's answers: what they mean, and how they are read. No body of a success, nor a parser's words about one, goes anywhere.

use std::fmt;
use std::marker::PhantomData;
use std::time::{Duration, SystemTime};

use reqwest::StatusCode;
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::api_key::{ApiKey, LEFT_OUT, repeatable};
use crate::budget::Repeatable;
use crate::clock::from_epoch_seconds;
use crate::identity::{ClaimedKeyId, KeyId};

/// An active key of a service account, as the list shows it: everything but the value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeyEntry {
    /// The public id.
    pub id: KeyId,
    /// What a person or this function wrote about it.
    pub description: String,
    /// When it was minted.
    pub created_at: SystemTime,
    /// Its expiry in seconds since 1970; `None`: never.
    pub expires_at: Option<u64>,
    /// When it was last used, as far as Kosli has noticed; `None`: never.
    pub last_used_at: Option<SystemTime>,
}

impl KeyEntry {
    /// Whether this is the key that is claimed.
    pub fn is(&self, claimed: Option<&ClaimedKeyId>) -> bool {
        claimed.is_some_and(|claimed| *claimed == self.id)
    }
}

/// The whole list of a service account's keys.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The keys, in Kosli's order, but for those whose expiry has passed.
    pub keys: Vec<KeyEntry>,
    /// How many others there are, whose ids this function neither prints nor puts into a path: strangers.
    pub odd: usize,
    /// Kosli's own time when it answered: what ages of keys are measured against.
    pub at: SystemTime,
}

impl Listing {
    /// What the list shows of the key that is claimed: its id is proven.
    pub fn entry(&self, claimed: Option<&ClaimedKeyId>) -> Option<&KeyEntry> {
        self.keys.iter().find(|key| key.is(claimed))
    }
}

/// A key that has just been minted. Its value is shown this once.
#[derive(Debug)]
pub struct Minted {
    /// The public id.
    pub id: KeyId,
    /// The value.
    pub key: ApiKey,
    /// Its expiry as Kosli took it; `None`: it did not say.
    pub expires_at: Option<u64>,
    /// Until when the key that it replaces goes on working, as Kosli says.
    pub grace_period_expires_at: Option<SystemTime>,
}

/// What a mint came to.
#[derive(Debug)]
pub enum MintAnswer {
    /// There is a new key, and this is its value.
    Minted(Minted),
    /// There is a new key with this id, and its value was not in the answer: lost.
    Lost(KeyId),
}

/// Whether Kosli accepts a key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Acceptance {
    /// It does.
    Accepted,
    /// A definite 401, as often as was asked. Nothing else proves that a key is dead.
    Dead,
}

/// A call that failed.
#[derive(Clone, Debug)]
pub enum KosliError {
    /// It did not happen: Kosli (or what stands before it) said no.
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// What Kosli said, without anything that could be a key.
        message: String,
        /// How long Kosli asked to be left alone.
        retry_after: Option<Duration>,
    },
    /// It did not happen: no connection was made.
    NotSent(String),
    /// It may have happened: it was sent, and there is no answer that can be trusted.
    Unclear(String),
}

/// A key on the wire. Timestamps are integers or floats; 0, null and absent mean "never". Each field is read by itself: an entry
/// with something odd in one of them is not ours, and no reason to refuse the list.
#[derive(serde::Deserialize)]
struct WireKey<'a> {
    id: String,
    #[serde(borrow, default)]
    description: Option<&'a RawValue>,
    #[serde(borrow, default)]
    created_at: Option<&'a RawValue>,
    #[serde(borrow, default)]
    expires_at: Option<&'a RawValue>,
    #[serde(borrow, default)]
    last_used_at: Option<&'a RawValue>,
}

impl WireKey<'_> {
    /// `None`: its id cannot be put into a path, nor be printed. `caller` is the key that was sent, and may come back where
    /// something else should be.
    fn into_entry(self, caller: &ApiKey) -> Option<KeyEntry> {
        let second = |field| lenient::<f64>(field).and_then(whole_second);
        Some(KeyEntry {
            id: KeyId::parse(&self.id).filter(|id| !caller.is_told_by(id.as_str()))?,
            description: match lenient::<String>(self.description) {
                Some(text) if caller.shows_in(&text) => LEFT_OUT.to_owned(),
                text => text.unwrap_or_default(),
            },
            // So old a key is no successor.
            created_at: second(self.created_at).map_or(SystemTime::UNIX_EPOCH, from_epoch_seconds),
            expires_at: second(self.expires_at),
            last_used_at: match (self.last_used_at, lenient::<f64>(self.last_used_at)) {
                // Whatever that is, it is not "never".
                (Some(_), None) => Some(SystemTime::UNIX_EPOCH),
                (_, used) => used.and_then(whole_second).map(from_epoch_seconds),
            },
        })
    }
}

/// A minted key on the wire. The value is in `key` (API reference, clients) or in `api_key` (tutorial): a parser that trusted
/// one spelling would lose a key that is shown once. Each field is read by itself, so that nothing odd in one of them stands
/// in the way of the value.
#[derive(serde::Deserialize)]
struct WireMinted<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    key: Option<&'a RawValue>,
    #[serde(borrow)]
    api_key: Option<&'a RawValue>,
    #[serde(borrow)]
    expires_at: Option<&'a RawValue>,
    #[serde(borrow)]
    grace_period_expires_at: Option<&'a RawValue>,
}

/// Reads a list of keys; `None` for one whose id is none. `caller` is the key that was sent, and may come back where something
/// else should be. Public, as the other readers of answers are, for `fuzz/`.
///
/// # Errors
/// Unless all of it is an array of keys: a part of it would prove nothing.
pub fn keys_in(body: &[u8], caller: &ApiKey) -> Result<Vec<Option<KeyEntry>>, KosliError> {
    let keys: Vec<Object<WireKey>> = serde_json::from_slice(body)
        .map_err(|_| KosliError::Unclear("its list of keys is not an array of keys".to_owned()))?;
    Ok(keys.into_iter().map(|Object(key)| key.into_entry(caller)).collect())
}

/// Reads one key.
///
/// # Errors
/// If it is none.
pub fn key_in(body: &[u8], caller: &ApiKey) -> Result<KeyEntry, KosliError> {
    serde_json::from_slice::<Object<WireKey>>(body)
        .ok()
        .and_then(|Object(key)| key.into_entry(caller))
        .ok_or_else(|| KosliError::Unclear("its answer is not a key".to_owned()))
}

/// Reads what a mint with the key `ours` has brought.
///
/// # Errors
/// [`KosliError::Unclear`]: the answer does not say which key there is now.
pub fn minted_in(body: &[u8], ours: &ApiKey) -> Result<MintAnswer, KosliError> {
    // No text of this body, nor of an error about it, goes anywhere: it may quote the key.
    let Object(minted): Object<WireMinted> = serde_json::from_slice(body)
        .map_err(|_| KosliError::Unclear("its answer to a mint cannot be read".to_owned()))?;
    let mut values = [minted.key, minted.api_key].into_iter().filter_map(|field| {
        let value = SecretString::from(lenient::<String>(field)?);
        ApiKey::parse(value.expose_secret())
    });
    let (value, other) = (values.next(), values.next());
    let id = lenient::<String>(minted.id)
        .map(SecretString::from)
        // An id is logged, put on a label and sent in URLs: one that shows a key's value is none.
        .filter(|id| {
            let keys = [Some(ours), value.as_ref(), other.as_ref()];
            keys.into_iter().flatten().all(|key| !key.is_told_by(id.expose_secret()))
        })
        .and_then(|id| KeyId::parse(id.expose_secret()))
        .ok_or_else(|| KosliError::Unclear("its answer to a mint has no proper key id".to_owned()))?;
    let second = |field| lenient::<f64>(field).and_then(whole_second);
    Ok(match value {
        // A "new" key that is the one we came with is no new key.
        Some(new) if !new.same(ours) => MintAnswer::Minted(Minted {
            id,
            key: new,
            expires_at: second(minted.expires_at),
            grace_period_expires_at: second(minted.grace_period_expires_at).map(from_epoch_seconds),
        }),
        _ => MintAnswer::Lost(id),
    })
}

/// What an answer to a call with this key means that is not a success: refused or unclear. `retry_after` is the header.
pub fn failed(status: StatusCode, retry_after: Option<&HeaderValue>, body: &[u8], key: &ApiKey) -> KosliError {
    if did_not_happen(status) {
        let message = message_in(body, key);
        return KosliError::Refused { status, message, retry_after: retry_after.and_then(seconds) };
    }
    KosliError::Unclear(format!("it answered {}", status.as_u16()))
}

/// What stands on the wire as an object. A struct of serde's alone would be read out of an array as well, one field after the other.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(Fields(PhantomData))
    }
}

/// A field that may be absent or of any type.
fn lenient<'a, T: Deserialize<'a>>(field: Option<&'a RawValue>) -> Option<T> {
    serde_json::from_str(field?.get()).ok()
}

/// The second that a timestamp lies in; `None` for zero, which means "never", and for nonsense.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole_second(timestamp: f64) -> Option<u64> {
    // The half-open range is what an `f64` holds exactly, so that the cast loses nothing but the fraction.
    (1.0..9_007_199_254_740_992.0).contains(&timestamp).then_some(timestamp as u64)
}

/// Whether a status proves that a call had no effect: every 4xx but those that tell of time, of the connection or of one that
/// gave up (408, 421, 425, 499), which anything may have said after the effect. A redirect is no answer of Kosli's at all, so
/// [`KosliError::of_a_mint`] trusts none.
fn did_not_happen(status: StatusCode) -> bool {
    status.is_redirection() || (status.is_client_error() && !matches!(status.as_u16(), 408 | 421 | 425 | 499))
}

/// `Retry-After` in seconds; a date there is as good as absent, the backoff being bounded anyway.
fn seconds(retry_after: &HeaderValue) -> Option<Duration> {
    retry_after.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// What Kosli says about a refusal: `{"message": …}`, maybe with `errors`, `{"detail": …}`, or a bare JSON string; a proxy in front may say
/// anything, which is left out. So is every word that could be (a piece of) a key: an error page may echo the request.
fn message_in(body: &[u8], key: &ApiKey) -> String {
    let text = match serde_json::from_slice::<serde_json::Value>(body) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(serde_json::Value::Object(fields)) => {
            let mut parts: Vec<String> =
                fields.get("message").and_then(serde_json::Value::as_str).map(str::to_owned).into_iter().collect();
            if let Some(serde_json::Value::Object(errors)) = fields.get("errors") {
                parts.extend(
                    errors.iter().map(|(field, error)| format!("{field}: {}", error.as_str().unwrap_or_default())),
                );
            }
            match fields.get("detail") {
                Some(serde_json::Value::String(text)) => parts.push(text.clone()),
                Some(serde_json::Value::Array(details)) => parts.extend(details.iter().map(detail)),
                _ => {}
            }
            parts.join("; ")
        }
        _ => String::new(),
    };
    repeatable(&text, key)
}

/// One of the details of a request that is not valid: `{"loc": ["body", "expires_at"], "msg": …}`.
fn detail(detail: &serde_json::Value) -> String {
    let place = detail.get("loc").and_then(|place| place.as_array()?.last()?.as_str());
    let text = detail.get("msg").and_then(serde_json::Value::as_str).unwrap_or_default();
    place.map_or_else(|| text.to_owned(), |place| format!("{place}: {text}"))
}

impl KosliError {
    /// The same, of a call that mints: where a redirect leads, and what was done before, is not known.
    pub(super) fn of_a_mint(self) -> Self {
        match self {
            Self::Refused { status, .. } if status.is_redirection() => {
                Self::Unclear(format!("it answered {}", status.as_u16()))
            }
            other => other,
        }
    }

    /// The status of a refusal.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(status.as_u16()),
            _ => None,
        }
    }
}

impl Repeatable for KosliError {
    fn repeat_after(&self) -> Option<Duration> {
        match self {
            // 409 is a lock conflict, which Kosli's own client treats as passing.
            Self::Refused { status: StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS, retry_after, .. } => {
                Some(retry_after.unwrap_or_default())
            }
            Self::Refused { .. } => None,
            Self::NotSent(_) | Self::Unclear(_) => Some(Duration::ZERO),
        }
    }
}

impl fmt::Display for KosliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { status, message, .. } if message.is_empty() => write!(f, "it answered {}", status.as_u16()),
            Self::Refused { status, message, .. } => write!(f, "it answered {}: {message}", status.as_u16()),
            Self::NotSent(why) | Self::Unclear(why) => f.write_str(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "made-up-currentkeyvalue-0123456789";

    fn ours() -> ApiKey {
        ApiKey::parse(OURS).expect("valid")
    }

    #[test]
    fn a_key_in_the_place_of_an_id_is_no_id() {
        for body in [
            format!(r#"{{"id":"{OURS}","key":"made-up-new-key"}}"#),
            r#"{"id":"made-up-new-key","key":"made-up-new-key"}"#.to_owned(),
            r#"{"id":"made-up-new-key","api_key":"made-up-new-key"}"#.to_owned(),
            r#"{"id":"made-up-new-key","key":"made-up-other-key","api_key":"made-up-new-key"}"#.to_owned(),
            format!(r#"{{"id":"{OURS}"}}"#),
        ] {
            let answer = minted_in(body.as_bytes(), &ours());
            assert!(matches!(answer, Err(KosliError::Unclear(_))), "{answer:?}");
        }
    }

    #[test]
    fn a_value_may_contain_its_id_and_an_id_may_not_tell_the_value() {
        const ID: &str = "7980eb22-1fe1-4172-ae30-97d5ac0b";
        for (value, is_an_id) in [
            (format!("kosli-{ID}-0123456789abcdef"), true),
            (format!("{ID}.0123456789abcdef"), true),
            (format!("{ID}012345"), false),
            (ID.to_owned(), false),
            ("x7980eb22-1fe1-4172-y-0123456789abcdef".to_owned(), false),
        ] {
            let body = format!(r#"{{"id":"{ID}","key":"{value}"}}"#);
            assert_eq!(minted_in(body.as_bytes(), &ours()).is_ok(), is_an_id, "{value}");
            let caller = ApiKey::parse(&value).expect("valid");
            let list = format!(r#"[{{"id":"{ID}","created_at":1}}]"#);
            assert_eq!(keys_in(list.as_bytes(), &caller).expect("a list")[0].is_some(), is_an_id, "{value}");
        }
    }

    #[test]
    fn an_array_is_neither_a_key_nor_a_mint() {
        assert!(key_in(br#"["a","",1,0,0]"#, &ours()).is_err());
        assert!(keys_in(br#"[["a","",1,0,0]]"#, &ours()).is_err());
        let answer = minted_in(br#"["a","made-up-new-key",null,null,null]"#, &ours());
        assert!(matches!(answer, Err(KosliError::Unclear(_))), "{answer:?}");
    }

    #[test]
    fn an_odd_entry_is_a_strangers() {
        let list = format!(
            r#"[{{"id":"a/b+c=="}}, {{"id":"{OURS}","created_at":1}}, {{"id":"odd","created_at":null,"description":7,"expires_at":"never","last_used_at":"now"}},
                {{"id":"zero","created_at":0,"last_used_at":0}}, {{"id":"far","created_at":1e300}}]"#
        );
        let keys = keys_in(list.as_bytes(), &ours()).expect("a list");
        let ids: Vec<Option<&str>> = keys.iter().map(|key| key.as_ref().map(|key| key.id.as_str())).collect();
        assert_eq!(ids, [None, None, Some("odd"), Some("zero"), Some("far")]);
        for key in keys.iter().flatten() {
            assert_eq!((key.created_at, key.expires_at), (SystemTime::UNIX_EPOCH, None), "{key:?}");
            assert_eq!(key.last_used_at.is_some(), key.id.as_str() == "odd", "{key:?}");
        }
        for none in [r#"[{"created_at":1}]"#, r#"[{"id":7}]"#, "[null]", r#"{"keys":[]}"#, r#"[{"id":"a"}"#] {
            assert!(keys_in(none.as_bytes(), &ours()).is_err(), "{none}");
        }
    }

    #[test]
    fn every_4xx_is_a_refusal_but_those_that_tell_of_time_or_of_the_connection() {
        for status in 400..500 {
            let refused = ![408, 421, 425, 499].contains(&status);
            let status = StatusCode::from_u16(status).expect("a status");
            let error = failed(status, None, br#"{"message":"no"}"#, &ours());
            assert_eq!(matches!(error, KosliError::Refused { .. }), refused, "{status}");
            assert_eq!(
                error.to_string(),
                format!("it answered {}{}", status.as_u16(), if refused { ": no" } else { "" })
            );
        }
        let redirect = failed(StatusCode::FOUND, None, b"", &ours());
        assert!(
            matches!(redirect, KosliError::Refused { .. }) && matches!(redirect.of_a_mint(), KosliError::Unclear(_))
        );
    }

    #[test]
    fn what_kosli_says_is_found_in_every_form_it_has() {
        for (body, says) in [
            (r#"{"message":"no"}"#, "no"),
            (r#""no""#, "no"),
            (r#"{"message":"no","errors":{"a":"b"}}"#, "no; a: b"),
            (r#"{"detail":"no"}"#, "no"),
            (
                r#"{"detail":[{"loc":["body","expires_at"],"msg":"is past","type":"value_error"}]}"#,
                "expires_at: is past",
            ),
            (r#"{"detail":[{"loc":["body",0],"msg":"a"},{"msg":"b"},7]}"#, "a; b; "),
            ("<html>", ""),
        ] {
            let said = message_in(body.as_bytes(), &ours());
            assert_eq!(said, says.trim_end(), "{body}");
        }
    }

    #[test]
    fn a_refusal_repeats_no_piece_of_the_key() {
        for said in [
            OURS,
            "xcurrentkeyvaluex",
            r"made\u0001-up-\u0001cur renkey",
            "(currentkeyvalue)",
            r"current\u0000keyvalue",
            r"0123456\u007f789",
        ] {
            let body = format!(r#"{{"message":"the key {said} is not known"}}"#);
            let error = failed(StatusCode::UNAUTHORIZED, None, body.as_bytes(), &ours()).to_string();
            assert!(error.starts_with("it answered 401: the key ") && error.ends_with(" is not known"), "{error}");
            assert!(
                !OURS.as_bytes().windows(8).any(|piece| error.contains(&String::from_utf8_lossy(piece)[..])),
                "{error}"
            );
        }
    }
}
