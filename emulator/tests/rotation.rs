//! What Secrets Manager does after `RotateSecret`, with a function that lives in the test.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use emulator::rotation::{Event, Retries, drive, rotate};
use emulator::runtime_api::{FunctionError, Outcome};
use emulator::secrets_manager::{AWSCURRENT, AWSPENDING, RotationRequest};
use emulator::{Clock, Emulator};
use serde_json::{Value, json};
use support::{Client, aws, epoch, token};

/// A secret with one value, and a function that stores a second one and makes it current.
#[derive(Clone)]
struct World {
    emulator: Emulator,
    client: Arc<tokio::sync::Mutex<Client>>,
    /// What the function was invoked with.
    invoked: Arc<Mutex<Vec<Value>>>,
    events: Arc<Mutex<Vec<Event>>>,
    /// How many of its next invocations fail.
    failures: Arc<Mutex<usize>>,
}

impl World {
    async fn new() -> Self {
        let emulator = Emulator::new(Clock::frozen(epoch()));
        let address = emulator.listen("test", 0).await.unwrap();
        let client = Client::new(address, emulator.clock().clone());
        let world = Self {
            emulator,
            client: Arc::new(tokio::sync::Mutex::new(client)),
            invoked: Arc::default(),
            events: Arc::default(),
            failures: Arc::default(),
        };
        let secret = json!({ "Name": "s", "SecretString": "value 1", "ClientRequestToken": token(1) });
        world.aws("CreateSecret", &secret).await;
        world
    }

    async fn aws(&self, operation: &str, input: &Value) -> Value {
        let (status, body) = aws(&mut *self.client.lock().await, operation, input).await.unwrap();
        assert_eq!(status, 200, "{operation}: {body}");
        body
    }

    async fn begin(&self, options: Value) -> RotationRequest {
        let mut input = json!({
            "SecretId": "s",
            "ClientRequestToken": token(2),
            "RotationLambdaARN": "arn:aws:lambda:eu-west-1:123456789012:function:f",
        });
        input.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        self.aws("RotateSecret", &input).await;
        self.emulator.with_secrets_manager(|service| service.take_rotations().pop().unwrap())
    }

    async fn rotate(&self, rotation: &RotationRequest) -> Event {
        let retries = Retries { attempts: 3, spacing: Duration::from_secs(60) };
        rotate(&self.emulator, rotation, retries, |event| self.invoke(event), |_, event| self.observe(event)).await
    }

    fn observe(&self, event: &Event) {
        self.events.lock().unwrap().push(event.clone());
    }

    async fn invoke(&self, event: Value) -> Outcome {
        self.invoked.lock().unwrap().push(event.clone());
        let fails = {
            let mut failures = self.failures.lock().unwrap();
            *failures = failures.saturating_sub(1);
            *failures > 0
        };
        if fails {
            return Err(FunctionError { error_type: "MadeUp".into(), error_message: "as asked".into() });
        }
        let id = &event["ClientRequestToken"];
        match event["Step"].as_str().unwrap() {
            "createSecret" => {
                let input = json!({
                    "SecretId": event["SecretId"],
                    "ClientRequestToken": id,
                    "SecretString": "value 2",
                    "VersionStages": [AWSPENDING],
                });
                self.aws("PutSecretValue", &input).await;
            }
            "finishSecret" => {
                let input = json!({
                    "SecretId": event["SecretId"],
                    "VersionStage": AWSCURRENT,
                    "MoveToVersionId": id,
                    "RemoveFromVersionId": token(1),
                });
                self.aws("UpdateSecretVersionStage", &input).await;
            }
            _ => {}
        }
        Ok(Value::Null)
    }

