//! What a secret's tags, labels and value and the function's environment say, a line each:
//!
//! ```text
//! env NAME VALUE
//! tag NAME VALUE
//! label VERSION LABEL
//! token VERSION
//! rotated
//! now SECONDS
//! value EVERYTHING THAT FOLLOWS
//! ```
//!
//! Names that are accepted are safe in a URL, a policy is within Kosli's bounds, a mark within its window, and a secret never
//! gets more labels than Secrets Manager allows.
#![no_main]

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kosli_key_rotation::api_key::ApiKey;
use kosli_key_rotation::config::{Config, Policy, RevokeOldKey};
use kosli_key_rotation::document::Document;
use kosli_key_rotation::error::ErrorKind;
use kosli_key_rotation::event::VersionId;
use kosli_key_rotation::identity::{Account, ClaimedKeyId, KeyId, Name, Permitted};
use kosli_key_rotation::marker::{Attempt, Mark, WINDOW};
use kosli_key_rotation::rotation::check_room;
use kosli_key_rotation::rotation::credential::Credential;
use kosli_key_rotation::secrets_manager::{CURRENT, Description, MOST_LABELS, PENDING, PREVIOUS, Version};
use kosli_key_rotation::staging::Standing;
use libfuzzer_sys::fuzz_target;
use secrecy::SecretString;

const ARN: &str = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:kosli/ci-AbCdEf";
const OTHER_KEYS: [&str; 2] = ["Another-key-0123456789", "Different-key-98765432"];
const DAY: Duration = Duration::from_secs(86_400);

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let world = World::read(text);
    let policy = world.environment();
    let policy = world.policy(policy);
    world.names();
    world.permissions();
    world.standing();
    world.mark(policy);
    world.credentials();
});

#[derive(Default)]
struct World<'a> {
    text: &'a str,
    variables: BTreeMap<&'a str, &'a str>,
    tags: BTreeMap<String, String>,
    versions: BTreeMap<VersionId, Vec<String>>,
    token: Option<VersionId>,
    rotated: bool,
    now: u64,
    value: &'a str,
}

impl<'a> World<'a> {
    fn read(mut text: &'a str) -> Self {
        let mut world = Self { text, ..Self::default() };
        while !text.is_empty() {
            if let Some(value) = text.strip_prefix("value ") {
                world.value = value;
                break;
            }
            let (line, rest) = text.split_once('\n').unwrap_or((text, ""));
            text = rest;
            let (what, line) = line.split_once(' ').unwrap_or((line, ""));
            let (name, value) = line.split_once(' ').unwrap_or((line, ""));
            match what {
                "env" => drop(world.variables.insert(name, value)),
                "tag" => drop(world.tags.insert(name.to_owned(), value.to_owned())),
                "label" => {
                    if let Ok(version) = VersionId::parse(name) {
                        world.versions.entry(version).or_default().push(value.to_owned());
                    }
                }
                "token" => world.token = VersionId::parse(line).ok(),
                "rotated" => world.rotated = true,
                "now" => world.now = line.parse().unwrap_or_default(),
                _ => {}
            }
        }
        world
    }

    fn description(&self) -> Description {
        Description {
            arn: ARN.to_owned(),
            name: "kosli/ci".to_owned(),
            rotation_enabled: true,
            rotated_before: self.rotated,
            last_changed: None,
            next_rotation: None,
            rotation_interval: None,
            tags: self.tags.clone(),
            versions: self.versions.clone(),
        }
    }

    fn token(&self) -> VersionId {
        self.token.clone().unwrap_or_else(|| VersionId::parse("token").expect("valid"))
    }

