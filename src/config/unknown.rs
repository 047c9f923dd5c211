//! Names under our prefix that mean nothing.

/// What the function knows, and what Kosli's command line takes under the same prefix: a person may share one set of variables
/// between both.
const KNOWN: [&str; 15] = [
    "KOSLI_ADMIN_SECRET_ID",
    "KOSLI_GRACE_PERIOD_HOURS",
    "KOSLI_HOST",
    "KOSLI_KEY_TTL_DAYS",
    "KOSLI_REVOKE_OLD_KEY",
    "KOSLI_SERVICE_ACCOUNTS",
    // The command line's.
    "KOSLI_API_TOKEN",
    "KOSLI_CONFIG_FILE",
    "KOSLI_DEBUG",
    "KOSLI_DRY_RUN",
    "KOSLI_ENVIRONMENT",
    "KOSLI_FLOW",
    "KOSLI_MAX_API_RETRIES",
    "KOSLI_ORG",
    "KOSLI_TRAIL",
];

/// The names that look like a setting of this function and are none: they have no effect, and a person believes in them.
pub fn unknown_variables(names: impl IntoIterator<Item = String>) -> Vec<String> {
    let prefixed = |name: &str| name.get(..6).is_some_and(|prefix| prefix.eq_ignore_ascii_case("KOSLI_"));
    let mut unknown: Vec<String> = names
        .into_iter()
        .filter(|name| prefixed(name) && !KNOWN.contains(&name.as_str()))
        .map(|name| shown(&name))
        .collect();
    unknown.sort();
    unknown
}

/// The tags that the function knows.
const KNOWN_TAGS: [&str; 6] = [
    "kosli:grace-period-hours",
    "kosli:key-id",
    "kosli:key-ttl-days",
    "kosli:org",
    "kosli:revoke-old-key",
    "kosli:service-account",
];

/// The same for the tags of a secret.
pub fn unknown_tags<'a>(names: impl IntoIterator<Item = &'a String>) -> Vec<String> {
    let prefixed = |name: &str| name.get(..6).is_some_and(|prefix| prefix.eq_ignore_ascii_case("kosli:"));
    let unknown = names.into_iter().filter(|name| prefixed(name) && !KNOWN_TAGS.contains(&name.as_str()));
    unknown.map(|name| shown(name)).collect()
}

/// The longest name that is shown. The longest that the function knows has 24 characters, so a misspelled one has no more than this.
const LONGEST_SHOWN: usize = 32;

/// A name that a person chose, fit for a log. One that may be a key, which was pasted where a name belongs, is left out behind the
/// prefix: no setting has a digit in its name, and none is that long.
fn shown(name: &str) -> String {
    let (prefix, rest) = name.split_at(6);
    if name.chars().count() > LONGEST_SHOWN || rest.chars().any(|c| c.is_ascii_digit()) {
        return format!("{prefix}[left out]");
    }
    name.chars().flat_map(char::escape_default).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_under_the_prefix_that_nobody_knows_is_told() {
        let names = [
            "KOSLI_GRACE_PERIOD_HOUR",
            "kosli_host",
            "KOSLI_HTTP_PROXY",
            "KOSLI_\u{7}",
            "KOSLI_HOST",
            "KOSLI_qWErTyUiOpAsDfGhJkLzXcVbNmQwErTy",
            "KOSLI_a1",
            "PATH",
            "K",
            "KOSLI",
        ];
        let unknown = unknown_variables(names.into_iter().chain(KNOWN).map(str::to_owned));
        let left_out = "KOSLI_[left out]";
        assert_eq!(
            unknown,
            ["KOSLI_GRACE_PERIOD_HOUR", "KOSLI_HTTP_PROXY", left_out, left_out, "KOSLI_\\u{7}", "kosli_host"]
        );
    }

    #[test]
    fn a_tag_under_the_prefix_that_nobody_knows_is_told() {
        let names = [
            "Kosli:Grace-Period-Hours",
            "KOSLI:org",
            "kosli:revoke_old_key",
            "kosli-org",
            "team",
            "kosli:\u{7}",
            "kosli:a1",
        ];
        let names: Vec<String> = names.into_iter().chain(KNOWN_TAGS).map(str::to_owned).collect();
        assert_eq!(
            unknown_tags(&names),
            ["Kosli:Grace-Period-Hours", "KOSLI:org", "kosli:revoke_old_key", "kosli:\\u{7}", "kosli:[left out]"]
        );
    }
}
