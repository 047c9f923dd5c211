//! The emulator as a program.

mod serve;

use std::process::ExitCode;

const USAGE: &str = "\
Secrets Manager, Kosli and the Lambda Runtime API on one machine, to try kosli-key-rotation without a cloud.

  emulator serve [OPTIONS]      stay up, and print the lines to paste
  emulator help

`emulator serve --help` lists the options.";

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["serve", options @ ..] => serve::run(options).await,
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(())
        }
        [] => Err(USAGE.to_owned()),
        [other, ..] => Err(format!("\"{other}\" is not a command of the emulator.\n\n{USAGE}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}
