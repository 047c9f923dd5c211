//! The Lambda function's executable: the only file that reads the environment.

use std::env;
use std::sync::Arc;

use aws_config::environment::{EnvironmentVariableCredentialsProvider, EnvironmentVariableRegionProvider};
use aws_config::meta::region::ProvideRegion;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_secretsmanager::config::SharedCredentialsProvider;
use kosli_key_rotation::clock::SystemClock;
use kosli_key_rotation::config::Config;
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
use tracing::error;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    let variable = |name: &str| env::var(name).ok();
    tracing::subscriber::set_global_default(log::subscriber(variable, std::io::stdout))?;
    // A function that cannot be set up stays up, to say so to every invocation.
    let function = &function(variable).await;
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

async fn function(variable: impl Fn(&str) -> Option<String>) -> Result<Function, RotationError> {
    let config = Config::from_vars(&variable)?;
    // A variable that is set to nothing counts as unset.
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let extra_roots = set("SSL_CERT_FILE");
    let connections = Connections::new(extra_roots.as_deref())?;
    // Lambda gives credentials and region as variables. The SDK's default chain asks for nothing else there, and is a third of
    // a start.
    let aws = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(EnvironmentVariableRegionProvider::new().region().await)
        .credentials_provider(SharedCredentialsProvider::new(EnvironmentVariableCredentialsProvider::new()))
        .use_fips(set("AWS_USE_FIPS_ENDPOINT").is_some_and(|value| value == "true"))
        .use_dual_stack(set("AWS_USE_DUALSTACK_ENDPOINT").is_some_and(|value| value == "true"))
        .http_client(connections.for_sdk())
        .build();
    Ok(Function {
        kosli: Kosli::new(connections.client(), config.host.clone()),
        secrets_manager: SecretsManager::new(
            &aws,
            set("AWS_ENDPOINT_URL_SECRETS_MANAGER").or_else(|| set("AWS_ENDPOINT_URL")),
        ),
        config,
        clock: Arc::new(SystemClock),
        metrics: Metrics {
            function_name: variable("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_default(),
            level: variable("AWS_LAMBDA_LOG_LEVEL")
                .filter(|level| !level.is_empty())
                .unwrap_or_else(|| "INFO".to_owned()),
            write: |line| println!("{line}"),
        },
    })
}

/// Lambda sends JSON. Should something else ever arrive, the handler has the words for it, and not the runtime.
fn json_or_null(mut invocation: LambdaInvocation) -> LambdaInvocation {
    if serde_json::from_slice::<Value>(&invocation.body).is_err() {
        invocation.body = "null".into();
    }
    invocation
}
