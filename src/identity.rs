//! Who a key belongs to: organization, service account, key id, and which of them this function may touch.

use std::fmt;

use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

/// A Kosli organization and one of its service accounts; both are valid names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Account {
    /// The organization.
    pub org: Name,
    /// The service account, which owns the keys.
    pub name: Name,
}

/// The name of an organization or of a service account.
///
/// Kosli's own rule for service accounts is `^[a-zA-Z0-9-]{1,64}$` (its Terraform provider); organizations may also have
/// `_` and, inside, `.`. Whatever the rule will be, nothing that means something in a URL gets through.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Name(String);

/// The public id of a key: opaque, but fit for a URL's path segment and for a staging label.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct KeyId(String);

/// The value of a key. It never prints itself, and it is wiped when dropped.
#[derive(Clone)]
pub struct ApiKey(SecretString);

/// `org/name` patterns, with `*` for any run of characters: what this function may rotate, create for, or revoke.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Permitted(Vec<(String, String)>);

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.org, self.name)
    }
}

impl Name {
    const LONGEST: usize = 64;

    /// `None`: not a valid name.
    pub fn parse(text: &str) -> Option<Self> {
        let valid = (1..=Self::LONGEST).contains(&text.len())
            && !text.starts_with('.')
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
        valid.then(|| Self(text.to_owned()))
    }

    /// What a valid name looks like, for error texts.
    pub const RULE: &'static str = "1 to 64 letters, digits, '-', '_' or '.'";

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl KeyId {
    /// A label is `kosli-key-id:` and the id, and has 256 characters at most.
    const LONGEST: usize = 200;

    /// `None`: not a valid id.
    pub fn parse(text: &str) -> Option<Self> {
        let valid = (1..=Self::LONGEST).contains(&text.len())
            && !text.starts_with('.')
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b':'));
        valid.then(|| Self(text.to_owned()))
    }

    /// What a valid id looks like, for error texts.
    pub const RULE: &'static str = "1 to 200 letters, digits, '-', '_', '.', '~' or ':'";

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ApiKey {
    /// Far above any key that Kosli has issued, and small enough for a header and for a secret.
    pub const LONGEST: usize = 4_096;

    /// What JSON begins with. A plain secret that began like this would be read as JSON and never be a key again.
    pub const JSON: [char; 3] = ['{', '[', '"'];

    /// `None`: not one run of visible ASCII, or it begins like JSON. The text is not repeated anywhere.
    pub fn parse(text: &str) -> Option<Self> {
        let valid = (1..=Self::LONGEST).contains(&text.len())
            && !text.starts_with(Self::JSON)
            && text.bytes().all(|byte| byte.is_ascii_graphic());
        valid.then(|| Self(SecretString::from(text)))
    }

    /// Whether both are the same key.
    pub fn same(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }

    /// Whether a text shows the value, or a piece of it that is long enough to tell. Kosli's text that does is not believed, or
    /// not repeated: it may echo the request, and people mix up a key's value and its id.
    pub(crate) fn shows_in(&self, text: &str) -> bool {
        shows(&self.0, text)
    }

    /// The value: for the `Authorization` header and the secret's document, and nothing else.
    pub(crate) fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// The `Authorization` header's value, marked sensitive so that the HTTP client does not print it either.
    pub(crate) fn bearer(&self) -> Option<HeaderValue> {
        // `HeaderValue` copies the text into memory of its own, which is freed but not wiped: out of our hands.
        const SCHEME: &str = "Bearer ";
        // Large enough from the start: a text that grows leaves unwiped copies behind.
        let mut text = Zeroizing::new(String::with_capacity(SCHEME.len() + self.expose().len()));
        text.push_str(SCHEME);
        text.push_str(self.expose());
        let mut value = HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(redacted)")
    }
}

impl Permitted {
    /// Reads a comma-separated list of patterns; `None`: malformed or empty.
    pub fn parse(text: &str) -> Option<Self> {
        let valid = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'*'))
        };
        text.split(',')
            .map(|pattern| {
                let (org, name) = pattern.trim().split_once('/')?;
                (valid(org) && valid(name)).then(|| (org.to_owned(), name.to_owned()))
            })
            .collect::<Option<Vec<_>>>()
            .map(Self)
    }

    /// Whether one of the patterns matches.
    pub fn allows(&self, account: &Account) -> bool {
        self.0.iter().any(|(org, name)| glob(org, account.org.as_str()) && glob(name, account.name.as_str()))
    }
}

