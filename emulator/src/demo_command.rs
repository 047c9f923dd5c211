//! `emulator demo`, which people type as `cargo demo`: builds the function and runs the demo on it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Instant;

use emulator::demo::{self, Ended, Options, USAGE};

use crate::serve::{self, Invoked};

/// The function's package and executable.
const FUNCTION: &str = "kosli-key-rotation";

/// Runs the demo. The exit code says whether the rotation succeeded and every promise held; the error is a text for the
/// person who has typed the command.
pub(crate) async fn run(arguments: &[&str]) -> Result<ExitCode, String> {
    if arguments.iter().any(|argument| ["--help", "-h"].contains(argument)) {
        println!("{USAGE}");
        return Ok(ExitCode::SUCCESS);
    }
    let options = Options::parse(arguments)?;
    let function = match &options.function {
        Some(path) if path.is_file() => path.clone(),
        Some(path) => return Err(format!("--function: there is no file {}", path.display())),
        None => function_beside(&env::current_exe().map_err(|error| error.to_string())?)?,
    };
    let ended = demo::run(&options, function.clone(), Arc::new(|line| println!("{line}"))).await?;
    println!("\n{}", verdict(&ended));
    let well = ended.well();
    if options.serve {
        println!();
        let function = ended.world.function(function);
        let invoked = Invoked::process(&ended.world.emulator, function);
        serve::stay_up(ended.world.emulator, ended.world.address, invoked).await?;
    } else {
        println!(
            "Play with it: cargo demo --serve. Break it: cargo demo --fault rotate#1=drop-after. More: cargo demo --help"
        );
    }
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn verdict(ended: &Ended) -> &'static str {
    match (ended.succeeded, ended.well()) {
        (true, true) => "The rotation succeeded and every promise held.",
        (true, false) => "The rotation succeeded, and a promise was BROKEN: this is a bug.",
        (false, _) if ended.promises.iter().all(|promise| promise.held) => {
            "The rotation did not succeed (the last error says why); every promise held."
        }
        (false, _) => "The rotation did not succeed, and a promise was BROKEN: this is a bug.",
    }
}

/// The function's executable beside this one: in the same target directory, of the same profile. Under cargo it is built.
fn function_beside(this: &Path) -> Result<PathBuf, String> {
    let function = this.with_file_name(FUNCTION);
    if let Some(cargo) = env::var_os("CARGO") {
        build(Path::new(&cargo), this)?;
    }
    if function.is_file() {
        return Ok(function);
    }
    Err(format!("there is no {}: run `cargo demo`, which builds it, or name it with --function", function.display()))
}

fn build(cargo: &Path, this: &Path) -> Result<(), String> {
    let profile_directory = this.parent().unwrap_or(Path::new(""));
    let profile = match profile_directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    println!("Building the function (the first time takes a minute or two) ...");
    let began = Instant::now();
    let mut command = Command::new(cargo);
    command.args(["build", "--package", FUNCTION, "--bin", FUNCTION, "--profile", profile]);
    if let Some(target) = profile_directory.parent() {
        command.arg("--target-dir").arg(target);
    }
    // What cargo has told this process about its own package would look to build scripts like a changed environment, and
    // make them build their crates anew.
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            command.env_remove(name);
        }
    }
    let status = command.status().map_err(|error| format!("cannot run {}: {error}", cargo.display()))?;
    if !status.success() {
        return Err("the function could not be built".to_owned());
    }
    println!("Built in {:.1} s.\n", began.elapsed().as_secs_f64());
    Ok(())
}
