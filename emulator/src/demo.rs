//! `cargo demo`: one rotation by the function's real executable, told as it happens to somebody who has never seen one.
//!
//! The demo ends with the function's own report on the secret (`checkSecret`), and with the promises, checked: at every instant
//! the key under `AWSCURRENT` works, nothing is minted that is not stored, no key is left over, nobody else's key is touched,
//! and no key's value is shown.
//!
//! - `world`: the accounts, keys and secrets that it happens to
//! - `narration`: what happens, in words
//! - `promises`: what was promised, and what was seen

mod narration;
mod promises;
mod world;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use self::narration::Narrator;
pub use self::promises::Promise;
pub use self::world::World;
use crate::clock::Clock;
use crate::fault_plan::FaultPlan;
use crate::faults::Rule;
use crate::process::FunctionProcess;
use crate::rotation::{self, Event, Retries};
use crate::runtime_api::{OnLine, Outcome};

/// What `emulator demo --help` prints.
pub const USAGE: &str = "\
cargo demo [--shape SHAPE] [--self-rotation] [--revoke WHEN] [--fault FAULT]... [--serve] [--function PATH]

  --shape SHAPE       what the secret holds: api-key (JSON with api_key, the default), environment (JSON with
                      KOSLI_API_TOKEN) or plain (the key alone; tags say whose it is)
  --self-rotation     the key rotates itself, without an admin key
  --revoke WHEN       what becomes of the old key: after-grace-period (the default) or immediately
  --fault FAULT       what goes wrong, such as rotate#1=drop-after (Kosli mints a key, and the answer is lost),
                      rotate#1=kill-after (and the function is killed) or PutSecretValue#1=error-before; may be repeated
  --serve             stay up afterwards, and print the lines to paste
  --function PATH     the function's executable (default: build it)

It exits with 0 if the rotation succeeded and every promise held.";

/// How the demo goes.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What the secret holds.
    pub shape: Shape,
    /// Who may rotate the key.
    pub rotated_by: RotatedBy,
    /// What becomes of the old key.
    pub revoke_old_key: RevokeOldKey,
    /// What goes wrong.
    pub faults: Vec<Rule>,
    /// The function's executable; `None`: whoever runs the demo knows.
    pub function: Option<PathBuf>,
    /// Whether to stay up afterwards; left to whoever runs the demo.
    pub serve: bool,
}

/// The three shapes of a secret.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// JSON with `api_key`.
    #[default]
    ApiKey,
    /// JSON with `KOSLI_API_TOKEN`.
    Environment,
    /// The key's value alone.
    Plain,
}

/// Whose key makes the calls that change keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RotatedBy {
    /// A key of an account with the role Admin, in a secret of its own.
    #[default]
    AdminKey,
    /// The secret's own key.
    ItsOwnKey,
}

/// `KOSLI_REVOKE_OLD_KEY`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RevokeOldKey {
    /// Kosli ends it.
    #[default]
    AfterGracePeriod,
    /// `finishSecret` ends it.
    Immediately,
}

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
    // The narrator holds the emulator and the process, and the emulator the narrator: somebody has to let go.
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

impl Options {
    /// Reads the command line.
    ///
    /// # Errors
    /// A text for the person who has typed it.
    pub fn parse(arguments: &[&str]) -> Result<Self, String> {
        let mut options = Self::default();
        let mut arguments = arguments.iter();
        while let Some(&name) = arguments.next() {
            match name {
                "--self-rotation" => options.rotated_by = RotatedBy::ItsOwnKey,
                "--serve" => options.serve = true,
                "--shape" | "--revoke" | "--fault" | "--function" => {
                    let value = *arguments.next().ok_or_else(|| format!("{name} needs a value.\n\n{USAGE}"))?;
                    options.set(name, value)?;
                }
                _ => return Err(format!("\"{name}\" is not an option of the demo.\n\n{USAGE}")),
            }
        }
        Ok(options)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match (name, value) {
            ("--shape", "api-key") => self.shape = Shape::ApiKey,
            ("--shape", "environment") => self.shape = Shape::Environment,
            ("--shape", "plain") => self.shape = Shape::Plain,
            ("--shape", _) => return Err(format!("--shape takes api-key, environment or plain, not \"{value}\"")),
            ("--revoke", "after-grace-period") => self.revoke_old_key = RevokeOldKey::AfterGracePeriod,
            ("--revoke", "immediately") => self.revoke_old_key = RevokeOldKey::Immediately,
            ("--revoke", _) => {
                return Err(format!("--revoke takes after-grace-period or immediately, not \"{value}\""));
            }
            ("--function", _) => self.function = Some(value.into()),
            _ => self.faults.push(value.parse().map_err(|error| format!("--fault: {error}"))?),
        }
        Ok(())
    }
}
