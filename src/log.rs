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

/// The log of a process: `tracing::subscriber::set_global_default` takes it, and each line goes to `writer`.
///
/// `AWS_LAMBDA_LOG_LEVEL`: TRACE, DEBUG, INFO (the default), WARN, ERROR or FATAL. `AWS_LAMBDA_LOG_FORMAT`: `JSON`, or text.
/// Source: <https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs-log-level.html>
pub fn subscriber(
    lookup: impl Fn(&str) -> Option<String>,
    writer: impl for<'w> MakeWriter<'w> + Send + Sync + 'static,
) -> Box<dyn Subscriber + Send + Sync> {
    // Spelled out: to the parser of `LevelFilter`, nothing at all means ERROR.
    let level = match lookup("AWS_LAMBDA_LOG_LEVEL").unwrap_or_default().to_ascii_uppercase().as_str() {
        "TRACE" => LevelFilter::TRACE,
        "DEBUG" => LevelFilter::DEBUG,
        "WARN" => LevelFilter::WARN,
        "ERROR" | "FATAL" => LevelFilter::ERROR,
        _ => LevelFilter::INFO,
    };
    let targets = Targets::new()
        .with_target(env!("CARGO_CRATE_NAME"), level)
        // It writes every error of the handler once more, in its `Debug` form; a panic is written by the panic hook.
        .with_target("lambda_runtime::layers::panic", LevelFilter::OFF)
        .with_default(level.min(LevelFilter::from_level(Level::WARN)));
    let json = lookup("AWS_LAMBDA_LOG_FORMAT").is_some_and(|format| format.eq_ignore_ascii_case("json"));
    // Without module paths: a line is the same wherever in the source it is written.
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_target(false).with_writer(writer);
    if json {
        let lines = lines.json().flatten_event(true).with_current_span(true).with_span_list(false);
        Box::new(tracing_subscriber::registry().with(lines.with_filter(targets)))
    } else {
        Box::new(tracing_subscriber::registry().with(lines.with_filter(targets)))
    }
}