    fn environment(&self) -> Policy {
        let variable =
            |name: &str| self.variables.get(name).map(|value| (*value).to_owned()).or_else(|| set_by_lambda(name));
        match Config::from_vars(variable) {
            Ok(config) => {
                let host = config.host.host_str().expect("a host").to_owned();
                let loopback = host == "localhost" || host == "[::1]" || host.starts_with("127.");
                assert!(config.host.scheme() == "https" || (config.host.scheme() == "http" && loopback));
                assert_eq!((config.host.username(), config.host.password()), ("", None));
                assert_eq!((config.host.path(), config.host.query(), config.host.fragment()), ("/", None, None));
                if let Some(id) = &config.admin_secret {
                    assert!(id.as_str().len() <= 2_048 && id.as_str().bytes().all(|byte| byte.is_ascii_graphic()));
                }
                within_bounds(config.policy)
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::InvalidConfiguration);
                let text = error.to_string();
                // It names one that is set, and is as long as what it accepts, whatever the value is.
                let name = text.strip_prefix("The environment variable ").and_then(|rest| rest.split(' ').next());
                assert!(name.is_some_and(|name| self.variables.contains_key(name)) && text.len() < 600, "{text}");
                Policy::default()
            }
        }
    }

    fn policy(&self, policy: Policy) -> Policy {
        let (readable, unreadable) = policy.with_readable_tags(&self.tags);
        match policy.with_tags(&self.tags) {
            Ok(strict) => {
                assert_eq!((strict, unreadable.len()), (readable, 0));
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::InvalidTag);
                assert!(!unreadable.is_empty() && error.to_string().contains(unreadable[0]));
            }
        }
        if unreadable.contains(&"kosli:revoke-old-key") {
            assert_eq!(readable.revoke_old_key, RevokeOldKey::AfterGracePeriod, "the safe value");
        }
        within_bounds(readable)
    }

    /// Whatever is said anywhere, taken for a name or a key's id.
    fn texts(&self) -> impl Iterator<Item = &str> {
        let labels = self.versions.values().flatten();
        let labels = labels.map(|label| label.strip_prefix("kosli-key-id:").unwrap_or(label));
        self.variables.values().copied().chain(self.tags.values().map(String::as_str)).chain(labels)
    }

    fn names(&self) {
        for text in self.texts() {
            if let Some(name) = Name::parse(text) {
                assert_eq!(name.as_str(), text);
                assert!(text.len() <= 64);
                one_path_segment(text);
            }
            if let Some(id) = KeyId::parse(text) {
                assert_eq!(id.as_str(), text);
                assert!("kosli-key-id:".len() + text.len() <= 256, "a label's limit");
                one_path_segment(text);
            }
        }
    }

    fn permissions(&self) {
        let names: Vec<Name> = self.texts().filter_map(Name::parse).take(4).collect();
        for text in self.texts().take(8) {
            let Some(permitted) = Permitted::parse(text) else { continue };
            for (org, name) in names.iter().flat_map(|org| names.iter().map(move |name| (org, name))) {
                let account = Account { org: org.clone(), name: name.clone() };
                let expected = text.split(',').any(|pattern| {
                    let (org_pattern, name_pattern) = pattern.trim().split_once('/').expect("org/name");
                    matches(org_pattern, org.as_str()) && matches(name_pattern, name.as_str())
                });
                assert_eq!(permitted.allows(&account), expected, "{text} {account}");
            }
        }
    }

    fn standing(&self) {
        let token = self.token();
        let labels = self.versions.get(&token);
        let carries = |label: &str| labels.is_some_and(|labels| labels.iter().any(|held| held == label));
        match Standing::of(&self.description(), &token) {
            Ok(Standing::Current { previous }) => {
                assert!(carries(CURRENT));
                assert!(previous.is_none_or(|version| self.carries(&version, PREVIOUS)));
            }
            Ok(Standing::Pending { current }) => {
                assert!(carries(PENDING) && !carries(CURRENT) && current != token);
                assert!(self.carries(&current, CURRENT));
            }
            Err(error) => {
                assert!(!carries(CURRENT));
                assert_eq!(
                    error.kind(),
                    match labels {
                        None => ErrorKind::TokenNotStaged,
                        Some(_) if carries(PENDING) => ErrorKind::NoCurrentValue,
                        Some(_) => ErrorKind::TokenNotPending,
                    }
                );
            }
        }
    }

    fn carries(&self, version: &VersionId, label: &str) -> bool {
        self.versions.get(version).is_some_and(|labels| labels.iter().any(|held| held == label))
    }

    fn mark(&self, policy: Policy) {
        // Until the year 2100, and from 1970: clocks may be wrong, and nothing may overflow.
        let now = UNIX_EPOCH + Duration::from_secs(self.now % 4_102_444_800);
        let life = DAY * policy.key_ttl_days;
        let latest = seconds(now + life.min(DAY * 365 - Duration::from_secs(3_600)));
        fastrand::seed(self.now);
        let mut seen: Vec<Attempt> = Vec::new();
        for version in self.versions.keys().take(4) {
            let mark = Mark::of(ARN, version);
            let attempt = Attempt::fresh(&seen);
            assert!(seen.len() >= 32 || !seen.contains(&attempt));
            seen.push(attempt);
            let expires_at = mark.expires_at(attempt, now, life);
            assert!(expires_at <= latest && latest - expires_at < WINDOW);
            assert_eq!(mark.attempt_in(expires_at), Some(attempt));
            // What carries the mark is found again wherever it is, and nothing else is.
            let ours = |second: u64| mark.attempt_in(second).is_some();
            assert!(ours(expires_at + WINDOW) && ours(expires_at % WINDOW));
            assert!([1, 2, 4_096, 8_191].iter().all(|step| !ours(expires_at + 32 * step)));
        }
    }

    fn credentials(&self) {
        let description = self.description();
        let Some(id) = self.versions.keys().next() else { return };
        let version = |value: SecretString| Version {
            arn: ARN.to_owned(),
            id: id.clone(),
            labels: self.versions.get(id).cloned().unwrap_or_default(),
            created: SystemTime::UNIX_EPOCH,
            value: Some(value),
        };
        let parse = |value: SecretString| {
            [
                Credential::parse(&version(value.clone()), &description, CURRENT),
                Credential::parse_replaced(&version(value), &description, &self.token(), CURRENT),
            ]
        };
        let value = SecretString::from(self.value);
        for (parsed, from_tag) in parse(value.clone()).into_iter().zip([false, true]) {
            match parsed {
                Ok(credential) => self.valid(&credential, from_tag),
                Err(error) => {
                    let kinds = [ErrorKind::InvalidSecret, ErrorKind::InvalidIdentity, ErrorKind::IdentityConflict];
                    assert!(kinds.contains(&error.kind()) || (from_tag && error.kind() == ErrorKind::InvalidTag));
                }
            }
        }
        self.says_nothing_of_the_key(|value| {
            parse(SecretString::from(value))
                .map(|parsed| parsed.err().map(|error| error.to_string()).unwrap_or_default())
        });
        let Ok(document) = Document::parse(value) else { return };
        // Whatever the key is, unless a piece of it is found in another place as well, what is shown is the same.
        let shows = |piece: &[u8]| std::str::from_utf8(piece).is_ok_and(|piece| self.text.contains(piece));
        if !OTHER_KEYS.iter().any(|key| key.as_bytes().windows(4).any(shows)) {
            let shown = OTHER_KEYS.map(|key| {
                let key = ApiKey::parse(key).expect("valid");
                let parsed = parse(document.with_key(&key, &KeyId::parse("id-2").expect("valid")));
                parsed.map(|parsed| (format!("{parsed:?}"), parsed.err().map(|error| error.to_string())))
            });
            assert_eq!(shown[0], shown[1]);
        }
    }

    /// Not even where the key was put in the place of something that may be shown.
    fn says_nothing_of_the_key(&self, errors: impl Fn(&str) -> [String; 2]) {
        let Ok(value) = serde_json::from_str::<serde_json::Value>(self.value) else { return };
        let text =
            |names: [&str; 2]| names.into_iter().find_map(|name| value[name].as_str()).unwrap_or_default().to_owned();
        let key = text(["api_key", "KOSLI_API_TOKEN"]);
        let shown =
            [["org", "KOSLI_ORG"], ["service_account", "KOSLI_SERVICE_ACCOUNT"], ["key_id", "KOSLI_API_KEY_ID"]];
        let part_of_a_name = |shown: &str| shown != key && shown.contains(&key);
        if key.len() < 12
            || self.texts().any(part_of_a_name)
            || shown.map(text).iter().any(|shown| part_of_a_name(shown))
        {
            return;
        }
        let shows_it = |value: &str| errors(value).iter().any(|error| error.contains(&key));
        // Unless the key is made of words that the errors have anyway.
        assert!(
            !shows_it(self.value) || shows_it(&self.value.replace(&key, OTHER_KEYS[0])),
            "{:?}",
            errors(self.value)
        );
    }

    fn valid(&self, credential: &Credential, from_tag: bool) {
        for (name, tag) in [(&credential.account.org, "kosli:org"), (&credential.account.name, "kosli:service-account")]
        {
            assert!(Name::parse(name.as_str()).is_some());
            assert!(self.tags.get(tag).is_none_or(|tagged| tagged == name.as_str()), "a tag is a guard");
            assert!(ApiKey::parse(name.as_str()).is_none_or(|value| !value.same(credential.key())));
        }
        // What is claimed shows in nothing; that it can be compared is all that there is to it.
        assert!(credential.key_id.as_ref().is_none_or(|id| format!("{id:?}") == "ClaimedKeyId(redacted)"));
        assert!(from_tag || !credential.key_id_from_tag);
        if credential.key_id_from_tag {
            let tag = self.tags.get("kosli:key-id").and_then(|tag| ClaimedKeyId::parse(tag));
            assert!(tag.is_some() && credential.key_id == tag);
        }

        let description = self.description();
        let labels: usize = self.versions.values().map(Vec::len).sum();
        match check_room(credential, &description) {
            Ok(stale) => {
                for (version, label) in &stale {
                    assert!(label.starts_with("kosli-key-id:") && self.carries(version, label));
                    assert!([CURRENT, PENDING, PREVIOUS].iter().all(|used| !self.carries(version, used)));
                }
                // The label of the new version, AWSPREVIOUS at the promotion, and the label of a replaced version that has none.
                let label = usize::from(!credential.document.has_key_id_field());
                let previous = usize::from(!self.versions.keys().any(|version| self.carries(version, PREVIOUS)));
                let unnamed = usize::from(credential.key_id.is_none() || credential.key_id_from_tag);
                assert!(labels - stale.len() + label + previous + unnamed <= MOST_LABELS);
                assert!(credential.document.has_room());
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NoRoom);
                assert!(labels + 3 > MOST_LABELS || !credential.document.has_room());
            }
        }
    }
}

