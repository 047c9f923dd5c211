//! The emulator as a program.

mod demo_command;
mod serve;

use std::process::ExitCode;

const USAGE: &str = "\
Secrets Manager, Kosli and the Lambda Runtime API on one machine, to try kosli-key-rotation without a cloud.

  emulator demo [OPTIONS]       one rotation, told as it happens (`cargo demo`)
  emulator serve [OPTIONS]      stay up, and print the lines to paste
  emulator help

`emulator demo --help` and `emulator serve --help` list the options.";

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["demo", options @ ..] => demo_command::run(options).await,
        ["serve", options @ ..] => serve::run(options).await.map(|()| ExitCode::SUCCESS),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        [] => Err(USAGE.to_owned()),
        [other, ..] => Err(format!("\"{other}\" is not a command of the emulator.\n\n{USAGE}")),
    };
    result.unwrap_or_else(|message| {
        eprintln!("{message}");
        ExitCode::from(2)
    })
}