/// Whether `text` matches `pattern`, in which `*` stands for any run of characters, none included.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut rest) = text.strip_prefix(before) else { return false };
    // The first place at which a part between two stars fits is as good as any later one, so nothing is tried twice.
    let (between, last) = after.rsplit_once('*').unwrap_or(("", after));
    for part in between.split('*') {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

/// What stands in the place of words that could be a key.
pub(crate) const LEFT_OUT: &str = "[left out]";

/// Whether a text shows a secret, or a piece of it that is long enough to tell.
pub(crate) fn shows(secret: &SecretString, text: &str) -> bool {
    const TELLING: usize = 12;
    let secret = secret.expose_secret();
    let piece = TELLING.min(secret.len());
    (0..=secret.len() - piece).filter_map(|start| secret.get(start..start + piece)).any(|piece| text.contains(piece))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(org: &str, name: &str) -> Account {
        Account { org: Name::parse(org).expect("valid"), name: Name::parse(name).expect("valid") }
    }

    #[test]
    fn a_star_stands_for_any_run_of_characters_in_either_part() {
        let acme_ci = account("acme", "ci-deploy");
        for pattern in ["*/*", "acme/*", "acme/ci-*", "*/ci-deploy", "a*e/*-*y", "other/x, acme/ci-deploy"] {
            assert!(Permitted::parse(pattern).expect("valid").allows(&acme_ci), "{pattern}");
        }
        for pattern in ["acme/ci", "acm/*", "*/deploy", "ACME/*", "acme/ci-*x"] {
            assert!(!Permitted::parse(pattern).expect("valid").allows(&acme_ci), "{pattern}");
        }
    }

    #[test]
    fn many_stars_are_matched_as_quickly_as_one() {
        let permitted = Permitted::parse(&format!("{}b/{}", "*a".repeat(30), "*a".repeat(30))).expect("valid");
        let (long, ending) = ("a".repeat(64), "a".repeat(63) + "b");
        assert!(permitted.allows(&account(&ending, &long)));
        assert!(!permitted.allows(&account(&long, &long)));
    }

    #[test]
    fn a_malformed_pattern_is_refused_as_a_whole() {
        for pattern in ["", "acme", "acme/", "/ci", "acme/ci,", "acme/ci/x", "acme/c i", "acme/ci;*/*"] {
            assert_eq!(Permitted::parse(pattern), None, "{pattern}");
        }
    }

    #[test]
    fn a_key_is_told_from_json_by_its_first_character() {
        for text in ["{\"api_key\":\"twice\"}", "[key", "\"key\"", "k\u{e9}y", "two keys", "", "key\n"] {
            assert!(ApiKey::parse(text).is_none(), "{text}");
        }
        for text in ["k", "k{}[]\"", "~!@#$%^&*()_+"] {
            assert!(ApiKey::parse(text).is_some(), "{text}");
        }
    }

    #[test]
    fn a_key_never_prints_itself() {
        let key = ApiKey::parse("made-up-key-value").expect("valid");
        assert_eq!(format!("{key:?} {:?}", key.bearer()), "ApiKey(redacted) Some(Sensitive)");
    }

    #[test]
    fn a_key_shows_in_a_text_with_twelve_characters_of_it() {
        let key = ApiKey::parse("made-up-key-value").expect("valid");
        for text in ["made-up-key-value", "id:made-up-key-value", "made-up-key-", "x-up-key-value"] {
            assert!(key.shows_in(text), "{text}");
        }
        for text in ["", "made-up-key", "7980eb22-1fe1-4172-ae30-97d5ac0b", "MADE-UP-KEY-VALUE"] {
            assert!(!key.shows_in(text), "{text}");
        }
        let short = ApiKey::parse("short").expect("valid");
        assert!(short.shows_in("it is short") && !short.shows_in("shor"));
    }
}
