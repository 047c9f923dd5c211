//! The Runtime API, with a real process at its other end: this test program, acting as a function.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

#[path = "support/function.rs"]
mod acting;
mod support;

use std::sync::Arc;
use std::time::Duration;

use emulator::process::{FunctionProcess, invoke_external};
use emulator::runtime_api::{Function, FunctionError};
use emulator::{Call, Clock, Emulator, Hook};
use serde_json::{Value, json};
use support::Client;

/// This test program again, asked to run the one test that is not a test.
fn function() -> Function {
    let arguments = ["--exact", "act_as_function", "--nocapture"].map(str::to_owned).to_vec();
    Function { arguments, ..Function::new(std::env::current_exe().unwrap()) }
}

/// In a process that the emulator has started this is the function; otherwise it is nothing.
#[test]
fn act_as_function() {
    if std::env::var("AWS_LAMBDA_RUNTIME_API").is_ok() {
        acting::run().unwrap();
    }
}

fn asked_to(what: &str) -> Value {
    json!({ "do": what })
}

/// The process is started by its first invocation, kept over invocations, and sees what a function on Lambda sees.
#[tokio::test]
async fn one_process_serves_many_invocations() {
    let emulator = Emulator::new(Clock::real());
    let variables = vec![("KOSLI_GRACE_PERIOD_HOURS".to_owned(), "12".to_owned())];
    let process = FunctionProcess::new(&emulator, "first", Function { environment: variables, ..function() });
    assert_eq!(process.pid(), None);
    let first = process.invoke(&asked_to("answer")).await.unwrap();
    let pid = process.pid();
    let second = process.invoke(&asked_to("answer")).await.unwrap();
    assert_eq!((first["invocations"].as_u64(), second["invocations"].as_u64()), (Some(1), Some(2)));
    assert!(pid.is_some() && process.pid() == pid);
    assert_eq!(first["event"], asked_to("answer"));
    assert_eq!(first["arn"], function().arn());

    let environment = first["environment"].as_object().unwrap();
    assert_eq!(environment["KOSLI_GRACE_PERIOD_HOURS"], "12");
    assert_eq!(environment["AWS_LAMBDA_FUNCTION_NAME"], "kosli-key-rotation");
    assert_eq!(environment["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"], "128");
    let host = environment["KOSLI_HOST"].as_str().unwrap();
    assert_eq!(environment["AWS_ENDPOINT_URL_SECRETS_MANAGER"], host);
    assert!(
        host.starts_with("http://127.0.0.1:")
            && host.ends_with(environment["AWS_LAMBDA_RUNTIME_API"].as_str().unwrap())
    );
    assert!(!environment.contains_key("PATH"), "nothing of the emulator's own environment");

    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let left = first["deadline"].as_str().unwrap().parse::<u128>().unwrap() - now;
    assert!((80_000..=90_000).contains(&left), "{left} ms are left");

    process.stop().await;
    // The test harness writes a line as well.
    let output: Vec<_> = process.output().into_iter().filter(|line| !line.contains("test")).collect();
    assert_eq!(output.join(","), ",started,invocation 1,invocation 2");
}

#[tokio::test]
async fn a_functions_error_is_the_invocations_outcome() {
    let emulator = Emulator::new(Clock::real());
    let process = FunctionProcess::new(&emulator, "first", function());
    let error = process.invoke(&asked_to("fail")).await.unwrap_err();
    assert_eq!(error, FunctionError { error_type: "MadeUp".into(), error_message: "as asked".into() });
    assert_eq!(process.invoke(&asked_to("answer")).await.unwrap()["invocations"], 2, "the same process goes on");
}

#[tokio::test]
async fn a_process_that_cannot_start_says_why() {
    let emulator = Emulator::new(Clock::real());
    let environment = vec![("FAIL_AT_START".to_owned(), "1".to_owned())];
    let process = FunctionProcess::new(&emulator, "first", Function { environment, ..function() });
    for _ in 0..2 {
        let error = process.invoke(&asked_to("answer")).await.unwrap_err();
        assert_eq!(error.to_string(), "InvalidConfiguration: FAIL_AT_START is set");
    }
    let missing = FunctionProcess::new(&emulator, "second", Function::new("no/such/executable"));
    let error = missing.invoke(&asked_to("answer")).await.unwrap_err();
    assert_eq!(error.error_type, "Runtime.InvalidEntrypoint");
    assert!(error.error_message.contains("cannot run no/such/executable"), "{error}");
}