fn within_bounds(policy: Policy) -> Policy {
    assert!((1..=720).contains(&policy.grace_period_hours) && (14..=365).contains(&policy.key_ttl_days));
    policy
}

fn set_by_lambda(name: &str) -> Option<String> {
    let needed = ["AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
    needed.contains(&name).then(|| "made-up".to_owned())
}

/// Put into a URL, it is the path's last segment and nothing else of it, as it stands.
fn one_path_segment(text: &str) {
    let config = Config::from_vars(set_by_lambda).expect("the defaults");
    let mut url = config.host;
    url.path_segments_mut().expect("a base").extend(["before", text, "after"]);
    assert_eq!(url.as_str(), format!("https://app.kosli.com/before/{text}/after"));
    url = url.as_str().parse().expect("a URL");
    assert_eq!(url.path_segments().expect("a base").collect::<Vec<_>>(), ["before", text, "after"]);
}

/// Whether `text` matches `pattern`, a character at a time: which prefixes of the pattern match what was read so far.
fn matches(pattern: &str, text: &str) -> bool {
    let pattern = pattern.as_bytes();
    let beyond_stars = |mut states: Vec<bool>| {
        for (at, &byte) in pattern.iter().enumerate() {
            states[at + 1] |= states[at] && byte == b'*';
        }
        states
    };
    let mut start = vec![false; pattern.len() + 1];
    start[0] = true;
    let end = text.bytes().fold(beyond_stars(start), |states, read| {
        let mut next = vec![false; states.len()];
        for (at, &byte) in pattern.iter().enumerate() {
            match byte {
                b'*' => next[at] |= states[at],
                byte => next[at + 1] |= states[at] && byte == read,
            }
        }
        beyond_stars(next)
    });
    end[pattern.len()]
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}
