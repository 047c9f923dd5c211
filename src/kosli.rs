//! Kosli's API, as far as a rotation needs it: five calls on a service account's keys, and one to prove that a key works.
//!
//! Source of every rule here: Kosli's API reference, its tutorial on rotating API keys, its command-line client and its
//! Terraform provider. What they leave open is answered in every way by the emulator, and has to be right here in every case.

use std::fmt;
use std::time::{Duration, SystemTime};

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Method, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::api_key::{ApiKey, LEFT_OUT, repeatable};
use crate::budget::{Budget, Repeatable};
use crate::clock::from_epoch_seconds;
use crate::http_client::{BodyError, read_bounded};
use crate::identity::{Account, KeyId, Name};

/// The time-out of a call that only reads, and of a revocation, which may be repeated.
const CALL_TIMEOUT: Duration = Duration::from_secs(8);

/// The shortest time that is left to a mint: a slow but successful one is waited for, since it cannot be repeated.
pub const SHORTEST_MINT: Duration = Duration::from_secs(12);

/// The longest time that a mint may take.
pub const LONGEST_MINT: Duration = Duration::from_secs(30);

/// Kosli's shortest grace period, in hours: for a key that nobody holds.
pub const SHORTEST_GRACE_HOURS: u32 = 1;

/// The longest description of a key, in characters.
pub const LONGEST_DESCRIPTION: usize = 256;

/// A list of some forty thousand keys. One that is longer is an error, not a cut list.
const LARGEST_LIST: usize = 8 << 20;

/// Every other answer is far smaller. A minted key that does not fit could not be stored either.
const LARGEST_ANSWER: usize = 64 << 10;

/// Kosli, over the wire.
#[derive(Clone, Debug)]
pub struct Kosli {
    client: reqwest::Client,
    host: Url,
}

/// Kosli, called with one key and within one invocation's time.
#[derive(Clone, Copy)]
pub struct Caller<'a> {
    kosli: &'a Kosli,
    budget: &'a Budget,
    key: &'a ApiKey,
}

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

/// The whole list of a service account's keys.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The keys, in Kosli's order.
    pub keys: Vec<KeyEntry>,
    /// Kosli's own time when it answered: what ages of keys are measured against.
    pub at: SystemTime,
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

impl Kosli {
    /// A client of the Kosli at this origin.
    pub fn new(client: reqwest::Client, host: Url) -> Self {
        Self { client, host }
    }

    /// Kosli, called with this key and within this invocation's time.
    pub fn with<'a>(&'a self, budget: &'a Budget, key: &'a ApiKey) -> Caller<'a> {
        Caller { kosli: self, budget, key }
    }
}

