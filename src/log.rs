//! The log: one line per decision, in the format and from the level that Lambda's logging controls ask for.
//!
//! Only this crate's own lines are written below WARN, whatever the level: other crates' traces may show whole requests and
//! events, and a key or a `RotationToken` must not be in a log at any level (promise I5).

use tracing::level_filters::LevelFilter;
use tracing::{Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;

/// How much is written, and in which form.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Settings {
    /// One of Lambda's own words.
    pub level: &'static str,
    /// JSON, or text.
    pub json: bool,
}

/// What `AWS_LAMBDA_LOG_LEVEL` may say.
const LEVELS: [&str; 6] = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"];

/// The same, for error texts.
pub(crate) const LEVELS_IN_WORDS: &str = "TRACE, DEBUG, INFO, WARN, ERROR or FATAL";

/// `None`: no such level.
pub(crate) fn level(text: &str) -> Option<&'static str> {
    LEVELS.into_iter().find(|level| level.eq_ignore_ascii_case(text))
}

/// What `AWS_LAMBDA_LOG_FORMAT` says; `None`: neither.
pub(crate) fn is_json(text: &str) -> Option<bool> {
    [("Text", false), ("JSON", true)]
        .into_iter()
        .find(|(word, _)| word.eq_ignore_ascii_case(text))
        .map(|(_, json)| json)
}

/// The log of a process: `tracing::subscriber::set_global_default` takes it, and each line goes to `writer`.
///
/// `AWS_LAMBDA_LOG_LEVEL`: TRACE, DEBUG, INFO (the default), WARN, ERROR or FATAL. `AWS_LAMBDA_LOG_FORMAT`: `JSON`, or text.
/// What is neither is [`crate::config::Config`]'s to refuse, in a log that has its default.
/// Source: <https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs-log-level.html>
pub fn subscriber(
    lookup: impl Fn(&str) -> Option<String>,
    writer: impl for<'w> MakeWriter<'w> + Send + Sync + 'static,
) -> Box<dyn Subscriber + Send + Sync> {
    // Spelled out: to the parser of `LevelFilter`, nothing at all means ERROR.
    let level = match lookup("AWS_LAMBDA_LOG_LEVEL").and_then(|text| level(&text)) {
        Some("TRACE") => LevelFilter::TRACE,
        Some("DEBUG") => LevelFilter::DEBUG,
        Some("WARN") => LevelFilter::WARN,
        Some("ERROR" | "FATAL") => LevelFilter::ERROR,
        _ => LevelFilter::INFO,
    };
    let targets = Targets::new()
        .with_target(env!("CARGO_CRATE_NAME"), level)
        // It writes every error of the handler once more, in its `Debug` form; a panic is written by the panic hook.
        .with_target("lambda_runtime::layers::panic", LevelFilter::OFF)
        .with_default(level.min(LevelFilter::from_level(Level::WARN)));
    let json = lookup("AWS_LAMBDA_LOG_FORMAT").and_then(|text| is_json(&text)).unwrap_or_default();
    // Without module paths: a line is the same wherever in the source it is written.
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_target(false).with_writer(writer);
    if json {
        let lines = lines.json().flatten_event(true).with_current_span(true).with_span_list(false);
        Box::new(tracing_subscriber::registry().with(lines.with_filter(targets)))
    } else {
        Box::new(tracing_subscriber::registry().with(lines.with_filter(targets)))
    }
}
