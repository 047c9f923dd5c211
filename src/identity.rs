//! Who a key belongs to: organization, service account, key id, and which of them this function may touch.

use std::fmt;

use crate::api_key::ApiKey;

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

/// What a value, a tag or a label says the id of a key is. A person may have put a key's value there, so it is treated as one: it never
/// prints itself, it is wiped when dropped, it gets into no URL. All that can be done with it is to compare it.
///
/// It becomes a [`KeyId`] where Kosli's list shows it (the list's own is taken then), or where Kosli refuses it as a key.
#[derive(Clone)]
pub struct ClaimedKeyId(ApiKey);

/// The public id of a key, from Kosli: opaque, but fit for a URL's path segment, for a staging label and for a log. It can be compared
/// with what is claimed, and with nothing else.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct KeyId(String);

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

impl ClaimedKeyId {
    /// `None`: not a valid id.
    pub fn parse(text: &str) -> Option<Self> {
        ApiKey::parse(text).filter(|_| KeyId::is_valid(text)).map(Self)
    }

    /// The same text as a key, to ask Kosli whether it is one.
    pub(crate) fn as_key(&self) -> &ApiKey {
        &self.0
    }

    /// The id, once Kosli has refused the text as a key: it is none that lives.
    pub(crate) fn refused_as_key(&self) -> KeyId {
        KeyId(self.0.expose().to_owned())
    }
}

impl fmt::Debug for ClaimedKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClaimedKeyId(redacted)")
    }
}

impl PartialEq for ClaimedKeyId {
    fn eq(&self, other: &Self) -> bool {
        self.0.same(&other.0)
    }
}

impl PartialEq<KeyId> for ClaimedKeyId {
    fn eq(&self, other: &KeyId) -> bool {
        self.0.expose() == other.0
    }
}

impl KeyId {
    /// A label is `kosli-key-id:` and the id, and has 256 characters at most.
    const LONGEST: usize = 200;

    /// An id that Kosli has told. `None`: not a valid id.
    pub fn parse(text: &str) -> Option<Self> {
        Self::is_valid(text).then(|| Self(text.to_owned()))
    }

    /// Whether one of these names this key.
    pub fn is_among<'a>(&self, claimed: impl IntoIterator<Item = &'a ClaimedKeyId>) -> bool {
        claimed.into_iter().any(|claimed| claimed == self)
    }

    fn is_valid(text: &str) -> bool {
        (1..=Self::LONGEST).contains(&text.len())
            && !text.starts_with('.')
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b':'))
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

    /// `*/*`.
    pub fn everything() -> Self {
        Self(vec![("*".to_owned(), "*".to_owned())])
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

#[cfg(test)]
mod tests {
    use super::*;

    fn account(org: &str, name: &str) -> Account {
        Account { org: Name::parse(org).expect("valid"), name: Name::parse(name).expect("valid") }
    }

    #[test]
    fn what_is_claimed_is_compared_and_not_shown() {
        let claimed = ClaimedKeyId::parse("made-up").expect("valid");
        assert_eq!(format!("{claimed:?}"), "ClaimedKeyId(redacted)");
        let id = |text| KeyId::parse(text).expect("valid");
        assert!(claimed == id("made-up") && claimed != id("made"));
        assert!(id("made-up").is_among([&claimed]) && !id("made").is_among([&claimed]));
        for text in ["", ".", "a b", "a/b", "{", &"a".repeat(201)] {
            assert!(ClaimedKeyId::parse(text).is_none() && KeyId::parse(text).is_none(), "{text}");
        }
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
}
