//! The search for key values finds them, however they are written; and a panic does not show what the function was told.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use std::fmt::Write;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use emulator::process::FunctionProcess;
use emulator::runtime_api::Function;
use emulator::{Clock, Emulator};
use kosli_key_rotation::log;
use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use serde_json::{Value, json};
use testbed::Canaries;

const KEY: &str = "made-up-key-Zm9vYmFy/+~w8K1oQ2xEw5R7tYu";

fn found(text: &str) -> Option<String> {
    let mut canaries = Canaries::default();
    canaries.add([KEY]);
    canaries.find(text.as_bytes())
}

/// Every piece of twelve characters.
fn pieces() -> impl Iterator<Item = &'static str> {
    (0..=KEY.len() - 12).map(|start| &KEY[start..start + 12])
}

fn escaped(text: &str, escape: impl Fn(u8) -> String) -> String {
    text.bytes().map(escape).collect()
}

#[test]
fn every_piece_is_found_however_it_is_written() {
    for piece in pieces() {
        let numbers = format!("{:?}", piece.as_bytes());
        for (written, encoding) in [
            (piece.to_owned(), "plain"),
            (escaped(piece, |byte| format!("{byte:02x}")), "in hexadecimal"),
            (escaped(piece, |byte| format!("{byte:02X}")), "in hexadecimal"),
            (escaped(piece, |byte| format!("%{byte:02x}")), "escaped"),
            (escaped(piece, |byte| format!("%{byte:02X}")), "escaped"),
            (escaped(piece, |byte| format!("\\u{byte:04x}")), "escaped"),
            (escaped(piece, |byte| format!("\\u{byte:04X}")), "escaped"),
            (escaped(piece, |byte| format!("\\\\u{byte:04x}")), "escaped"),
            (escaped(piece, |byte| format!("\\u{{{byte:x}}}")), "escaped"),
            (escaped(piece, |byte| format!("\\x{byte:02x}")), "escaped"),
            // What a proxy escapes, and the rest as it is.
            (piece.replace('/', "%2F").replace('+', "%2b").replace('-', "\\u002d"), "a canary"),
            (numbers.replace(' ', ""), "as a list of numbers"),
            (numbers, "as a list of numbers"),
        ] {
            let text = format!("a line\n{{\"message\":\"it is {written}.\"}}\nanother line");
            let found = found(&text).unwrap_or_else(|| panic!("not found: {text}"));
            assert!(found.contains(encoding) && found.contains("it is") && !found.contains("another"), "{found}");
        }
    }
}

/// Whatever stands before it, and in both alphabets.
#[test]
fn every_piece_is_found_in_base64() {
    for piece in pieces() {
        for before in ["", "a", "ab", "abc", "Basic user:"] {
            let bytes = format!("{before}{piece} and more");
            let encoded = STANDARD.encode(bytes);
            for written in [encoded.clone(), encoded.replace('+', "-").replace('/', "_")] {
                let found =
                    found(&format!("Authorization: {written}")).unwrap_or_else(|| panic!("not found: {before}{piece}"));
                assert!(found.contains("Base64"), "{found}");
            }
        }
    }
}

#[test]
fn what_is_no_piece_is_not_found() {
    let reversed: String = KEY.chars().rev().collect();
    for text in [
        "",
        "an ordinary line, with 17 % and \\u0041 and [1, 2, 3]",
        "7980eb22-1fe1-4172-ae30-97d5ac0b 2026-11-23T16:00:00Z",
        &KEY[..11],
        &KEY[KEY.len() - 11..],
        &KEY.to_lowercase()[12..],
        &reversed,
    ] {
        assert_eq!(found(text), None);
    }
    let mut apart = String::new();
    for character in KEY.chars() {
        write!(apart, "{character} ").unwrap();
    }
    assert_eq!(found(&apart), None);
}

/// Not a test: what the next one runs, in a process of its own. The runtime as the executable has it, and a handler that panics.
#[tokio::test]
async fn act_as_a_function_that_panics() {
    if std::env::var_os("AWS_LAMBDA_RUNTIME_API").is_none() {
        return;
    }
    let trace = |name: &str| (name == "AWS_LAMBDA_LOG_LEVEL").then(|| "TRACE".to_owned());
    tracing::subscriber::set_global_default(log::subscriber(trace, std::io::stdout)).unwrap();
    let handler = service_fn(async |event: LambdaEvent<Value>| -> Result<Value, Diagnostic> {
        assert!(event.payload["Step"] != "createSecret", "a panic that was made up");
        Ok(Value::Null)
    });
    lambda_runtime::run(handler).await.unwrap();
}

/// A panic in the handler is an error of the invocation. Neither it nor its backtrace shows the event, in which Secrets Manager
/// sends the `RotationToken`.
#[tokio::test]
async fn a_panic_shows_nothing_of_the_event() {
    let emulator = Emulator::new(Clock::real());
    let mut function = Function::new(std::env::current_exe().unwrap());
    function.arguments = ["--exact", "act_as_a_function_that_panics", "--nocapture"].map(str::to_owned).into();
    function.environment = [("RUST_BACKTRACE", "full"), ("RUST_LIB_BACKTRACE", "full"), ("RUST_LOG", "trace")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    function.timeout = Duration::from_secs(20);
    let process = FunctionProcess::new(&emulator, "function", function);
    let event =
        json!({ "Step": "createSecret", "SecretId": "s", "ClientRequestToken": "0".repeat(32), "RotationToken": KEY });
    let error = process.invoke(&event).await.expect_err("it panics");
    process.stop().await;
    let written = process.output().join("\n");
    assert!(written.contains("a panic that was made up") && written.contains("stack backtrace"), "{written}");
    assert_eq!(found(&format!("{error} {error:?}\n{written}")), None);
}
