//! The secret's value: three shapes, read without loss and edited in place.
//!
//! A value is never taken apart and put together again: the key and the key id are replaced inside the text, and all the
//! rest of it, to the last digit and space, is what the user wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use secrecy::{ExposeSecret, SecretString};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::api_key::{ApiKey, LEFT_OUT};
use crate::identity::KeyId;

/// A value of a secret: one version's.
#[derive(Debug)]
pub struct Document {
    text: SecretString,
    shape: Shape,
    key: ApiKey,
    key_span: Range<usize>,
    key_id_span: Option<Range<usize>>,
    org: Option<String>,
    service_account: Option<String>,
    key_id: Option<String>,
}

/// How the user keeps the key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shape {
    /// JSON with `api_key`, `org`, `service_account`, `key_id`.
    ApiKey,
    /// JSON with `KOSLI_API_TOKEN`, `KOSLI_ORG`, `KOSLI_SERVICE_ACCOUNT`, `KOSLI_API_KEY_ID`.
    Environment,
    /// The key's value alone.
    Plain,
}

/// Why a value is in none of the three shapes. No text of the value is in it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DocumentError(String);

/// The most that Secrets Manager stores, in bytes.
/// Source: <https://docs.aws.amazon.com/secretsmanager/latest/userguide/reference_limits.html>
const LARGEST_VALUE: usize = 65_536;

/// The longest name of a field that is repeated.
const LONGEST_FIELD_NAME: usize = 64;

/// The field names of a JSON shape: key, organization, service account, key id.
const API_KEY_FIELDS: [&str; 4] = ["api_key", "org", "service_account", "key_id"];
const ENVIRONMENT_FIELDS: [&str; 4] = ["KOSLI_API_TOKEN", "KOSLI_ORG", "KOSLI_SERVICE_ACCOUNT", "KOSLI_API_KEY_ID"];

impl Document {
    /// Reads a value.
    ///
    /// # Errors
    /// What is wrong with the shape, naming the field.
    pub fn parse(text: SecretString) -> Result<Self, DocumentError> {
        let trimmed = text.expose_secret().trim();
        if trimmed.starts_with('\u{feff}') {
            return Err(DocumentError(
                "begins with a byte order mark (BOM), which an editor has put there: remove it".to_owned(),
            ));
        }
        if trimmed.starts_with(ApiKey::JSON) {
            return Self::parse_json(text);
        }
        if let Some(name) = assigned(trimmed) {
            return Err(DocumentError(format!(
                "begins with `{name}`, like a line of a script or of a request: it has to be the key alone, or JSON"
            )));
        }
        let Some(key) = ApiKey::parse(trimmed) else {
            let has_blanks = trimmed.contains(char::is_whitespace);
            return Err(DocumentError(format!(
                "is neither JSON nor a plain key, which is one run of 1 to {} visible ASCII characters{}",
                ApiKey::LONGEST,
                if has_blanks { ": it has white space in it" } else { "" }
            )));
        };
        let key_span = 0..text.expose_secret().len();
        let (org, service_account, key_id) = (None, None, None);
        Ok(Self { text, shape: Shape::Plain, key, key_span, key_id_span: None, org, service_account, key_id })
    }

    fn parse_json(text: SecretString) -> Result<Self, DocumentError> {
        let json = text.expose_secret();
        // The error of the JSON parser is dropped: it can quote the value.
        let Object(fields) = serde_json::from_str(json)
            .map_err(|_| DocumentError("begins like JSON and is not one well-formed JSON object".to_owned()))?;
        let has = |names: &[&str]| fields.iter().any(|(field, _)| names.contains(&field.as_str()));
        let (shape, [key, org, service_account, key_id]) = match (has(&API_KEY_FIELDS), has(&ENVIRONMENT_FIELDS)) {
            (true, true) => {
                return Err(DocumentError(format!(
                    "has fields of two shapes: use {} or {}, not some of both",
                    API_KEY_FIELDS.join(", "),
                    ENVIRONMENT_FIELDS.join(", ")
                )));
            }
            (false, true) => (Shape::Environment, ENVIRONMENT_FIELDS),
            (_, false) => (Shape::ApiKey, API_KEY_FIELDS),
        };
        let key_field = field(&fields, key)?.filter(|(text, _)| !text.expose_secret().is_empty());
        let Some((key_text, key_raw)) = key_field else {
            return Err(DocumentError(match shape {
                Shape::Environment => format!("has no `{key}`"),
                _ => format!("has neither `{}` nor `{}`", API_KEY_FIELDS[0], ENVIRONMENT_FIELDS[0]),
            }));
        };
        let key_value = ApiKey::parse(key_text.expose_secret()).ok_or_else(|| {
            let what = match key_text.expose_secret() {
                text if text.contains(char::is_whitespace) => "has white space in it",
                text if text.starts_with('\u{feff}') => "begins with a byte order mark (BOM)",
                text if text.starts_with(ApiKey::JSON) => "begins like JSON",
                _ => "is not one run of visible ASCII characters",
            };
            DocumentError(format!("has a `{key}` that {what}"))
        })?;
        let span = |raw: &RawValue| {
            // `raw` is borrowed from `json`, so its address tells where it stands in it.
            let start = raw.get().as_ptr() as usize - json.as_ptr() as usize;
            start..start + raw.get().len()
        };
        let key_span = span(key_raw);
        let key_id_span = fields.iter().find(|(name, _)| name == key_id).map(|(_, raw)| span(raw));
        let plain = |name| -> Result<Option<String>, DocumentError> {
            Ok(field(&fields, name)?.map(|(text, _)| text.expose_secret().to_owned()).filter(|text| !text.is_empty()))
        };
        let (org, service_account, key_id) = (plain(org)?, plain(service_account)?, plain(key_id)?);
        Ok(Self { shape, key: key_value, key_span, key_id_span, org, service_account, key_id, text })
    }

