//! A key's value, and what may be repeated of text that could show one: promise I5, for its greater part.

use std::fmt;

use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

/// The value of a key. It never prints itself, and it is wiped when dropped.
#[derive(Clone)]
pub struct ApiKey(SecretString);

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

    /// Whether a text shows the value, or a piece of it that is long enough to tell. Such a text of Kosli's is not to be believed,
    /// or not to be repeated: it may echo the request, and people mix up a key's value and its id.
    pub(crate) fn shows_in(&self, text: &str) -> bool {
        shows(&self.0, text)
    }

    /// Whether an id would tell the value. Many services make a key's id a part of its value: that tells nothing, as long as the rest
    /// of it is long enough to be a secret.
    pub(crate) fn is_told_by(&self, id: &str) -> bool {
        const SECRET_ENOUGH: usize = 16;
        let value = self.expose();
        let is_a_part = value.contains(id) && value.len() - id.len() >= SECRET_ENOUGH;
        !is_a_part && self.shows_in(id)
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

/// What stands in the place of words that could be a key.
pub(crate) const LEFT_OUT: &str = "[left out]";

/// Whether a text shows a secret, or a piece of it that is long enough to tell.
pub(crate) fn shows(secret: &SecretString, text: &str) -> bool {
    const TELLING: usize = 12;
    let secret = secret.expose_secret();
    let piece = TELLING.min(secret.len());
    (0..=secret.len() - piece).filter_map(|start| secret.get(start..start + piece)).any(|piece| text.contains(piece))
}

/// A text without the words that tell a secret.
pub(crate) fn without_words(text: &str, tells: impl Fn(&str) -> bool) -> String {
    let words: Vec<&str> = text.split_whitespace().map(|word| if tells(word) { LEFT_OUT } else { word }).collect();
    words.join(" ")
}

/// What can be repeated of what Kosli, or whatever answers in its place, says about a call with this key: an error page may echo the
/// request.
pub(crate) fn repeatable(text: &str, key: &ApiKey) -> String {
    const LONGEST: usize = 300;
    // A character that is not shown must not hide what the ones around it make up.
    let text = text.replace(|character: char| character.is_control() && !character.is_whitespace(), "");
    without_words(&text, |word| !harmless(word, key)).chars().take(LONGEST).collect()
}

/// Whether a word of foreign text can be repeated: a plain word or a short one, and no piece of the key.
fn harmless(word: &str, key: &ApiKey) -> bool {
    const LONGEST_PIECE: usize = 11;
    const SHORTEST_TELLING: usize = 5;
    let bare = word.trim_matches(|character: char| character.is_ascii_punctuation());
    let plain = bare.len() <= 24 && bare.chars().all(|character| character.is_ascii_lowercase() || character == '_');
    let piece_of_key = bare.len() >= SHORTEST_TELLING && key.expose().contains(bare);
    (plain || word.len() <= LONGEST_PIECE) && !piece_of_key && !key.shows_in(word)
}

#[cfg(test)]
mod tests {
    use super::*;

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