impl Caller<'_> {
    /// Authenticates with a key, by reading the organization's environments. A 401 is asked again after each of the `pauses`:
    /// a new key may take a moment to be accepted everywhere, and one 401 by a part of Kosli that lags proves nothing.
    ///
    /// # Errors
    /// Whatever is neither a yes nor a definite 401, reads having been repeated.
    pub async fn accepts(&self, org: &Name, pauses: &[Duration]) -> Result<Acceptance, KosliError> {
        let mut pauses = pauses.iter();
        loop {
            match self.budget.retry(async || self.environments(org).await).await {
                Ok(()) => return Ok(Acceptance::Accepted),
                Err(KosliError::Refused { status: StatusCode::UNAUTHORIZED, .. }) => {}
                Err(error) => return Err(error),
            }
            let Some(&pause) = pauses.next() else { return Ok(Acceptance::Dead) };
            if !self.budget.pause(pause).await {
                return Err(KosliError::Unclear("there was no time to ask about a 401 again".to_owned()));
            }
        }
    }

    async fn environments(&self, org: &Name) -> Result<(), KosliError> {
        let url = self.kosli.url(&["environments", org.as_str()]);
        self.send(CALL_TIMEOUT, Method::GET, url, None, Body::Ignored).await.map(drop)
    }

    /// Lists the account's active keys.
    ///
    /// # Errors
    /// Also when the list is not a whole array of keys: a part of it would prove nothing.
    pub async fn list(&self, account: &Account) -> Result<Listing, KosliError> {
        self.budget
            .retry(async || {
                let url = self.kosli.keys_url(account, &[]);
                let answer = self.send(CALL_TIMEOUT, Method::GET, url, None, Body::UpTo(LARGEST_LIST)).await?;
                Ok(Listing {
                    keys: keys_in(&answer.body, self.key)?,
                    at: answer.date.unwrap_or_else(|| self.budget.now()),
                })
            })
            .await
    }

    /// Looks one key up; `None`: it is not on the account.
    ///
    /// # Errors
    /// Anything but a key or a 404.
    pub async fn get(&self, account: &Account, id: &KeyId) -> Result<Option<KeyEntry>, KosliError> {
        let answer = self
            .budget
            .retry(async || {
                let url = self.kosli.keys_url(account, &[id.as_str()]);
                self.send(CALL_TIMEOUT, Method::GET, url, None, Body::UpTo(LARGEST_ANSWER)).await
            })
            .await;
        match answer {
            Ok(answer) => key_in(&answer.body, self.key).map(Some),
            Err(KosliError::Refused { status: StatusCode::NOT_FOUND, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Mints the successor of a key, which goes on working for the grace period. **Never repeated here.**
    ///
    /// `limit` is how long the answer is waited for; the caller keeps enough time back to store it.
    ///
    /// # Errors
    /// [`KosliError::Unclear`] means that a key may have been minted.
    pub async fn rotate(
        &self,
        limit: Duration,
        account: &Account,
        id: &KeyId,
        grace_period_hours: u32,
        expires_at: u64,
    ) -> Result<MintAnswer, KosliError> {
        let url = self.kosli.keys_url(account, &[id.as_str(), "rotate"]);
        let body = json!({ "grace_period_hours": grace_period_hours, "expires_at": expires_at });
        self.mint(limit, url, &body).await
    }

    /// Mints a key beside those that there are. **Never repeated here.**
    ///
    /// # Errors
    /// [`KosliError::Unclear`] means that a key may have been minted.
    pub async fn create(
        &self,
        limit: Duration,
        account: &Account,
        description: &str,
        expires_at: u64,
    ) -> Result<MintAnswer, KosliError> {
        let url = self.kosli.keys_url(account, &[]);
        self.mint(limit, url, &json!({ "description": description, "expires_at": expires_at })).await
    }

    /// Revokes a key, at once and for good. True: it was there; false: it was gone already.
    ///
    /// # Errors
    /// Anything but a success or a 404, attempts having been repeated.
    pub async fn revoke(&self, account: &Account, id: &KeyId) -> Result<bool, KosliError> {
        let answer = self
            .budget
            .retry(async || {
                let url = self.kosli.keys_url(account, &[id.as_str()]);
                self.send(CALL_TIMEOUT, Method::DELETE, url, None, Body::UpTo(LARGEST_ANSWER)).await
            })
            .await;
        match answer {
            Ok(_) => Ok(true),
            Err(KosliError::Refused { status: StatusCode::NOT_FOUND, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn mint(&self, limit: Duration, url: Url, body: &serde_json::Value) -> Result<MintAnswer, KosliError> {
        let answer = self.send(limit, Method::POST, url, Some(body.to_string()), Body::UpTo(LARGEST_ANSWER)).await?;
        minted_in(&answer.body, self.key)
    }

    async fn send(
        &self,
        limit: Duration,
        method: Method,
        url: Url,
        body: Option<String>,
        wanted: Body,
    ) -> Result<Answer, KosliError> {
        let Some(authorization) = self.key.bearer() else {
            return Err(KosliError::NotSent("the key does not fit into a header".to_owned()));
        };
        let mut request = reqwest::Request::new(method, url);
        request.headers_mut().insert(AUTHORIZATION, authorization);
        if let Some(body) = body {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            *request.body_mut() = Some(body.into());
        }
        let exchange = async {
            let response = self.kosli.client.execute(request).await.map_err(|error| not_answered(&error))?;
            let status = response.status();
            let date = date(response.headers());
            let retry_after = response.headers().get(RETRY_AFTER).cloned();
            let body = match (read_bounded(response, wanted.limit(status)).await, wanted) {
                (Ok(body), _) => body,
                // The status says enough.
                (Err(_), Body::Ignored) => Zeroizing::default(),
                (Err(_), _) if !status.is_success() => Zeroizing::default(),
                (Err(BodyError::Broken(error)), _) => return Err(not_answered(&error)),
                (Err(BodyError::TooLarge), _) => {
                    return Err(KosliError::Unclear("its answer is too long".to_owned()));
                }
            };
            if status.is_success() {
                return Ok(Answer { body, date });
            }
            Err(failed(status, retry_after.as_ref(), &body, self.key))
        };
        match self.budget.call(limit, exchange).await {
            Ok(answer) => answer,
            Err(timed_out) => Err(KosliError::Unclear(format!("no answer within {:.1} s", timed_out.0.as_secs_f32()))),
        }
    }
}

impl Kosli {
    fn keys_url(&self, account: &Account, rest: &[&str]) -> Url {
        let mut segments = vec!["service-accounts", account.org.as_str(), account.name.as_str(), "api-keys"];
        segments.extend(rest);
        self.url(&segments)
    }

    fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.host.clone();
        // `push` percent-encodes; a host that can be no base was refused with the configuration.
        if let Ok(mut path) = url.path_segments_mut() {
            path.clear().extend(["api", "v2"]).extend(segments);
        }
        url
    }
}

/// What is wanted of the body of a success.
#[derive(Clone, Copy)]
enum Body {
    /// The status is the answer. The body is read all the same, as far as that is cheap, so that the connection can be used
    /// again.
    Ignored,
    /// All of it, and no more than this many bytes.
    UpTo(usize),
}

impl Body {
    fn limit(self, status: StatusCode) -> usize {
        match self {
            Self::UpTo(limit) if status.is_success() => limit,
            _ => LARGEST_ANSWER,
        }
    }
}

struct Answer {
    body: Zeroizing<Vec<u8>>,
    date: Option<SystemTime>,
}

/// A key on the wire. Timestamps are integers or floats; 0, null and absent mean "never".
#[derive(Deserialize)]
struct WireKey {
    id: String,
    #[serde(default)]
    description: Option<String>,
    created_at: f64,
    #[serde(default)]
    expires_at: Option<f64>,
    #[serde(default)]
    last_used_at: Option<f64>,
}

impl WireKey {
    /// `None`: it is no proper key. `caller` is the key that was sent, and may come back where something else should be.
    fn into_entry(self, caller: &ApiKey) -> Option<KeyEntry> {
        Some(KeyEntry {
            id: KeyId::parse(&self.id).filter(|id| !caller.shows_in(id.as_str()))?,
            description: match self.description {
                Some(text) if caller.shows_in(&text) => LEFT_OUT.to_owned(),
                text => text.unwrap_or_default(),
            },
            created_at: from_epoch_seconds(whole_second(self.created_at)?),
            expires_at: self.expires_at.and_then(whole_second),
            last_used_at: self.last_used_at.and_then(whole_second).map(from_epoch_seconds),
        })
    }
}

/// A minted key on the wire. The value is in `key` (API reference, clients) or in `api_key` (tutorial): a parser that trusted
/// one spelling would lose a key that is shown once. Each field is read by itself, so that nothing odd in one of them stands
/// in the way of the value.
#[derive(Deserialize)]
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

/// Reads a list of keys. `caller` is the key that was sent, and may come back where something else should be. Public, as the other
/// readers of answers are, for `fuzz/`.
///
/// # Errors
/// Unless all of it is an array of keys: a part of it would prove nothing.
pub fn keys_in(body: &[u8], caller: &ApiKey) -> Result<Vec<KeyEntry>, KosliError> {
    serde_json::from_slice::<Vec<WireKey>>(body)
        .ok()
        .and_then(|keys| keys.into_iter().map(|key| key.into_entry(caller)).collect())
        .ok_or_else(|| KosliError::Unclear("its list of keys is not an array of keys".to_owned()))
}

/// Reads one key.
///
/// # Errors
/// If it is none.
pub fn key_in(body: &[u8], caller: &ApiKey) -> Result<KeyEntry, KosliError> {
    serde_json::from_slice::<WireKey>(body)
        .ok()
        .and_then(|key| key.into_entry(caller))
        .ok_or_else(|| KosliError::Unclear("its answer is not a key".to_owned()))
}

/// Reads what a mint with the key `ours` has brought.
///
/// # Errors
/// [`KosliError::Unclear`]: the answer does not say which key there is now.
pub fn minted_in(body: &[u8], ours: &ApiKey) -> Result<MintAnswer, KosliError> {
    // No text of this body, nor of an error about it, goes anywhere: it may quote the key.
    let minted: WireMinted = serde_json::from_slice(body)
        .map_err(|_| KosliError::Unclear("its answer to a mint cannot be read".to_owned()))?;
    let value = [minted.key, minted.api_key].into_iter().find_map(|field| {
        let value = SecretString::from(lenient::<String>(field)?);
        ApiKey::parse(value.expose_secret())
    });
    let id = lenient::<String>(minted.id)
        .map(SecretString::from)
        // An id is logged, put on a label and sent in URLs: one that shows a key's value is none.
        .filter(|id| [Some(ours), value.as_ref()].into_iter().flatten().all(|key| !key.shows_in(id.expose_secret())))
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

/// Whether a status proves that a call had no effect.
fn did_not_happen(status: StatusCode) -> bool {
    status.is_redirection() || matches!(status.as_u16(), 400 | 401 | 403 | 404 | 409 | 422 | 429)
}

fn not_answered(error: &reqwest::Error) -> KosliError {
    if error.is_connect() {
        // The innermost cause is what the operator needs: a name that does not resolve, a certificate, a closed port.
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        return KosliError::NotSent(format!("no connection could be made: {cause}"));
    }
    KosliError::Unclear("the connection broke before there was an answer".to_owned())
}

fn date(headers: &HeaderMap) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()
}

/// `Retry-After` in seconds; a date there is as good as absent, the backoff being bounded anyway.
fn seconds(retry_after: &HeaderValue) -> Option<Duration> {
    retry_after.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// What Kosli says about a refusal: `{"message": …}`, maybe with `errors`, or a bare JSON string; a proxy in front may say
/// anything, which is left out. So is every word that could be (a piece of) a key: an error page may echo the request.
fn message_in(body: &[u8], key: &ApiKey) -> String {
    let text = match serde_json::from_slice::<serde_json::Value>(body) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(serde_json::Value::Object(fields)) => {
            let mut text = fields.get("message").and_then(|message| message.as_str()).unwrap_or_default().to_owned();
            if let Some(serde_json::Value::Object(errors)) = fields.get("errors") {
                for (field, error) in errors {
                    text += &format!("; {field}: {}", error.as_str().unwrap_or_default());
                }
            }
            text
        }
        _ => String::new(),
    };
    repeatable(&text, key)
}

impl KosliError {
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
            format!(r#"{{"id":"{OURS}"}}"#),
        ] {
            let answer = minted_in(body.as_bytes(), &ours());
            assert!(matches!(answer, Err(KosliError::Unclear(_))), "{answer:?}");
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