    /// Waits until this is the last that has happened.
    async fn ended(&self, end: &Event) {
        for _ in 0..1000 {
            if self.events.lock().unwrap().last() == Some(end) {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("no {end:?}, but {:?}", self.events.lock().unwrap());
    }

    fn steps(&self) -> Vec<String> {
        self.invoked.lock().unwrap().iter().map(|event| event["Step"].as_str().unwrap().to_owned()).collect()
    }

    /// The id of the version with this label.
    fn labelled(&self, label: &str) -> Option<String> {
        self.emulator.with_secrets_manager(|service| {
            service.secret("s").unwrap().versions.labelled(label).map(|version| version.id.clone())
        })
    }
}

const STEPS: [&str; 4] = ["createSecret", "setSecret", "testSecret", "finishSecret"];

/// AWS user guide, "Lambda function invocation parameters" and the four steps in their order.
#[tokio::test]
async fn a_rotation_is_four_invocations() {
    let world = World::new().await;
    let rotation = world.begin(json!({})).await;
    assert_eq!(world.rotate(&rotation).await, Event::Succeeded);
    assert_eq!(world.steps(), STEPS);
    let event = world.invoked.lock().unwrap()[3].clone();
    assert_eq!(event.as_object().unwrap().len(), 4);
    assert_eq!((&event["SecretId"], &event["ClientRequestToken"]), (&json!(rotation.arn), &json!(token(2))));
    assert_eq!(event["RotationToken"], rotation.rotation_token);
    assert_eq!((world.labelled(AWSCURRENT), world.labelled(AWSPENDING)), (Some(token(2)), None));
    let events = world.events.lock().unwrap();
    assert_eq!(events.len(), 1 + 2 * 4 + 1);
    assert_eq!(
        (&events[0], &events[1], &events[2]),
        (
            &Event::AttemptBegan(1),
            &Event::StepBegan("createSecret"),
            &Event::StepSucceeded("createSecret", Value::Null)
        )
    );
}

/// "If any rotation step fails, Secrets Manager retries the entire rotation process": from `createSecret`, with the same
/// token.
#[tokio::test]
async fn a_failed_step_begins_the_process_again() {
    let world = World::new().await;
    *world.failures.lock().unwrap() = 3;
    let rotation = world.begin(json!({})).await;
    assert_eq!(world.rotate(&rotation).await, Event::Succeeded);
    assert_eq!(
        world.steps(),
        ["createSecret", "createSecret", "createSecret", "setSecret", "testSecret", "finishSecret"]
    );
    assert!(world.invoked.lock().unwrap().iter().all(|event| event["ClientRequestToken"] == token(2)));
    assert_eq!(world.emulator.clock().now(), epoch() + Duration::from_secs(2 * 60));
}

#[tokio::test]
async fn retries_end_and_leave_the_pending_version() {
    let world = World::new().await;
    *world.failures.lock().unwrap() = 100;
    let rotation = world.begin(json!({})).await;
    assert_eq!(world.rotate(&rotation).await, Event::GivenUp);
    assert_eq!(world.steps(), ["createSecret"; 3]);
    assert_eq!((world.labelled(AWSCURRENT), world.labelled(AWSPENDING)), (Some(token(1)), Some(token(2))));
}

/// API reference, `RotateImmediately`: "Secrets Manager tests the rotation configuration by running the testSecret step".
#[tokio::test]
async fn a_rotation_for_later_is_only_tested() {
    let world = World::new().await;
    let rotation = world.begin(json!({ "RotateImmediately": false })).await;
    assert_eq!(world.labelled(AWSPENDING), Some(token(2)));
    assert_eq!(world.rotate(&rotation).await, Event::Succeeded);
    assert_eq!(world.steps(), ["testSecret"]);
    assert_eq!((world.labelled(AWSCURRENT), world.labelled(AWSPENDING)), (Some(token(1)), None));
}

/// A person stores a value while the rotation waits for its next attempt: AWS abandons it (`RotationAbandoned`).
#[tokio::test]
async fn a_value_stored_by_hand_ends_the_rotation() {
    let world = World::new().await;
    *world.failures.lock().unwrap() = 2;
    let rotation = world.begin(json!({})).await;
    let by_hand = async {
        while !world.events.lock().unwrap().iter().any(|event| matches!(event, Event::StepFailed(..))) {
            tokio::task::yield_now().await;
        }
        let input = json!({ "SecretId": "s", "SecretString": "by hand", "ClientRequestToken": token(9) });
        world.aws("PutSecretValue", &input).await;
    };
    let (end, ()) = tokio::join!(world.rotate(&rotation), by_hand);
    assert_eq!(end, Event::Abandoned);
    assert_eq!(world.steps(), ["createSecret"]);
    assert_eq!((world.labelled(AWSCURRENT), world.labelled(AWSPENDING)), (Some(token(9)), None));
}

/// All steps say yes, and nothing is current that was not before.
#[tokio::test]
async fn a_rotation_that_moves_no_label_has_failed() {
    let world = World::new().await;
    let rotation = world.begin(json!({})).await;
    let retries = Retries { attempts: 2, ..Retries::default() };
    let end = rotate(&world.emulator, &rotation, retries, async |_| Ok(Value::Null), |_, _| {}).await;
    assert_eq!(end, Event::GivenUp);
}

/// In the background every `RotateSecret` is driven, a reattempt included.
#[tokio::test]
async fn rotations_are_driven_as_they_begin() {
    let world = World::new().await;
    *world.failures.lock().unwrap() = 2;
    let (invoking, observing) = (world.clone(), world.clone());
    let invoke = move |event| {
        let world = invoking.clone();
        async move { world.invoke(event).await }
    };
    let retries = Retries { attempts: 1, ..Retries::default() };
    tokio::spawn(drive(world.emulator.clone(), retries, invoke, move |_: &RotationRequest, event: &Event| {
        observing.observe(event);
    }));
    let function = "arn:aws:lambda:eu-west-1:123456789012:function:f";
    let input = json!({ "SecretId": "s", "ClientRequestToken": token(2), "RotationLambdaARN": function });
    world.aws("RotateSecret", &input).await;
    world.ended(&Event::GivenUp).await;

    let input = json!({ "SecretId": "s", "ClientRequestToken": token(3) });
    let (status, body) = aws(&mut *world.client.lock().await, "RotateSecret", &input).await.unwrap();
    assert_eq!((status, body["__type"].as_str()), (400, Some("InvalidRequestException")));
    world.ended(&Event::Succeeded).await;
    assert_eq!(world.labelled(AWSCURRENT), Some(token(2)));
}