    /// The key.
    pub fn key(&self) -> &ApiKey {
        &self.key
    }

    /// The shape.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// What the value says of the organization; as written, not validated.
    pub fn org(&self) -> Option<&str> {
        self.org.as_deref()
    }

    /// What the value says of the service account; as written, not validated.
    pub fn service_account(&self) -> Option<&str> {
        self.service_account.as_deref()
    }

    /// What the value says of the key's id; as written, not validated.
    pub fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// Whether the value has a field for the key's id, be it empty. One that has not keeps the id as a staging label.
    pub fn has_key_id_field(&self) -> bool {
        self.key_id_span.is_some()
    }

    /// The same value with another key and key id.
    pub fn with_key(&self, key: &ApiKey, id: &KeyId) -> SecretString {
        if self.shape == Shape::Plain {
            return SecretString::from(key.expose());
        }
        let mut edits = vec![(self.key_span.clone(), quoted(key.expose()))];
        edits.extend(self.key_id_span.clone().map(|span| (span, quoted(id.as_str()))));
        edits.sort_by_key(|(span, _)| span.start);
        let old = self.text.expose_secret();
        // As large as it will be: a text that grows or shrinks leaves unwiped copies behind.
        let length = edits.iter().fold(old.len(), |length, (span, text)| length - span.len() + text.len());
        let mut new = String::with_capacity(length);
        let mut end = 0;
        for (span, text) in &edits {
            new.push_str(piece(old, end..span.start));
            new.push_str(text);
            end = span.end;
        }
        new.push_str(piece(old, end..old.len()));
        SecretString::from(new)
    }

    /// The names of the fields in which this value and another differ, key and key id left out, in alphabetical order. A name
    /// that could itself show a key is not repeated.
    pub fn differing_fields(&self, other: &Self) -> Vec<String> {
        let (ours, theirs) = (self.other_fields(), other.other_fields());
        let differs = |name: &&String| ours.get(*name) != theirs.get(*name);
        let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).filter(differs).collect();
        let shown = |name: &str| {
            let harmless = name.len() <= LONGEST_FIELD_NAME
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
                && !self.key.shows_in(name)
                && !other.key.shows_in(name);
            if harmless { name.to_owned() } else { LEFT_OUT.to_owned() }
        };
        let mut names: Vec<String> = names.into_iter().map(|name| shown(name.as_str())).collect();
        if (self.shape == Shape::Plain) != (other.shape == Shape::Plain) {
            names.push("(the shape)".to_owned());
        }
        names
    }

    /// All fields but key and key id, as they are written.
    fn other_fields(&self) -> BTreeMap<String, &str> {
        let fields = match self.shape {
            Shape::Plain => Vec::new(),
            _ => serde_json::from_str(self.text.expose_secret()).map_or_else(|_| Vec::new(), |Object(fields)| fields),
        };
        let minted = [API_KEY_FIELDS[0], API_KEY_FIELDS[3], ENVIRONMENT_FIELDS[0], ENVIRONMENT_FIELDS[3]];
        let others = fields.into_iter().filter(|(name, _)| !minted.contains(&name.as_str()));
        others.map(|(name, raw)| (name, raw.get())).collect()
    }

    /// Whether the value with the longest key and key id would still be stored by Secrets Manager (promise I2).
    pub fn has_room(&self) -> bool {
        let kept = match self.shape {
            Shape::Plain => 0,
            _ => self.text.expose_secret().len(),
        };
        // Room for a key and an id several times longer than any that Kosli has issued, not for the longest thinkable:
        // that would refuse secrets for a key that never comes.
        const NEW_KEY_AND_ID: usize = 1_024;
        kept + NEW_KEY_AND_ID <= LARGEST_VALUE
    }
}

