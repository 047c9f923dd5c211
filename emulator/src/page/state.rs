//! What the page is told: ids, labels, times and words. Never a value.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::promises::{Seen, World, judge, short};
use super::words::meaning;
use super::{FAULTS, Page};
use crate::call::Call;
use crate::kosli::{Key, MintedBy};

/// How many of the latest lines the page shows.
const LINES: usize = 150;

impl Page {
    pub(super) fn state(&self) -> Value {
        self.look();
        let world = self.world();
        let seen = self.seen();
        let rotation = self.emulator.with_secrets_manager(|service| {
            service.secret(&self.secret).map(|secret| {
                let tag = secret.tags.iter().flatten().find(|tag| tag.key == "kosli:revoke-old-key");
                (secret.rotation.last, tag.map(|tag| tag.value.clone()))
            })
        });
        let (last, old_key) = rotation.unwrap_or_default();
        let pending: Vec<String> = self
            .emulator
            .faults()
            .rules()
            .into_iter()
            .filter(|(rule, met)| rule.last.is_none_or(|last| *met < last))
            .map(|(rule, _)| rule.to_string())
            .collect();
        let promises = judge(&world, &seen);
        json!({
            "now": seconds(world.now),
            "secret": self.secret,
            "last_rotated": last.map(seconds),
            "rotating": seen.ended.is_none() && !seen.step.is_empty(),
            "step": seen.step,
            "old_key": old_key,
            "versions": world.versions.iter().rev().map(|version| {
                let key = world.keys.iter().find(|key| version.text().is_some_and(|text| text.contains(&key.value)));
                json!({
                    "id": version.id,
                    "labels": version.stages.iter().map(|label| shown_label(label)).collect::<Value>(),
                    "created": seconds(version.created),
                    "has_a_value": version.value.is_some(),
                    "key": key.map(|key| short(&key.id)),
                })
            }).collect::<Value>(),
            "keys": world.keys.iter().map(|entry| key(entry, &world, &seen)).collect::<Value>(),
            "lines": lines(&world, &seen, &self.secret),
            "promises": promises.iter().map(|promise| json!({
                "name": promise.name, "verdict": promise.verdict, "evidence": promise.evidence,
            })).collect::<Value>(),
            "faults": FAULTS,
            "pending_faults": pending,
        })
    }
}

fn key(key: &Key, world: &World, seen: &Seen) -> Value {
    let holder = world.holder(key);
    let minted = key.minted_by != MintedBy::SetUp;
    json!({
        "id": key.id,
        // The secret's own account is the one whose keys its versions hold.
        "account": format!("{}/{}", key.org, key.account),
        "description": key.description,
        "created": seconds(key.created_at),
        "rotated": key.rotated_at.map(seconds),
        "grace_ends": key.grace_ends_at.map(seconds),
        "expires": key.expires_at.map(seconds),
        "revoked": key.revoked_at.map(seconds),
        "dies": key.dies_at().map(seconds),
        "standing": standing(key, world.now),
        "version": holder.map(|version| short(&version.id)),
        "labels": holder.map(|version| version.stages.iter().map(|label| shown_label(label)).collect::<Value>()),
        "marked": minted,
        "replaces": seen.replaces.get(&key.id).map(|id| short(id)),
        "lost": minted && holder.is_none(),
    })
}

fn standing(key: &Key, now: SystemTime) -> &'static str {
    match key {
        Key { revoked_at: Some(at), .. } if *at <= now => "revoked",
        _ if !key.is_live_at(now) && key.grace_ends_at.is_some_and(|end| end <= now) => "grace period over",
        _ if !key.is_live_at(now) => "expired",
        _ if key.is_in_grace_at(now) => "in its grace period",
        _ => "works",
    }
}

/// Calls and events in the order in which they happened, the latest last.
fn lines(world: &World, seen: &Seen, secret: &str) -> Vec<Value> {
    let mut told = seen.told.iter().enumerate().peekable();
    let mut lines = Vec::new();
    let event = |index: usize, words: &str| json!({ "id": format!("e{index}"), "words": words });
    for call in &world.calls {
        while let Some((index, (_, words))) = told.next_if(|(_, (after, _))| *after < call.number) {
            lines.push(event(index, words));
        }
        lines.push(line(call, seen, secret));
    }
    lines.extend(told.map(|(index, (_, words))| event(index, words)));
    lines.split_off(lines.len().saturating_sub(LINES))
}

fn line(call: &Call, seen: &Seen, secret: &str) -> Value {
    let (words, promise) = match call.tag.as_str() {
        "function" => {
            let (step, pending) = seen.steps.get(&call.number).map_or(("", ""), |(step, pending)| (step, pending));
            meaning(step, pending, call, secret)
        }
        "check" => ("The function's report: it looks, and changes nothing.", "I7"),
        _ => ("A call that is not the function's.", ""),
    };
    // That there is no value yet is an answer, and no trouble.
    let nothing = call.operation == "GetSecretValue" && call.outcome == "ResourceNotFoundException";
    json!({
        "id": format!("c{}", call.number),
        "number": call.number,
        "service": call.service.to_string(),
        "operation": call.operation,
        "words": words,
        "promise": promise,
        "status": call.status,
        "error": (call.effect.is_some_and(|status| status >= 400) && !nothing).then_some(&call.outcome),
        "nothing": nothing,
        "fault": call.fault.as_ref().map(ToString::to_string),
        "happened": call.effect.is_some(),
    })
}

/// A label; a key id in it is shortened as everywhere.
fn shown_label(label: &str) -> String {
    match label.split_once(':') {
        Some((name, id)) => format!("{name}:{}", short(id)),
        None => label.to_owned(),
    }
}

/// Whether the text holds the secret part of any key.
pub(super) fn shows_a_key(text: &str, keys: &[Key]) -> bool {
    keys.iter().any(|key| text.contains(key.secret_part()))
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
