//! The Lambda function's executable: the only file that reads the environment.

use std::env;
use std::sync::Arc;

use kosli_key_rotation::clock::SystemClock;
use kosli_key_rotation::config::{Config, unknown_variables};
use kosli_key_rotation::error::RotationError;
use kosli_key_rotation::function::{Function, LambdaContext};
use kosli_key_rotation::http_client::Connections;
use kosli_key_rotation::kosli::Kosli;
use kosli_key_rotation::log;
use kosli_key_rotation::metrics::Metrics;
use kosli_key_rotation::secrets_manager::SecretsManager;
use lambda_runtime::tower::util::MapRequestLayer;
use lambda_runtime::{Diagnostic, LambdaEvent, LambdaInvocation, Runtime, service_fn};
use serde_json::Value;
use tracing::{error, warn};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    // What is not Unicode is no value of any variable: shown as such, it is refused as any other malformed one is.
    let variable = |name: &str| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    tracing::subscriber::set_global_default(log::subscriber(variable, std::io::stdout))?;
    // A function that cannot be set up stays up, to say so to every invocation.
    let function = &function(variable);
    let handler = service_fn(async |event: LambdaEvent<Value>| -> Result<Value, Diagnostic> {
        let LambdaEvent { payload, context } = event;
        let function = function.as_ref().map_err(|error| {
            error!(request_id = context.request_id, error_type = error.kind().word(), "{error}");
            error.clone()
        })?;
        let context = LambdaContext {
            request_id: &context.request_id,
            deadline: context.deadline(),
            function_arn: &context.invoked_function_arn,
        };
        Ok(function.handle(&payload, context).await?)
    });
    Runtime::new(handler).layer(MapRequestLayer::new(json_or_null)).run().await
}

fn function(variable: impl Fn(&str) -> Option<String>) -> Result<Function, RotationError> {
    let mut config = Config::from_vars(&variable)?;
    config.unknown_variables = unknown_variables(env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()));
    for name in &config.unknown_variables {
        warn!("The environment variable {name} is unknown to this function and has no effect: is it spelled wrong?");
    }
    let connections = Connections::new(&config.network)?;
    Ok(Function {
        kosli: Kosli::new(connections.client(), config.host.clone()),
        secrets_manager: SecretsManager::new(&config.aws, connections.for_sdk()),
        clock: Arc::new(SystemClock),
        metrics: Metrics {
            function_name: variable("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_default(),
            level: config.log.level.to_owned(),
            write: |line| println!("{line}"),
        },
        config,
    })
}

/// Lambda sends JSON. Should something else ever arrive, the handler has the words for it, and not the runtime.
fn json_or_null(mut invocation: LambdaInvocation) -> LambdaInvocation {
    if serde_json::from_slice::<Value>(&invocation.body).is_err() {
        invocation.body = "null".into();
    }
    invocation
}
