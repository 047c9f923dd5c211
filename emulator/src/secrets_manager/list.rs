//! `ListSecrets` and `ListSecretVersionIds`: filters, order and pages.

use serde_json::{Value, json};

use super::SecretsManager;
use super::answer::{Answer, Error, seconds, without_nulls};
use super::model::Secret;
use super::operations::{description, labels, named, stages_by_version};
use super::wire::{Filter, ListSecretVersionIds, ListSecrets, Page};

/// The most entries in one answer, and as many as there are without `MaxResults` (service model, `MaxResultsType`).
const PAGE: usize = 100;

impl SecretsManager {
    pub(super) fn list_secrets(&mut self, input: &ListSecrets) -> Answer {
        let mut found = Vec::new();
        for secret in &self.secrets {
            if (input.include_planned_deletion || secret.deletion.is_none()) && matches_all(secret, &input.filters)? {
                found.push(secret);
            }
        }
        match input.sort_by.as_deref() {
            Some("name") => found.sort_by(|a, b| a.name.cmp(&b.name)),
            Some("last-changed-date") => found.sort_by_key(|secret| secret.changed),
            Some("last-accessed-date") => found.sort_by_key(|secret| secret.accessed),
            _ => {}
        }
        if input.sort_order.as_deref() == Some("desc") {
            found.reverse();
        }
        let entries = found.into_iter().map(|secret| {
            let mut entry = description(secret);
            if let Some(stages) = stages_by_version(&secret.versions) {
                entry["SecretVersionsToStages"] = stages;
            }
            entry
        });
        let (entries, next) = page(entries.collect(), &input.page, PAGE)?;
        Ok(without_nulls(json!({ "SecretList": entries, "NextToken": next })))
    }

    pub(super) fn list_secret_version_ids(&mut self, input: &ListSecretVersionIds) -> Answer {
        let secret = self.find(&input.secret_id)?;
        let listed = secret.versions.iter().filter(|version| input.include_deprecated || !version.stages.is_empty());
        let entries = listed.map(|version| {
            without_nulls(json!({
                "VersionId": version.id,
                "VersionStages": labels(&version.stages),
                "CreatedDate": seconds(version.created),
                "LastAccessedDate": version.accessed.map(seconds),
                "KmsKeyIds": [secret.kms_key_id.as_deref().unwrap_or("DefaultEncryptionKey")],
            }))
        });
        let (entries, next) = page(entries.collect(), &input.page, PAGE)?;
        Ok(named(secret, json!({ "Versions": entries, "NextToken": next })))
    }
}

/// One page of `entries`, with `most` of them at most. The token is the number of entries on the pages before.
pub(super) fn page(entries: Vec<Value>, page: &Page, most: usize) -> Result<(Vec<Value>, Option<String>), Error> {
    let size = page.max_results.unwrap_or(most);
    if !(1..=most).contains(&size) {
        return Err(Error::constraint("maxResults", &format!("have value between 1 and {most}")));
    }
    let start = match &page.next_token {
        None => 0,
        Some(token) => token.parse::<usize>().ok().filter(|start| *start <= entries.len()).ok_or_else(|| Error {
            kind: "InvalidNextTokenException",
            message: "The NextToken value is invalid.".to_owned(),
        })?,
    };
    let next = Some(start + size).filter(|next| *next < entries.len()).map(|next| next.to_string());
    Ok((entries.into_iter().skip(start).take(size).collect(), next))
}

/// Every filter must match; of a filter's values, one. A value that begins with `!` matches what it does not describe.
pub(super) fn matches_all(secret: &Secret, filters: &[Filter]) -> Result<bool, Error> {
    for filter in filters {
        let mut matched = false;
        for value in &filter.values {
            matched |= match value.strip_prefix('!') {
                Some(value) => !matches(secret, &filter.key, value)?,
                None => matches(secret, &filter.key, value)?,
            };
        }
        if !matched {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Names and tags are compared by their beginning; descriptions, and everything under `all`, word by word. (API reference,
/// `Filter`; the details are as recorded in LocalStack's `test_list_secrets_filtering`.)
fn matches(secret: &Secret, key: &str, value: &str) -> Result<bool, Error> {
    let tags = || secret.tags.iter().flatten();
    let description = secret.description.as_deref().unwrap_or_default();
    Ok(match key {
        "name" => secret.name.starts_with(value),
        "description" => has_words(description, value),
        "tag-key" => tags().any(|tag| tag.key.starts_with(value)),
        "tag-value" => tags().any(|tag| tag.value.starts_with(value)),
        "all" => {
            let tags = tags().flat_map(|tag| [tag.key.as_str(), tag.value.as_str()]);
            let texts: Vec<_> = [secret.name.as_str(), description].into_iter().chain(tags).collect();
            has_words(&texts.join(" "), value)
        }
        // No secret here is a replica or belongs to another service.
        "primary-region" | "owning-service" => false,
        _ => return Err(Error::constraint("filters.key", "satisfy enum value set")),
    })
}

/// Whether every word of `wanted` is how some word of `text` begins, in upper or lower case.
fn has_words(text: &str, wanted: &str) -> bool {
    let words = |text: &str| -> Vec<String> {
        let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        words.map(str::to_lowercase).collect()
    };
    let text = words(text);
    words(wanted).iter().all(|wanted| text.iter().any(|word| word.starts_with(wanted.as_str())))
}
