//! The sockets and clients, made once for thousands of cases.

use emulator::Emulator;
use kosli_key_rotation::config::Config;
use kosli_key_rotation::http_client::Connections;
use kosli_key_rotation::kosli::Kosli;
use kosli_key_rotation::secrets_manager::SecretsManager;

use crate::clock::start;
use crate::emitted::{keep_what_is_emitted, search_what_was_emitted};
use crate::setting::Setting;
use crate::values::set_by_lambda;
use crate::world::World;

/// One execution environment of the function: clients of its own, on a port of its own, so that its calls carry its tag.
#[derive(Clone)]
pub struct Execution {
    /// What its calls are tagged with.
    pub tag: String,
    pub(crate) secrets_manager: SecretsManager,
    pub(crate) kosli: Kosli,
    endpoint: String,
}

impl Execution {
    fn start(tag: String, endpoint: String) -> Self {
        let config = Config::from_vars(|name| match name {
            "AWS_ENDPOINT_URL_SECRETS_MANAGER" | "KOSLI_HOST" => Some(endpoint.clone()),
            name => set_by_lambda(name),
        })
        .unwrap();
        let connections = Connections::new(&config.network).unwrap();
        let secrets_manager = SecretsManager::new(&config.aws, connections.for_sdk());
        let kosli = Kosli::new(connections.client(), config.host);
        Self { tag, secrets_manager, kosli, endpoint }
    }

    /// One that has made no call yet, with nothing in any cache.
    pub(crate) fn restart(&mut self) {
        *self = Self::start(self.tag.clone(), self.endpoint.clone());
    }
}

/// The sockets and clients, made once for thousands of cases.
pub struct Testbed {
    /// Both services.
    pub emulator: Emulator,
    pub(crate) executions: Vec<Execution>,
}

impl Testbed {
    /// A testbed with so many execution environments.
    pub async fn new(executions: usize) -> Self {
        Self::with_clock(executions, emulator::Clock::frozen(start())).await
    }

    /// The same, on another clock.
    pub async fn with_clock(executions: usize, clock: emulator::Clock) -> Self {
        keep_what_is_emitted();
        let emulator = Emulator::new(clock);
        let mut testbed = Self { emulator, executions: Vec::new() };
        for number in 0..executions {
            let tag = char::from(b'a' + u8::try_from(number).unwrap()).to_string();
            let address = testbed.emulator.listen(&tag, 0).await.unwrap();
            testbed.executions.push(Execution::start(tag, format!("http://{address}")));
        }
        testbed
    }

    /// Runs a scenario on a testbed of its own, in one thread.
    pub fn run(scenario: impl AsyncFnOnce(&Self)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { scenario(&Self::new(2).await).await });
    }

    /// Begins a new case.
    pub fn world(&self, setting: &Setting) -> World {
        World::new(self, setting)
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        search_what_was_emitted(&self.emulator);
    }
}
