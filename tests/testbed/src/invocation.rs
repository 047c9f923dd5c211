//! The function as it is configured in a world, and how Lambda invokes it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use emulator::runtime_api::{FunctionError, Outcome};
use kosli_key_rotation::config::{Config, Network};
use kosli_key_rotation::function::{Function, LambdaContext};
use kosli_key_rotation::http_client::Connections;
use kosli_key_rotation::kosli::Kosli;
use kosli_key_rotation::metrics::Metrics;
use lambda_runtime::Diagnostic;
use serde_json::Value;

use crate::clock::EmulatorClock;
use crate::emitted::emit;
use crate::probe::MOST_CALLS;
use crate::testbed::Execution;
use crate::values::{ADMIN_SECRET, FUNCTION, set_by_lambda};
use crate::world::World;

/// Lambda's time-out of the function, as in the template.
pub const TIMEOUT: Duration = Duration::from_secs(90);

impl World {
    /// Invokes one execution environment, as Lambda does: killed at the function's time-out, or when a fault says so.
    pub async fn invoke(&self, execution: usize, event: &Value) -> Outcome {
        self.invoke_within(execution, event, TIMEOUT).await
    }

    /// Invokes a function that has another time-out, or of whose time some has passed.
    pub async fn invoke_within(&self, execution: usize, event: &Value, timeout: Duration) -> Outcome {
        let function = self.function(execution);
        let clock = self.emulator.clock();
        let deadline = clock.now() + timeout;
        let context = LambdaContext { request_id: "made-up", deadline, function_arn: FUNCTION };
        let leash = &self.probe.leashes[execution];
        leash.calls.store(0, Ordering::SeqCst);
        let died = |kind: &str, what: &str| {
            Err(FunctionError { error_type: format!("Runtime.{kind}"), error_message: what.to_owned() })
        };
        // No fault excuses these two: every call has a time-out, every retry a bound, and all of it ends before the deadline.
        let broken = |kind: &str, what: String| {
            self.probe.violations.lock().unwrap().push(format!("I7: {what}, at {event}"));
            died(kind, &what)
        };
        tokio::select! {
            biased;
            () = leash.kill.notified() => match leash.calls.load(Ordering::SeqCst) {
                0..=MOST_CALLS => died("killed", "the process was killed"),
                _ => broken("endless", format!("one invocation made {MOST_CALLS} calls, and went on")),
            },
            answer = function.handle(event, context) => {
                // What the runtime sends, and what anybody may print.
                let sent = answer.clone().map_err(Diagnostic::from);
                emit(&format!("{answer:?} {sent:?}"));
                answer.map_err(|error| FunctionError {
                    error_type: error.kind().word().to_owned(),
                    error_message: error.to_string(),
                })
            }
            () = clock.timer(timeout) => {
                broken("timeout", format!("one invocation was at work after all of its {} s", timeout.as_secs()))
            }
        }
    }

    /// The function, as it is configured in this world.
    pub fn function(&self, execution: usize) -> Function {
        let Execution { secrets_manager, kosli, .. } = &self.executions[execution];
        let setting = &self.setting;
        let config = Config::from_vars(|name| {
            if let Some((_, value)) = setting.variables.iter().find(|(variable, _)| variable == name) {
                return Some(value.clone());
            }
            match name {
                "KOSLI_ADMIN_SECRET_ID" if setting.admin => Some(ADMIN_SECRET.to_owned()),
                "KOSLI_REVOKE_OLD_KEY" if setting.revoke_immediately => Some("immediately".to_owned()),
                name => set_by_lambda(name),
            }
        });
        Function {
            config: config.unwrap(),
            secrets_manager: secrets_manager.clone(),
            kosli: kosli.clone(),
            clock: Arc::new(EmulatorClock(self.emulator.clone())),
            metrics: Metrics { function_name: "kosli-key-rotation".to_owned(), level: "INFO".to_owned(), write: emit },
        }
    }

    /// Starts every execution environment anew: clients that have made no call yet, and nothing in their caches. What a case does then
    /// depends on no case before it.
    pub fn restart(&mut self) {
        self.executions.iter_mut().for_each(Execution::restart);
    }

    /// Lets every execution call another Kosli than the emulator's.
    pub fn kosli_at(&mut self, host: &str) {
        let client = Connections::new(&Network::default()).unwrap().client();
        for execution in &mut self.executions {
            execution.kosli = Kosli::new(client.clone(), host.parse().unwrap());
        }
    }
}
