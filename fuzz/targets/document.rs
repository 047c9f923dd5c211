//! The secret's value: `KEY\nKEY ID\nVALUE`. A value that is read is edited in two places and nowhere else; an error about one
//! is one of a handful of sentences, none of which holds any of it.
#![no_main]

use std::fmt;
use std::ops::Range;

use kosli_key_rotation::api_key::ApiKey;
use kosli_key_rotation::document::{Document, Shape};
use kosli_key_rotation::identity::KeyId;
use libfuzzer_sys::fuzz_target;
use secrecy::{ExposeSecret, SecretString};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

const FIELDS: [[&str; 4]; 2] = [
    ["api_key", "org", "service_account", "key_id"],
    ["KOSLI_API_TOKEN", "KOSLI_ORG", "KOSLI_SERVICE_ACCOUNT", "KOSLI_API_KEY_ID"],
];

/// What a plain value must not begin with.
const ASSIGNED: [&str; 9] =
    ["KOSLI_API_TOKEN", "KOSLI_API_KEY", "KOSLI_TOKEN", "api_key", "Authorization", "export", "set", "Bearer", "'"];

fuzz_target!(|data: &[u8]| {
    let Ok(input) = std::str::from_utf8(data) else { return };
    let Some((key_text, rest)) = input.split_once('\n') else { return };
    let Some((id, value)) = rest.split_once('\n') else { return };
    // A key of Kosli's: no line of a script, which a value must not be either.
    let is_key = Document::parse(SecretString::from(key_text)).is_ok_and(|document| document.shape() == Shape::Plain);
    let key_text = if is_key { key_text.trim() } else { "made-up-\"new\"-key\\" };
    let (Some(key), id) = (ApiKey::parse(key_text), KeyId::parse(id)) else { return };
    let Some(id) = id.or_else(|| KeyId::parse("id-2")) else { return };
    match Document::parse(SecretString::from(value)) {
        Ok(document) => edited(value, &document, (key_text, &key), &id),
        Err(error) => says_nothing_of_the_value(&error.to_string()),
    }
});

fn edited(old: &str, document: &Document, (key_text, key): (&str, &ApiKey), id: &KeyId) {
    let new = document.with_key(key, id);
    let new_text = new.expose_secret();
    match document.shape() {
        Shape::Plain => {
            assert!(document.key().same(&ApiKey::parse(old.trim()).expect("a plain value is its key")));
            assert_eq!(new_text, key_text);
        }
        shape => {
            let names = FIELDS[usize::from(shape == Shape::Environment)];
            only_key_and_id_differ(old, new_text, names, (key_text, document), id);
        }
    }

    let again = Document::parse(new.clone()).expect("an edited value can be read");
    assert!(again.key().same(key));
    assert_eq!(again.shape(), document.shape());
    assert_eq!((again.org(), again.service_account()), (document.org(), document.service_account()));
    assert_eq!(again.has_key_id_field(), document.has_key_id_field());
    assert_eq!(again.key_id(), document.has_key_id_field().then(|| id.as_str()));
    assert_eq!(again.with_key(key, id).expose_secret(), new_text, "a second edit changes nothing");

    let quoted = serde_json::Value::from(key_text).to_string().len() + id.as_str().len() + 2;
    if document.has_room() && quoted <= 1_024 {
        assert!(new_text.len() <= 65_536, "there was said to be room");
    }
    the_key_shows_nowhere(document, id);
}

/// The fields are the same ones in the same order, every other value to the byte, and so is all that is between them.
fn only_key_and_id_differ(old: &str, new: &str, names: [&str; 4], (key, document): (&str, &Document), id: &KeyId) {
    let [key_name, org, service_account, id_name] = names;
    let (before, after) = (fields(old), fields(new));
    assert_eq!(before.len(), after.len());
    for ((name, was), (new_name, is)) in before.iter().zip(&after) {
        assert_eq!(name, new_name);
        let was = &old[was.clone()];
        let is = &new[is.clone()];
        let text = || serde_json::from_str::<Option<String>>(was).expect("a string or null").unwrap_or_default();
        let read = |found: Option<&str>| assert_eq!(found.unwrap_or_default(), text());
        match name.as_str() {
            name if name == key_name => {
                assert_eq!(is, serde_json::Value::from(key).to_string());
                assert!(document.key().same(&ApiKey::parse(&text()).expect("a key")));
            }
            name if name == id_name => {
                assert_eq!(is, serde_json::Value::from(id.as_str()).to_string());
                read(document.key_id());
            }
            name => {
                assert_eq!(is, was);
                match name {
                    name if name == org => read(document.org()),
                    name if name == service_account => read(document.service_account()),
                    _ => {}
                }
            }
        }
    }
    assert_eq!(between(old, &before), between(new, &after));
}

/// The `Debug` output is the same, whatever the key is.
fn the_key_shows_nowhere(document: &Document, id: &KeyId) {
    let shown = ["Another-key-0123456789", "Different-key-98765432"].map(|other| {
        let other = ApiKey::parse(other).expect("valid");
        format!("{:?}", Document::parse(document.with_key(&other, id)).expect("an edited value can be read"))
    });
    assert_eq!(shown[0], shown[1]);
}

/// What a person may be told of a value that is none.
fn says_nothing_of_the_value(error: &str) {
    let fixed = [
        "begins with a byte order mark (BOM), which an editor has put there: remove it",
        "is neither JSON nor a plain key, which is one run of 1 to 4096 visible ASCII characters",
        "is neither JSON nor a plain key, which is one run of 1 to 4096 visible ASCII characters: it has white space in it",
        "begins like JSON and is not one well-formed JSON object",
        "has fields of two shapes: use api_key, org, service_account, key_id or KOSLI_API_TOKEN, KOSLI_ORG, \
         KOSLI_SERVICE_ACCOUNT, KOSLI_API_KEY_ID, not some of both",
        "has neither `api_key` nor `KOSLI_API_TOKEN`",
    ];
    let of_a_field = FIELDS.iter().flatten().any(|name| {
        [
            format!("has no `{name}`"),
            format!("has `{name}` twice"),
            format!("has a `{name}` that is not a string"),
            format!("has a `{name}` that has white space in it"),
            format!("has a `{name}` that begins with a byte order mark (BOM)"),
            format!("has a `{name}` that begins like JSON"),
            format!("has a `{name}` that is not one run of visible ASCII characters"),
        ]
        .contains(&error.to_owned())
    });
    let like_a_line = ASSIGNED.iter().any(|word| {
        error
            == format!(
                "begins with `{word}`, like a line of a script or of a request: it has to be the key alone, or JSON"
            )
    });
    assert!(fixed.contains(&error) || of_a_field || like_a_line, "{error}");
}

/// The fields of an object in their order, and where their values stand.
fn fields(json: &str) -> Vec<(String, Range<usize>)> {
    let Fields(fields) = serde_json::from_str(json).expect("an object");
    fields
        .into_iter()
        .map(|(name, raw)| {
            let start = raw.get().as_ptr() as usize - json.as_ptr() as usize;
            (name, start..start + raw.get().len())
        })
        .collect()
}

/// The text without the values.
fn between(json: &str, fields: &[(String, Range<usize>)]) -> Vec<String> {
    let starts = std::iter::once(0).chain(fields.iter().map(|(_, value)| value.end));
    let ends = fields.iter().map(|(_, value)| value.start).chain([json.len()]);
    starts.zip(ends).map(|(start, end)| json[start..end].to_owned()).collect()
}

struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Object)
    }
}
