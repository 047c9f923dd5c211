//! Names under our prefix that nobody knows.

/// What the function knows, and what Kosli's command line takes under the same prefix: whoever shares one set of variables between
/// both means nothing by that.
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

/// The names that look like a setting of this function and are none: they have no effect, and somebody believes in them.
pub fn unknown_variables(names: impl IntoIterator<Item = String>) -> Vec<String> {
    let prefixed = |name: &str| name.get(..6).is_some_and(|prefix| prefix.eq_ignore_ascii_case("KOSLI_"));
    let mut unknown: Vec<String> = names
        .into_iter()
        .filter(|name| prefixed(name) && !KNOWN.contains(&name.as_str()))
        .map(|name| name.chars().take(64).flat_map(char::escape_default).collect())
        .collect();
    unknown.sort();
    unknown
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
            "PATH",
            "K",
            "KOSLI",
        ];
        let unknown = unknown_variables(names.into_iter().chain(KNOWN).map(str::to_owned));
        assert_eq!(unknown, ["KOSLI_GRACE_PERIOD_HOUR", "KOSLI_HTTP_PROXY", "KOSLI_\\u{7}", "kosli_host"]);
    }
}
