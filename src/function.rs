//! What an invocation runs with: plain data.

use std::sync::Arc;
use std::time::SystemTime;

use crate::clock::Clock;
use crate::config::Config;
use crate::kosli::Kosli;
use crate::metrics::Metrics;
use crate::secrets_manager::SecretsManager;

/// The function: its configuration and its clients. It keeps nothing else between invocations.
pub struct Function {
    /// What the environment says.
    pub config: Config,
    /// Secrets Manager.
    pub secrets_manager: SecretsManager,
    /// Kosli.
    pub kosli: Kosli,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The metrics.
    pub metrics: Metrics,
}

/// What Lambda says of an invocation.
#[derive(Clone, Copy, Debug)]
pub struct LambdaContext<'a> {
    /// Its id: on every line of the log.
    pub request_id: &'a str,
    /// When Lambda ends it.
    pub deadline: SystemTime,
    /// The ARN by which the function was invoked: with it, it finds the secrets that it rotates.
    pub function_arn: &'a str,
}
