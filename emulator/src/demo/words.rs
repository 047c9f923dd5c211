//! Things in words: a step, a fault, an answer, the life of a key, labels.

use std::time::SystemTime;

use serde_json::Value;

use crate::call::Call;
use crate::faults::{Effect, Fault};
use crate::kosli::Key;
use crate::secrets_manager::Version;

pub(super) fn purpose(step: &str) -> &'static str {
    match step {
        "createSecret" => "look at everything, mint a new key, store it",
        "setSecret" => "Kosli knows the key already; cross-check whose it is",
        "testSecret" => "does the new key work?",
        "finishSecret" => "hand the new key to the readers, then clean up",
        _ => "",
    }
}

/// What became of a call that met a fault, for the function and in truth.
pub(super) fn consequence(fault: &Fault, call: &Call) -> String {
    let effect = match fault.effect() {
        Effect::Never => "it did not happen",
        Effect::Now => "it did happen",
        Effect::Later(_) => "it happens later",
    };
    let told = match (fault, call.status) {
        (Fault::KillBefore | Fault::KillAfter, _) => "and the function is killed".to_owned(),
        (Fault::Garble | Fault::Truncate | Fault::Incomplete, _) => "and the answer cannot be used".to_owned(),
        (_, Some(status)) => format!("and the function is told {status}"),
        (_, None) => "and the function is told nothing".to_owned(),
    };
    format!("{effect}, {told}")
}

/// The function's answer in a few words.
pub(super) fn what_was_done(answer: &Value) -> String {
    let text = |name: &str| answer[name].as_str();
    let mut words = text("outcome").unwrap_or("(no outcome)").to_owned();
    if let Some(id) = text("key_id") {
        words += &format!(", new key {}", short(id));
    }
    if let Some(at) = text("current_key_dies_at") {
        words += &format!(", the current one works until {at}");
    }
    let revoked: Vec<_> =
        answer["revoked_key_ids"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !revoked.is_empty() {
        words += &format!(", revoked {}", revoked.into_iter().map(short).collect::<Vec<_>>().join(" and "));
    }
    if let Some(verdict) = text("old_key") {
        words += &format!(", and Kosli says the old key is {verdict}");
    }
    words
}

pub(super) fn life(key: &Key, now: SystemTime) -> String {
    const HOUR: u64 = 60 * 60;
    let standing = match key {
        Key { revoked_at: Some(at), .. } if *at <= now => return "revoked".to_owned(),
        _ if !key.is_live_at(now) => return "dead".to_owned(),
        _ if key.is_in_grace_at(now) => "in its grace period, works",
        _ => "works",
    };
    let Some(death) = key.dies_at() else { return format!("{standing} for ever") };
    let left = death.duration_since(now).unwrap_or_default().as_secs();
    let left =
        if left > 48 * HOUR { format!("{} days", left / (24 * HOUR)) } else { format!("{} h", left.div_ceil(HOUR)) };
    format!("{standing} until {} ({left})", httpdate::fmt_http_date(death))
}

pub(super) fn labels(versions: &[Version]) -> String {
    let labelled = versions.iter().filter(|version| !version.stages.is_empty());
    labelled.map(|version| format!("{} {}", short(&version.id), stages(version))).collect::<Vec<_>>().join(", ")
}

pub(super) fn stages(version: &Version) -> String {
    version.stages.iter().map(|label| shown_label(label)).collect::<Vec<_>>().join("+")
}

/// A label; a key id in it is shortened as everywhere.
pub(super) fn shown_label(label: &str) -> String {
    match label.split_once(':') {
        Some((name, id)) => format!("{name}:{}", short(id)),
        None => label.to_owned(),
    }
}

/// The value of a secret, with the last four characters of the keys in it.
pub(super) fn redacted(value: &str, keys: &[Key]) -> String {
    keys.iter().fold(value.to_owned(), |value, key| {
        let end = key.value.len().saturating_sub(4);
        value.replace(&key.value, &format!("…{}", key.value.get(end..).unwrap_or_default()))
    })
}

/// The beginning of an id, which is enough to tell a handful of them apart.
pub(super) fn short(id: &str) -> String {
    id.chars().take(8).collect()
}

/// A field of the request, as [`Call::detail`] shows it.
pub(super) fn field<'a>(call: &'a Call, name: &str) -> &'a str {
    let fields = call.detail.split(' ').filter_map(|field| field.split_once('='));
    fields.into_iter().find(|(field, _)| *field == name).map_or("", |(_, value)| value)
}

/// `…` of `org/account/api-keys/…/rotate`.
pub(super) fn key_in_path(call: &Call) -> &str {
    call.detail.split([' ', '/']).nth(3).unwrap_or_default()
}