#[tokio::test]
async fn a_process_that_has_died_is_started_again() {
    let emulator = Emulator::new(Clock::real());
    let process = FunctionProcess::new(&emulator, "first", function());
    let error = process.invoke(&asked_to("exit")).await.unwrap_err();
    assert_eq!(error.error_type, "Runtime.ExitError");
    assert!(error.error_message.ends_with("Error: Runtime exited with error: exit status: 7"), "{error}");
    for _ in 0..10 {
        let answer = process.invoke(&asked_to("answer")).await.unwrap();
        assert_eq!(answer["invocations"], 1, "a process that was killed is never given another invocation");
        assert!(process.kill());
    }
    assert_eq!(process.output().iter().filter(|line| *line == "started").count(), 11);
}

#[tokio::test]
async fn an_invocation_that_takes_too_long_is_ended_with_its_process() {
    let emulator = Emulator::new(Clock::real());
    let timeout = Duration::from_millis(300);
    let process = FunctionProcess::new(&emulator, "first", Function { timeout, ..function() });
    let error = process.invoke(&asked_to("hang")).await.unwrap_err();
    assert_eq!(error.error_type, "Sandbox.Timedout");
    assert!(error.error_message.ends_with("Error: Task timed out after 0.30 seconds"), "{error}");
    assert_eq!(process.pid(), None);
    assert_eq!(process.invoke(&asked_to("answer")).await.unwrap()["invocations"], 1);
}

/// Two executions at once: their calls carry their tags, and killing one leaves the other alone.
#[tokio::test]
async fn a_fault_kills_the_process_that_called() {
    struct Killer(Vec<(&'static str, FunctionProcess)>);
    impl Hook for Killer {
        fn kill(&self, call: &Call) {
            let (_, process) = self.0.iter().find(|(tag, _)| *tag == call.tag).unwrap();
            assert!(process.kill());
        }
    }
    let emulator = Emulator::new(Clock::real());
    let first = FunctionProcess::new(&emulator, "first", function());
    let second = FunctionProcess::new(&emulator, "second", function());
    emulator.set_hook(Arc::new(Killer(vec![("first", first.clone()), ("second", second.clone())])));
    emulator.faults().add("verify#2=kill-before".parse().unwrap());

    assert_eq!(first.invoke(&asked_to("call")).await, Ok(json!(true)));
    let error = second.invoke(&asked_to("call")).await.unwrap_err();
    assert!(error.error_message.ends_with("signal: 9 (SIGKILL)"), "{error}");
    assert_eq!(first.invoke(&asked_to("answer")).await.unwrap()["invocations"], 2);
    let tags: Vec<_> = emulator.calls().into_iter().map(|call| call.tag).collect();
    assert_eq!(tags, ["first", "second"]);
}

#[tokio::test]
async fn the_process_dies_with_its_last_handle() {
    let emulator = Emulator::new(Clock::real());
    let process = FunctionProcess::new(&emulator, "first", function());
    process.invoke(&asked_to("answer")).await.unwrap();
    let running = format!("/proc/{}/exe", process.pid().unwrap());
    drop(process);
    for _ in 0..100 {
        if std::fs::read_link(&running).is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the process is still there");
}

/// A function in a debugger polls the port that `listen` answered.
#[tokio::test]
async fn a_function_may_be_started_by_somebody_else() {
    let emulator = Emulator::new(Clock::real());
    let address = emulator.listen("debugger", 0).await.unwrap();
    let mut client = Client::new(address, emulator.clock().clone());
    let function = function();
    let event = asked_to("answer");
    let (outcome, ()) = tokio::join!(invoke_external(&emulator, &function, &event), async {
        let (status, received) = client.get("/2018-06-01/runtime/invocation/next").await.unwrap();
        assert_eq!((status, received), (200, asked_to("answer")));
        let id = client.header("lambda-runtime-aws-request-id").unwrap().to_owned();
        let path = format!("/2018-06-01/runtime/invocation/{id}/response");
        assert_eq!(client.post(&path, &json!({ "done": true })).await.unwrap().0, 202);
        assert_eq!(client.post(&path, &json!({ "done": true })).await.unwrap().0, 400, "it has ended");
    });
    assert_eq!(outcome, Ok(json!({ "done": true })));

    let timeout = Duration::from_millis(50);
    let error = invoke_external(&emulator, &Function { timeout, ..function }, &event).await.unwrap_err();
    assert_eq!(error.error_type, "Sandbox.Timedout");
}
