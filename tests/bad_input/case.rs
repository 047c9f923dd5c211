//! One bad input: a world that is right but for one thing, and what has to come of it.

use std::sync::Arc;
use std::time::SystemTime;

use emulator::faults::Refusal;
use emulator::kosli::{Key, Role};
use emulator::rotation::step_event;
use emulator::runtime_api::FunctionError;
use emulator::secrets_manager::RotationRequest;
use emulator::{BoxFuture, Call, Clock, Fault, Hook, Service};
use reqwest::StatusCode;
use serde_json::{Value, json};
use testbed::executable::ADMIN;
use testbed::{ACCOUNT, ADMIN_SECRET, Executable, SECRET};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// A value in which nothing is wrong.
pub(crate) const GOOD: &str = r#"{"api_key":"<key>","org":"acme","service_account":"ci","key_id":"<id>"}"#;

/// How many functions run at once.
const SIDE_BY_SIDE: usize = 32;

/// What a secret holds in the place of a good value.
pub(crate) enum Wrong {
    Text(String),
    Binary,
    /// The secret has no version.
    Nothing,
    /// There is no secret.
    Missing,
}

/// In all texts, `<key>`, `<id>`, `<admin key>`, `<token>` and `<first version>` stand for what they name.
pub(crate) struct Case {
    name: &'static str,
    error_type: &'static str,
    words: Vec<&'static str>,
    variables: Vec<(&'static str, &'static str)>,
    value: Wrong,
    admin_secret: Wrong,
    tags: Vec<(&'static str, String)>,
    calls: Vec<(&'static str, Value)>,
    then: fn(&Executable, &RotationRequest),
    refused: Option<Denied>,
    step: &'static str,
    event: Option<(&'static str, &'static str)>,
    kosli_is_asked: bool,
}

impl Case {
    /// `createSecret` with nothing wrong yet; it has to fail with this type and with a message that has all these words in it.
    pub(crate) fn new(name: &'static str, error_type: &'static str, words: &[&'static str]) -> Self {
        Self {
            name,
            error_type,
            words: words.to_vec(),
            variables: Vec::new(),
            value: Wrong::Text(GOOD.to_owned()),
            admin_secret: Wrong::Text("<admin key>".to_owned()),
            tags: Vec::new(),
            calls: Vec::new(),
            then: |_, _| {},
            refused: None,
            step: "createSecret",
            event: None,
            kosli_is_asked: false,
        }
    }

    pub(crate) fn variable(mut self, name: &'static str, value: &'static str) -> Self {
        self.variables.push((name, value));
        self
    }

    pub(crate) fn with_admin(self) -> Self {
        self.variable("KOSLI_ADMIN_SECRET_ID", ADMIN_SECRET)
    }

    pub(crate) fn value(self, value: Wrong) -> Self {
        Self { value, ..self }
    }

    pub(crate) fn admin_secret(self, admin_secret: Wrong) -> Self {
        Self { admin_secret, ..self }
    }

    pub(crate) fn tag(mut self, name: &'static str, value: &str) -> Self {
        self.tags.push((name, value.to_owned()));
        self
    }

    /// A call to Secrets Manager, about the secret, once the rotation has begun.
    pub(crate) fn aws(mut self, operation: &'static str, input: Value) -> Self {
        self.calls.push((operation, input));
        self
    }

    /// A value for the pending version.
    pub(crate) fn pending(self, value: &str) -> Self {
        let input = json!({ "ClientRequestToken": "<token>", "SecretString": value, "VersionStages": ["AWSPENDING"] });
        self.aws("PutSecretValue", input)
    }

    /// What else happens once the rotation has begun.
    pub(crate) fn then(self, then: fn(&Executable, &RotationRequest)) -> Self {
        Self { then, ..self }
    }

    /// Secrets Manager denies the function this operation on this secret.
    pub(crate) fn refused(self, operation: &'static str, secret: &'static str) -> Self {
        Self { refused: Some(Denied { operation, secret }), ..self }
    }

    pub(crate) fn step(self, step: &'static str) -> Self {
        Self { step, ..self }
    }

    /// Another value for a field of the event.
    pub(crate) fn event(self, field: &'static str, value: &'static str) -> Self {
        Self { event: Some((field, value)), ..self }
    }

    /// Kosli is asked before the function knows what is wrong. In all other cases nothing at all is sent there.
    pub(crate) fn kosli_is_asked(self) -> Self {
        Self { kosli_is_asked: true, ..self }
    }
}

/// Checks all cases, several at a time: many of them wait for a label or a key that never comes.
pub(crate) async fn check_all(cases: impl IntoIterator<Item = Case>) {
    let side_by_side = Arc::new(Semaphore::new(SIDE_BY_SIDE));
    let mut checks = JoinSet::new();
    for case in cases {
        let side_by_side = side_by_side.clone();
        checks.spawn(async move {
            let _permit = side_by_side.acquire_owned().await;
            check(case).await;
        });
    }
    checks.join_all().await;
}

async fn check(case: Case) {
    let world = Executable::new(env!("CARGO_BIN_EXE_kosli-key-rotation"), Clock::real(), &case.variables).await;
    let good = add_good_secret(&world).await;
    let (_, admin_key) = world.add_key(ADMIN, Role::Admin);
    // Kosli lets no other key than an admin's rotate itself.
    let with_admin = case.variables.iter().any(|(name, _)| *name == "KOSLI_ADMIN_SECRET_ID");
    let (id, key) = world.add_key(ACCOUNT, if with_admin { Role::Member } else { Role::Admin });
    let mut names = vec![("<key>", key), ("<id>", id), ("<admin key>", admin_key)];
    create(&world, ADMIN_SECRET, &case.admin_secret, &[], &names).await;
    create(&world, SECRET, &case.value, &case.tags, &names).await;
    if let Some((first, ..)) = world.versions(SECRET).first() {
        names.push(("<first version>", first.clone()));
    }
    let rotation = world.begin(SECRET, json!({})).await;
    names.push(("<token>", rotation.token.clone()));
    for (operation, input) in &case.calls {
        let mut input: Value = serde_json::from_str(&filled_in(&input.to_string(), &names)).unwrap();
        input["SecretId"] = SECRET.into();
        world.aws(operation, input).await;
    }
    (case.then)(&world, &rotation);
    if let Some(denied) = case.refused {
        world.emulator.set_hook(Arc::new(denied));
    }

    let mut event = step_event(&rotation, case.step);
    if let Some((field, value)) = case.event {
        event[field] = filled_in(value, &names).into();
    }
    let before = (lives(&world.keys()), world.versions(SECRET), world.versions(ADMIN_SECRET));
    let error = world.invoke(&event).await.expect_err(case.name);
    let words: Vec<String> = case.words.iter().map(|word| filled_in(word, &names)).collect();
    assert_says(&error, case.error_type, &words, &format!("{} ({})", case.name, case.step));
    let after = (lives(&world.keys()), world.versions(SECRET), world.versions(ADMIN_SECRET));
    assert!(before == after, "{}: something was changed", case.name);
    let sent: Vec<Call> = world.calls().into_iter().filter(|call| call.service == Service::Kosli).collect();
    // createSecret may look in the list, so as to say when the current key dies of a rotation that was begun before: it sees nothing else.
    let looks = |call: &&Call| case.step == "createSecret" && call.operation == "list";
    let asked = sent.iter().any(|call| case.kosli_is_asked || !looks(&call));
    assert_eq!(asked, case.kosli_is_asked, "{}: sent to Kosli: {sent:?}", case.name);

    let process = world.process.pid();
    let answer = world.invoke(&good).await.unwrap();
    assert_eq!((&answer["outcome"], world.process.pid()), (&json!("tested"), process), "{}", case.name);
    world.end().await;
}

/// Checks what the function says to events that are none, all of them to one process.
pub(crate) async fn check_events(events: &[(Value, Vec<&str>)]) {
    let world = Executable::new(env!("CARGO_BIN_EXE_kosli-key-rotation"), Clock::real(), &[]).await;
    let good = add_good_secret(&world).await;
    let mut process = None;
    for (event, words) in events {
        let error = world.invoke(event).await.expect_err(&event.to_string());
        assert_says(&error, "InvalidEvent", words, &event.to_string());
        assert_eq!(*process.get_or_insert(world.process.pid()), world.process.pid());
        assert_eq!(world.calls(), [], "{event}");
    }
    assert_eq!(world.invoke(&good).await.unwrap()["outcome"], "tested");
    assert_eq!(process, Some(world.process.pid()));
    world.end().await;
}

/// Checks that a function with such a variable says so to every invocation, and touches nothing.
pub(crate) async fn check_variable(variable: &'static str, value: &'static str, accepts: &'static str) {
    let world = Executable::new(env!("CARGO_BIN_EXE_kosli-key-rotation"), Clock::real(), &[(variable, value)]).await;
    let good = add_good_secret(&world).await;
    let mut process = None;
    for event in [&good, &json!("not even an event"), &good] {
        let error = world.invoke(event).await.expect_err(value);
        assert_says(&error, "InvalidConfiguration", &[variable, accepts], value);
        assert_eq!(*process.get_or_insert(world.process.pid()), world.process.pid());
    }
    assert_eq!(world.calls(), []);
    world.end().await;
}

/// Another secret, in which everything is right, and an event that succeeds whatever is wrong elsewhere.
pub(crate) async fn add_good_secret(world: &Executable) -> Value {
    let [first, second] = [0, 1].map(|_| {
        let (id, key) = world.add_key("good", Role::Admin);
        json!({ "api_key": key, "org": "acme", "service_account": "good", "key_id": id }).to_string()
    });
    world.create_secret("kosli/good", json!({ "SecretString": first })).await;
    let rotation = world.begin("kosli/good", json!({})).await;
    let pending = json!({ "SecretId": "kosli/good", "SecretString": second, "ClientRequestToken": rotation.token,
                          "VersionStages": ["AWSPENDING"] });
    world.aws("PutSecretValue", pending).await;
    step_event(&rotation, "testSecret")
}

pub(crate) fn assert_says(error: &FunctionError, error_type: &str, words: &[impl AsRef<str>], case: &str) {
    assert_eq!(error.error_type, error_type, "{case}: {error}");
    for word in words.iter().map(AsRef::as_ref).chain(["Nothing was changed."]) {
        assert!(error.error_message.contains(word), "{case}: no \"{word}\" in: {error}");
    }
}

async fn create(world: &Executable, name: &str, value: &Wrong, tags: &[(&str, String)], names: &[(&str, String)]) {
    let tag = |(key, value): &(&str, String)| json!({ "Key": key, "Value": filled_in(value, names) });
    let mut fields = json!({ "Tags": tags.iter().map(tag).collect::<Value>() });
    match value {
        Wrong::Text(text) => fields["SecretString"] = filled_in(text, names).into(),
        Wrong::Binary => fields["SecretBinary"] = "AP8A/w==".into(),
        Wrong::Nothing => {}
        Wrong::Missing => return,
    }
    world.create_secret(name, fields).await;
}

fn filled_in(text: &str, names: &[(&str, String)]) -> String {
    names.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
}

/// Which keys there are, and how long they live.
type Life = (String, [Option<SystemTime>; 4]);

fn lives(keys: &[Key]) -> Vec<Life> {
    let life = |key: &Key| (key.id.clone(), [key.expires_at, key.rotated_at, key.grace_ends_at, key.revoked_at]);
    keys.iter().map(life).collect()
}

/// The function's role lacks a permission.
struct Denied {
    operation: &'static str,
    secret: &'static str,
}

impl Hook for Denied {
    fn before<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Option<Fault>> {
        let denied = call.operation == self.operation && call.detail.contains(self.secret);
        let mut refusal = Refusal::new(StatusCode::BAD_REQUEST);
        refusal.code = Some("AccessDeniedException".to_owned());
        Box::pin(std::future::ready(denied.then_some(Fault::Refuse(refusal))))
    }
}
