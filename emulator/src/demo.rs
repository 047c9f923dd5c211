//! `cargo demo`: one rotation by the function's real executable, told as it happens to a person who has never seen one.
//!
//! The demo ends with the function's own report on the secret (`checkSecret`), and with the promises, checked: at every instant the
//! key under `AWSCURRENT` works, nothing is minted that is not stored, no key is left over, no other key is touched, and no key's
//! value is shown.
//!
//! - `options`: what a person may ask for
//! - `world`: the accounts, keys and secrets that it happens to
//! - `promises`: what was promised, and what was seen
//! - `words`: steps, faults, answers and keys in words
//! - `narration`: what happens, in words

mod narration;
mod options;
mod promises;
mod words;
mod world;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use self::narration::Narrator;
pub use self::options::{Options, RevokeOldKey, RotatedBy, Shape, USAGE};
pub use self::promises::Promise;
pub use self::world::World;
use crate::clock::Clock;
use crate::fault_plan::FaultPlan;
use crate::process::FunctionProcess;
use crate::rotation::{self, Event, Retries};
use crate::runtime_api::{OnLine, Outcome};

/// How it went.
pub struct Ended {
    /// Whether all four steps succeeded in the end.
    pub succeeded: bool,
    /// What `checkSecret` has answered afterwards: a report, healthy or not.
    pub report: Outcome,
    /// What was promised, and whether it held.
    pub promises: Vec<Promise>,
    /// Everything as the rotation has left it.
    pub world: World,
}

impl Ended {
    /// Whether the rotation succeeded and every promise held.
    pub fn well(&self) -> bool {
        self.succeeded && self.promises.iter().all(|promise| promise.held)
    }
}

/// Secrets Manager tries again at once: the demo's clock is moved instead, see [`Narrator`].
const RETRIES: Retries = Retries { attempts: 5, spacing: Duration::from_millis(100) };

/// What the calls of `checkSecret` are tagged with.
const CHECK: &str = "check";

/// Rotates one key with the executable at `function`, and tells `out` line by line.
///
/// # Errors
/// A text for the person who has started it: there are no sockets to be had, for example.
pub async fn run(options: &Options, function: PathBuf, out: OnLine) -> Result<Ended, String> {
    let world = World::set_up(Clock::real(), options).await?;
    options.faults.iter().for_each(|rule| world.emulator.faults().add(rule.clone()));
    let process = FunctionProcess::new(&world.emulator, "function", world.function(function));
    let narrator = Arc::new(Narrator::new(&world, &process, out));
    narrator.introduce(options);
    world.emulator.set_hook(narrator.clone());

    let succeeded = rotate(&world, &process, &narrator).await;
    // An execution environment of its own keeps its calls apart from those of the rotation.
    let checking = FunctionProcess::new(&world.emulator, CHECK, process.function().clone());
    let report = check(&checking, &narrator).await;

    process.stop().await;
    checking.stop().await;
    // The narrator holds the emulator and the process, and the emulator the narrator: one has to let go.
    world.emulator.set_hook(Arc::new(FaultPlan::default()));
    world.emulator.faults().clear();
    let succeeded = succeeded?;
    let promises = narrator.conclude(&[process.output(), checking.output()].concat(), succeeded);
    Ok(Ended { succeeded, report, promises, world })
}

/// Asks for a rotation as a person does, and lets Secrets Manager's part happen. True if all steps succeeded in the end.
async fn rotate(world: &World, process: &FunctionProcess, narrator: &Arc<Narrator>) -> Result<bool, String> {
    let arn = process.function().arn();
    narrator.tell_rotate_secret(&arn);
    let rotation = world.begin_rotation(&arn).await?;
    narrator.tell_begin(&rotation.token);

    let invoke = async |event| process.invoke(&event).await;
    let end =
        rotation::rotate(&world.emulator, &rotation, RETRIES, invoke, |_, event| narrator.tell_event(event)).await;
    Ok(end == Event::Succeeded)
}

/// Asks the function how the secret is, as an alarm's schedule or a person does.
async fn check(process: &FunctionProcess, narrator: &Narrator) -> Outcome {
    let event = json!({ "Step": "checkSecret", "SecretId": world::SECRET });
    narrator.tell_check(&event);
    let report = process.invoke(&event).await;
    narrator.tell_report(&report);
    report
}