/// A piece of a value, between spans that were taken from it. Not `&text[range]`: if that did not fit, the panic would show the
/// value.
#[allow(clippy::expect_used, reason = "a document that is put together wrongly must not be stored")]
fn piece(text: &str, range: Range<usize>) -> &str {
    text.get(range).expect("spans are in order and inside the value")
}

/// The words that a plain key is put in together with, by mistake, where a value begins with them.
fn assigned(text: &str) -> Option<&'static str> {
    const NAMES: [&str; 5] = ["KOSLI_API_TOKEN", "KOSLI_API_KEY", "KOSLI_TOKEN", "api_key", "Authorization"];
    let begins = |word: &str| text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    let is_assigned = |name: &&str| {
        begins(name) && text.get(name.len()..).is_some_and(|rest| rest.trim_start().starts_with(['=', ':']))
    };
    let words = ["export ", "set ", "Bearer ", "'"].into_iter().find(|word| begins(word));
    words.map(str::trim_end).or_else(|| NAMES.into_iter().find(is_assigned))
}

/// A key or an id, which are visible ASCII, as a JSON string.
fn quoted(text: &str) -> Zeroizing<String> {
    // Large enough for two quotes, and an escape for every character.
    let mut json = Zeroizing::new(String::with_capacity(2 * text.len() + 2));
    json.push('"');
    for character in text.chars() {
        if matches!(character, '"' | '\\') {
            json.push('\\');
        }
        json.push(character);
    }
    json.push('"');
    json
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ApiKey => "JSON value with api_key",
            Self::Environment => "JSON value with KOSLI_API_TOKEN",
            Self::Plain => "plain key",
        })
    }
}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The fields of a JSON object in their order, each value as a piece of the text.
struct Object<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry::<String, &'de RawValue>()? {
                    fields.push(field);
                }
                Ok(Object(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// A text field and where it stands; `null` is as good as absent.
fn field<'a>(
    fields: &[(String, &'a RawValue)],
    name: &str,
) -> Result<Option<(SecretString, &'a RawValue)>, DocumentError> {
    let mut found = fields.iter().filter(|(field, _)| field == name);
    let Some((_, raw)) = found.next() else { return Ok(None) };
    if found.next().is_some() {
        return Err(DocumentError(format!("has `{name}` twice")));
    }
    let text: Option<String> =
        serde_json::from_str(raw.get()).map_err(|_| DocumentError(format!("has a `{name}` that is not a string")))?;
    Ok(text.map(|text| (SecretString::from(text), *raw)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_that_differ_are_named_and_the_key_and_its_id_are_not_among_them() {
        let json = |fields: &str| format!(r#"{{"api_key":"made-up-key-value-1","key_id":"k1"{fields}}}"#);
        let other = |fields: &str| format!(r#"{{"key_id":"k2"{fields},"api_key":"made-up-key-value-2"}}"#);
        for (ours, theirs, names) in [
            (json(""), other(""), &[][..]),
            (json(r#","note":"a","n":1"#), other(r#","n":1,"note":"a""#), &[]),
            (json(r#","note":"a""#), other(r#","note":"b""#), &["note"]),
            (json(r#","note":"a""#), other(""), &["note"]),
            (json(""), other(r#","n":1,"m":2"#), &["m", "n"]),
            (json(r#","n":1"#), other(r#","n":1.0"#), &["n"]),
            (json(""), other(r#","made-up-key-value-2":1"#), &[LEFT_OUT]),
            (json(""), other(r#","a name with words":1"#), &[LEFT_OUT]),
            ("made-up-key-value-1".to_owned(), "made-up-key-value-2".to_owned(), &[]),
            ("made-up-key-value-1".to_owned(), other(""), &["(the shape)"]),
        ] {
            let parsed = |text: &str| parse(text).expect("valid");
            assert_eq!(parsed(&ours).differing_fields(&parsed(&theirs)), names, "{ours} {theirs}");
        }
    }

    fn parse(text: &str) -> Result<Document, DocumentError> {
        Document::parse(SecretString::from(text))
    }

    fn replaced(text: &str) -> String {
        let document = parse(text).expect("valid");
        let (key, id) = (ApiKey::parse("n\"ew").expect("valid"), KeyId::parse("id-2").expect("valid"));
        document.with_key(&key, &id).expose_secret().to_owned()
    }

    #[test]
    fn only_the_key_and_its_id_change() {
        assert_eq!(
            replaced(
                "{ \"z\": 12345678901234567890,\n\t\"key_id\" : \"id-1\", \"n\":2.50, \"e\": 1E400, \"x\": null,\
                 \"u\": \"\\u00e9é\", \"api_key\":\"o\\u006cd\", \"d\": {\"api_key\": \"inner\"}, \"z\": 1 }\n"
            ),
            "{ \"z\": 12345678901234567890,\n\t\"key_id\" : \"id-2\", \"n\":2.50, \"e\": 1E400, \"x\": null,\
             \"u\": \"\\u00e9é\", \"api_key\":\"n\\\"ew\", \"d\": {\"api_key\": \"inner\"}, \"z\": 1 }\n"
        );
        assert_eq!(replaced(r#"{"KOSLI_API_TOKEN":"old"}"#), r#"{"KOSLI_API_TOKEN":"n\"ew"}"#);
        assert_eq!(replaced(r#"{"key_id":null,"api_key":"old"}"#), r#"{"key_id":"id-2","api_key":"n\"ew"}"#);
        assert_eq!(replaced("  old\n"), "n\"ew");
    }

    #[test]
    fn identity_is_read_as_far_as_it_is_there() {
        let document = parse(r#"{"api_key":"k","org":"acme","service_account":"","key_id":null}"#).expect("valid");
        assert_eq!((document.org(), document.service_account(), document.key_id()), (Some("acme"), None, None));
        assert!(document.has_key_id_field());
        let document = parse(r#"{"KOSLI_API_TOKEN":"k","KOSLI_ORG":"acme"}"#).expect("valid");
        assert_eq!((document.shape(), document.has_key_id_field()), (Shape::Environment, false));
    }

    #[test]
    fn a_value_in_no_shape_says_what_is_wrong_and_nothing_of_itself() {
        for (text, why) in [
            ("", "neither JSON nor a plain key"),
            ("two canaries", "neither JSON nor a plain key"),
            ("canaryé", "neither JSON nor a plain key"),
            ("two canaries", "it has white space in it"),
            ("\u{feff}canary", "byte order mark"),
            ("\u{feff}{\"api_key\":\"canary\"}", "byte order mark"),
            ("KOSLI_API_TOKEN=canary", "begins with `KOSLI_API_TOKEN`"),
            ("kosli_api_token = canary", "begins with `KOSLI_API_TOKEN`"),
            ("export KOSLI_API_TOKEN=canary", "begins with `export`"),
            ("api_key: canary", "begins with `api_key`"),
            ("Bearer canary", "begins with `Bearer`"),
            ("'canary'", "begins with `'`"),
            ("{\"api_key\":\"canary\"", "begins like JSON"),
            ("[\"canary\"]", "begins like JSON"),
            ("\"canary\"", "begins like JSON"),
            ("{\"api_key\":\"canary\"} x", "begins like JSON"),
            ("{\"org\":\"canary\"}", "has neither `api_key` nor `KOSLI_API_TOKEN`"),
            ("{\"KOSLI_ORG\":\"canary\"}", "has no `KOSLI_API_TOKEN`"),
            ("{\"api_key\":\"\"}", "has neither"),
            ("{\"api_key\":null}", "has neither"),
            ("{\"api_key\":17}", "`api_key` that is not a string"),
            ("{\"api_key\":\"canary\",\"org\":[\"canary\"]}", "`org` that is not a string"),
            ("{\"api_key\":\"canary\",\"api_key\":\"canary\"}", "`api_key` twice"),
            ("{\"api_key\":\"canary\",\"KOSLI_API_TOKEN\":\"canary\"}", "two shapes"),
            ("{\"api_key\":\"ca nary\"}", "`api_key` that has white space in it"),
            ("{\"api_key\":\"canary\\n\"}", "`api_key` that has white space in it"),
            ("{\"KOSLI_API_TOKEN\":\"\\ufeffcanary\"}", "`KOSLI_API_TOKEN` that begins with a byte order mark"),
            ("{\"api_key\":\"canaryé\"}", "not one run of visible ASCII"),
            ("{\"api_key\":\"{\\\"api_key\\\":\\\"canary\\\"}\"}", "begins like JSON"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(why), "{text}: {error}");
            assert!(!error.contains("canary"), "{error}");
        }
    }
}
