//! Kosli's API, as far as a rotation needs it: five calls on a service account's keys, and one to prove that a key works.
//!
//! Source of every rule here: Kosli's API reference, its tutorial on rotating API keys, its command-line client and its Terraform
//! provider. The emulator answers what they leave open in every way, and this module has to be right in every case.

mod answer;

use std::time::{Duration, SystemTime};

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Method, StatusCode, Url};
use serde_json::json;
use zeroize::Zeroizing;

use crate::api_key::ApiKey;
use crate::budget::Budget;
use crate::clock::from_epoch_seconds;
use crate::http_client::{BodyError, innermost, read_bounded};
use crate::identity::{Account, KeyId, Name};
pub use answer::{Acceptance, KeyEntry, KosliError, Listing, MintAnswer, Minted, failed, key_in, keys_in, minted_in};

/// The time-out of a call that only reads, and of a revocation, which may be repeated.
const CALL_TIMEOUT: Duration = Duration::from_secs(8);

/// The shortest time that is left to a mint: a slow but successful one is waited for, since it cannot be repeated.
pub const SHORTEST_MINT: Duration = Duration::from_secs(12);

/// The longest time that a mint may take.
pub const LONGEST_MINT: Duration = Duration::from_secs(30);

/// Kosli's shortest grace period, in hours: for a key that no version holds.
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
                let all = keys_in(&answer.body, self.key)?;
                let number = all.len();
                let mut keys: Vec<KeyEntry> = all.into_iter().flatten().collect();
                let odd = number - keys.len();
                keys.retain(|key| !self.has_expired(key, answer.date));
                Ok(Listing { keys, odd, at: answer.date.unwrap_or_else(|| self.budget.now()) })
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
            Ok(answer) => {
                let entry = key_in(&answer.body, self.key)?;
                Ok(Some(entry).filter(|entry| !self.has_expired(entry, answer.date)))
            }
            Err(KosliError::Refused { status: StatusCode::NOT_FOUND, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether a key's expiry has passed, by Kosli's clock and by this one: the one that errs does not take a key off a list.
    fn has_expired(&self, key: &KeyEntry, kosli_now: Option<SystemTime>) -> bool {
        let now = self.budget.now();
        let now = kosli_now.map_or(now, |kosli_now| kosli_now.min(now));
        key.expires_at.is_some_and(|at| from_epoch_seconds(at) <= now)
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
        let answer = self.send(limit, Method::POST, url, Some(body.to_string()), Body::UpTo(LARGEST_ANSWER)).await;
        let answer = answer.map_err(KosliError::of_a_mint)?;
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

fn not_answered(error: &reqwest::Error) -> KosliError {
    if error.is_connect() {
        return KosliError::NotSent(format!("no connection could be made: {}", innermost(error)));
    }
    KosliError::Unclear(format!("the connection broke before there was an answer: {}", innermost(error)))
}

fn date(headers: &HeaderMap) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()
}
