//! The emulated Kosli, held against Kosli's documents and clients as far as they say anything, and every switch for the
//! rest. A fixture named here is a file of `kosli-dev/cli`, `cmd/kosli/testdata/service-account`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use bytes::Bytes;
use emulator::clock::Clock;
use emulator::kosli::{
    CapFrom, CarriedOver, ErrorBody, ExpiredKeys, ExpiresAt, GetInGrace, InvalidRequest, Key, KeyField, KeyManagers,
    KeyValue, Kosli, LastUsedAt, ListInGrace, ListShape, MintedBy, Never, OddEntries, Operation, Quota, RateLimit,
    RightsInGrace, Role, RotateInGrace, RotateStatus, SuccessorId, Switches, Timestamps,
};
use http::{Method, Request, Response};
use serde_json::{Value, json};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// An instant in 2026, and half a second, as in the fixtures.
const START: f64 = 1_780_584_129.5;

const ACCOUNTS: &str = "/api/v2/service-accounts/acme";
const CI: &str = "/api/v2/service-accounts/acme/ci";
const KEYS: &str = "/api/v2/service-accounts/acme/ci/api-keys";
const ENVIRONMENTS: &str = "/api/v2/environments/acme";

/// Organization `acme`: a service account `ci` with one key, and `admin` with another.
struct World {
    kosli: Kosli,
    clock: Clock,
    id: String,
    key: String,
    admin: String,
}

impl World {
    fn new() -> Self {
        Self::with(Switches::default())
    }

    fn with(switches: Switches) -> Self {
        let clock = Clock::frozen(at(START));
        let mut kosli = Kosli::new(clock.clone());
        kosli.switches = switches;
        let yesterday = at(START) - DAY;
        kosli.add_account("acme", "ci", Role::Member);
        kosli.add_account("acme", "admin", Role::Admin);
        let (id, key) = kosli.add_key("acme", "ci", "reports", yesterday, Some(at(START) + 30 * DAY));
        let (_, admin) = kosli.add_key("acme", "admin", "admin", yesterday, None);
        Self { kosli, clock, id, key, admin }
    }

    /// One request with a bearer token: the status and the body.
    fn call(&mut self, method: Method, path: &str, key: &str, body: Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request::builder().method(method).uri(path).header("authorization", format!("Bearer {key}"));
        parsed(&self.kosli.handle(&request.body(Bytes::from(body)).expect("a valid request")))
    }

    fn call_as_admin(&mut self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let admin = self.admin.clone();
        self.call(method, path, &admin, body)
    }

    fn create(&mut self, body: Value) -> (u16, Value) {
        self.call_as_admin(Method::POST, KEYS, body)
    }

    fn rotate(&mut self, id: &str, body: Value) -> (u16, Value) {
        self.call_as_admin(Method::POST, &format!("{KEYS}/{id}/rotate"), body)
    }

    /// A rotation that must work: the successor's id and value.
    fn rotated(&mut self, id: &str, body: Value) -> (String, String) {
        let (status, answer) = self.rotate(id, body);
        assert_eq!(status, 201, "{answer}");
        (text(&answer["id"]), text(&answer["key"]))
    }

    fn revoke(&mut self, id: &str) -> (u16, Value) {
        self.call_as_admin(Method::DELETE, &format!("{KEYS}/{id}"), Value::Null)
    }

    fn get(&mut self, id: &str) -> (u16, Value) {
        self.call_as_admin(Method::GET, &format!("{KEYS}/{id}"), Value::Null)
    }

    fn list(&mut self) -> Value {
        let (status, list) = self.call_as_admin(Method::GET, KEYS, Value::Null);
        assert_eq!(status, 200, "{list}");
        list
    }

    /// The ids that the list shows.
    fn listed(&mut self) -> Vec<String> {
        self.list().as_array().expect("an array").iter().map(|entry| text(&entry["id"])).collect()
    }

    fn verify(&mut self, key: &str) -> u16 {
        self.call(Method::GET, ENVIRONMENTS, key, Value::Null).0
    }

    fn find(&self, value: &str) -> &Key {
        self.kosli.keys().find(|key| key.value == value).expect("a key with that value")
    }
}

fn at(seconds: f64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs_f64(seconds)
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

fn parsed(response: &Response<Bytes>) -> (u16, Value) {
    assert!(response.headers().contains_key("date"));
    (response.status().as_u16(), serde_json::from_slice(response.body()).expect("a JSON answer"))
}

fn fields(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

/// `rotated_api_key.json`; the description is handed on, and the expiry comes back as sent.
#[test]
fn a_rotation_mints_a_successor_and_gives_the_old_key_a_grace_period() {
    let mut world = World::new();
    let old = (world.id.clone(), world.key.clone());
    let expires_at = START.floor() + 90.0 * 86400.0;

    let (status, answer) = world.rotate(&old.0, json!({"grace_period_hours": 2, "expires_at": expires_at as u64}));

    assert_eq!(status, 201);
    assert_eq!(fields(&answer), ["id", "key", "description", "created_at", "expires_at", "grace_period_expires_at"]);
    assert_eq!(answer["description"], "reports");
    assert_eq!(answer["created_at"], START);
    assert_eq!(answer["expires_at"], expires_at);
    assert_eq!(answer["grace_period_expires_at"], START + 7200.0);
    let new = (text(&answer["id"]), text(&answer["key"]));
    assert_ne!(old, new);
    assert_eq!(world.find(&new.1).minted_by, MintedBy::Rotate { of: old.0.clone() });
    assert_eq!((world.verify(&old.1), world.verify(&new.1)), (200, 200));

    world.clock.advance(2 * HOUR - Duration::from_millis(1));
    assert_eq!(world.verify(&old.1), 200);
    world.clock.advance(Duration::from_millis(1));
    assert_eq!((world.verify(&old.1), world.verify(&new.1)), (401, 200));
    assert_eq!(world.listed(), [new.0]);
    assert_eq!(world.get(&old.0), (404, json!({"message": "API key not found"})));
}

/// Both fields of a rotation are optional: 24 hours of grace, and the rotated key's own expiry ("rotation on its own does not
/// extend the credential"). A key from before the cap may never expire; its successor does (Terraform provider 0.9.4).
#[test]
fn the_defaults_of_a_rotation() {
    let nulls = json!({"grace_period_hours": null, "expires_at": null});
    for body in [Value::Null, json!({}), nulls, json!({"expires_at": 0})] {
        let mut world = World::new();
        let id = world.id.clone();
        let (_, answer) = world.rotate(&id, body.clone());
        assert_eq!(answer["grace_period_expires_at"], START + 86400.0);
        assert_eq!(answer["expires_at"], START + 30.0 * 86400.0);

        let (id, _) = world.kosli.add_key("acme", "ci", "from before the cap", at(START), None);
        assert_eq!(world.rotate(&id, body).1["expires_at"], START + 365.0 * 86400.0);
    }
}

#[test]
fn a_grace_period_does_not_outlive_the_keys_own_expiry() {
    let mut world = World::new();
    let (id, key) = (world.id.clone(), world.key.clone());
    world.clock.advance(10 * DAY);
    world.rotated(&id, json!({"grace_period_hours": 720}));
    assert_eq!(world.find(&key).dies_at(), Some(at(START) + 30 * DAY));
    world.clock.advance(20 * DAY);
    assert_eq!(world.verify(&key), 401);
}

/// `created_api_key.json`, `listed_api_keys.json`, `api_key.json`: the value is shown once.
#[test]
fn a_key_is_created_listed_and_never_shown_again() {
    let mut world = World::new();
    let (status, created) = world.create(json!({"description": "by hand"}));
    assert_eq!(status, 201);
    assert_eq!(fields(&created), ["id", "key", "description", "created_at", "expires_at"]);
    let (id, key) = (text(&created["id"]), text(&created["key"]));

    assert_eq!(world.listed(), [world.id.clone(), id.clone()]);
    let entry = world.list()[1].clone();
    let expected = json!({
        "id": id,
        "description": "by hand",
        "created_at": START,
        "expires_at": START + 365.0 * 86400.0,
    });
    assert_eq!(entry, expected);
    assert_eq!(world.get(&id), (200, entry));
    assert!(!format!("{:?}", world.find(&key)).contains(&key));
}

/// The form of `7980eb22-1fe1-4172-ae30-97d5ac0b`.
#[test]
fn ids_have_the_form_of_kosli_s() {
    let world = World::new();
    let groups: Vec<usize> = world.id.split('-').map(str::len).collect();
    assert_eq!(groups, [8, 4, 4, 4, 8]);
    assert!(world.id.chars().all(|c| c == '-' || c.is_ascii_digit() || ('a'..='f').contains(&c)));
}

/// `revoke_success.json`; the provider's acceptance tests find a revoked key gone.
#[test]
fn a_revoked_key_is_dead_and_gone() {
    let mut world = World::new();
    let (id, key) = (world.id.clone(), world.key.clone());
    assert_eq!(world.revoke(&id), (200, json!("revoked")));
    assert_eq!(world.verify(&key), 401);
    assert_eq!(world.get(&id).0, 404);
    assert_eq!(world.revoke(&id), (404, json!({"message": "API key not found"})));
    assert_eq!(world.rotate(&id, json!({})).0, 404);
    assert!(world.listed().is_empty());
    assert_eq!(world.find(&key).revoked_at, Some(at(START)));
}

#[test]
fn a_key_expires_by_the_clock() {
    let mut world = World::new();
    let (id, key) = (world.id.clone(), world.key.clone());
    world.clock.advance(30 * DAY);
    assert!(!world.kosli.accepts(&key));
    assert_eq!((world.verify(&key), world.get(&id).0, world.rotate(&id, json!({})).0), (401, 404, 404));
}

#[test]
fn an_expiry_is_kept_to_the_second_and_shortened_beyond_365_days() {
    let mut world = World::new();
    let cap = START + 365.0 * 86400.0;
    for (sent, kept) in [
        (START as u64 + 1, START.floor() + 1.0),
        (1_790_000_001, 1_790_000_001.0),
        (cap as u64, cap.floor()),
        (cap as u64 + 1, cap),
        (4_102_444_800, cap),
    ] {
        let (status, answer) = world.create(json!({"description": "x", "expires_at": sent}));
        assert_eq!((status, &answer["expires_at"]), (201, &json!(kept)));
    }
}

/// The fields that a refusal names, each with the word for what is wrong.
fn invalid(answer: &Value) -> Vec<(String, String)> {
    let detail = answer["detail"].as_array().unwrap_or_else(|| panic!("no detail in {answer}"));
    let named = |error: &Value| {
        assert_eq!((&error["loc"][0], fields(error)), (&json!("body"), vec!["loc", "msg", "type"]));
        (text(&error["loc"][1]), text(&error["type"]))
    };
    detail.iter().map(named).collect()
}

#[test]
fn fields_that_are_not_valid_are_named_and_nothing_is_minted() {
    let mut world = World::new();
    let (id, key) = (world.id.clone(), world.key.clone());
    let minted = world.kosli.keys().count();
    let wrong = |field: &str, word: &str| vec![(field.to_owned(), word.to_owned())];
    for (hours, word) in [
        (json!(0), "greater_than_equal"),
        (json!(-1), "greater_than_equal"),
        (json!(721), "less_than_equal"),
        (json!(1.5), "int_type"),
        (json!("24"), "int_type"),
        (json!([]), "int_type"),
    ] {
        let (status, answer) = world.rotate(&id, json!({"grace_period_hours": hours}));
        assert_eq!((status, invalid(&answer)), (422, wrong("grace_period_hours", word)));
    }
    for (expires_at, word) in [
        (json!(START), "int_type"),
        (json!(1e300), "int_type"),
        (json!("2030-01-01"), "int_type"),
        (json!(true), "int_type"),
        (json!(4_102_444_801_u64), "less_than_equal"),
    ] {
        let (status, answer) = world.rotate(&id, json!({"expires_at": expires_at}));
        assert_eq!((status, invalid(&answer)), (422, wrong("expires_at", word)));
    }
    for (description, word) in [
        (json!(""), "string_too_short"),
        (json!("é".repeat(257)), "string_too_long"),
        (json!(7), "string_type"),
        (Value::Null, "string_type"),
    ] {
        let (status, answer) = world.create(json!({"description": description, "expires_at": "soon"}));
        let both = [wrong("description", word), wrong("expires_at", "int_type")].concat();
        assert_eq!((status, invalid(&answer)), (422, both));
    }
    assert_eq!(invalid(&world.create(Value::Null).1), wrong("description", "missing"));
    assert_eq!(world.create(json!([])).0, 400);
    // Of the right type, but past.
    for expires_at in [START as i64, 1, -1] {
        let (status, answer) = world.rotate(&id, json!({"expires_at": expires_at}));
        assert_eq!((status, answer), (400, json!({"message": "expires_at cannot be in the past"})));
    }
    assert_eq!(world.kosli.keys().count(), minted);
    assert_eq!(world.find(&key).grace_ends_at, None);

    assert_eq!(world.create(json!({"description": "é".repeat(256)})).0, 201);
    for hours in [1, 720] {
        assert_eq!(world.rotate(&id, json!({"grace_period_hours": hours})).0, 201);
    }
}

#[test]
fn a_body_that_is_not_json_is_refused() {
    let mut world = World::new();
    let request = Request::post(KEYS).header("authorization", format!("Bearer {}", world.admin));
    let request = request.body(Bytes::from_static(b"{\"description\"")).expect("a valid request");
    assert_eq!(parsed(&world.kosli.handle(&request)).0, 400);
}

#[test]
fn bearer_and_basic_authenticate() {
    let mut world = World::new();
    let basic = |user: &str| format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(format!("{user}:ignored")));
    for (authorization, status) in [
        (Some(format!("Bearer {}", world.key)), 200),
        (Some(format!("bearer {}", world.key)), 200),
        (Some(basic(&world.key)), 200),
        (Some("Bearer nobody-s".to_owned()), 401),
        (Some(basic("nobody-s")), 401),
        (Some("Basic !!!".to_owned()), 401),
        (Some(world.key.clone()), 401),
        (Some(format!("Digest {}", world.key)), 401),
        (None, 401),
    ] {
        let mut request = Request::get(ENVIRONMENTS);
        if let Some(authorization) = &authorization {
            request = request.header("authorization", authorization);
        }
        let response = world.kosli.handle(&request.body(Bytes::new()).expect("a valid request"));
        assert_eq!(parsed(&response).0, status, "{authorization:?}");
    }
}

#[test]
fn the_date_is_the_clock_s() {
    let mut world = World::new();
    world.clock.advance(HOUR);
    let request = Request::get(ENVIRONMENTS).body(Bytes::new()).expect("a valid request");
    let date = world.kosli.handle(&request).headers()["date"].to_str().expect("text").to_owned();
    assert_eq!(httpdate::parse_http_date(&date).expect("a date"), at(START.floor()) + HOUR);
}

/// `error_forbidden.json`, `error_service_account_not_found.json`, `error_api_key_not_found.json`.
#[test]
fn errors_say_what_is_missing() {
    let mut world = World::new();
    world.kosli.add_account("other", "ci", Role::Admin);
    let (_, foreign) = world.kosli.add_key("other", "ci", "x", at(START), None);
    let (admin, key, id) = (world.admin.clone(), world.key.clone(), world.id.clone());
    let forbidden = json!({"message": "You don't have permission to access this resource"});
    let no_account = json!({"message": "Service account not found"});
    let no_key = json!({"message": "API key not found"});
    let nobody = "/api/v2/service-accounts/acme/nobody/api-keys";
    for (method, path, key, status, body) in [
        (Method::GET, ENVIRONMENTS.to_owned(), &foreign, 403, &forbidden),
        (Method::GET, KEYS.to_owned(), &foreign, 403, &forbidden),
        (Method::GET, "/api/v2/service-accounts/acme/admin/api-keys".to_owned(), &key, 403, &forbidden),
        (Method::GET, nobody.to_owned(), &admin, 404, &no_account),
        (Method::POST, nobody.to_owned(), &admin, 404, &no_account),
        (Method::GET, format!("{KEYS}/unknown"), &admin, 404, &no_key),
        (Method::POST, format!("{KEYS}/unknown/rotate"), &admin, 404, &no_key),
        // The id exists, but on another account.
        (Method::DELETE, format!("/api/v2/service-accounts/acme/admin/api-keys/{id}"), &admin, 404, &no_key),
    ] {
        let answer = world.call(method.clone(), &path, key, Value::Null);
        assert_eq!(answer, (status, body.clone()), "{method} {path}");
    }
    assert_eq!(world.call(Method::GET, "/api/v2/nothing", &admin, Value::Null).0, 404);
}

#[test]
fn paths_name_operations_escaped_or_not() {
    let one = format!("{KEYS}/7980eb22-1fe1");
    let rotate = format!("{one}/rotate");
    let page = format!("{KEYS}?page=2");
    for (method, path, operation) in [
        (Method::GET, ENVIRONMENTS, Some(Operation::Verify)),
        (Method::GET, KEYS, Some(Operation::List)),
        (Method::GET, &page, Some(Operation::List)),
        (Method::POST, KEYS, Some(Operation::Create)),
        (Method::GET, &one, Some(Operation::Get)),
        (Method::DELETE, &one, Some(Operation::Revoke)),
        (Method::POST, &rotate, Some(Operation::Rotate)),
        (Method::POST, ACCOUNTS, Some(Operation::CreateAccount)),
        (Method::GET, ACCOUNTS, Some(Operation::ListAccounts)),
        (Method::GET, CI, Some(Operation::GetAccount)),
        (Method::DELETE, CI, Some(Operation::DeleteAccount)),
        (Method::PATCH, CI, None),
        (Method::GET, &rotate, None),
        (Method::PUT, &one, None),
        (Method::POST, ENVIRONMENTS, None),
        (Method::GET, "/api/v1/environments/acme", None),
        (Method::GET, "/api/v2/environments/%zz", None),
    ] {
        let request = Request::builder().method(method).uri(path).body(Bytes::new()).expect("a valid request");
        assert_eq!(Kosli::operation(&request), operation, "{} {path}", request.method());
    }

    let mut world = World::new();
    let escaped = world.id.replace('-', "%2d");
    assert_eq!(world.get(&escaped).0, 200);
}

/// `created_service_account.json`, `listed_service_accounts.json`, `service_account.json`, `delete_success.json`.
#[test]
fn a_service_account_is_created_shown_and_deleted_with_its_keys() {
    let mut world = World::new();
    let request = json!({"name": "bot", "description": "CI service account", "privilege": "snapshotter"});
    let bot =
        json!({"name": "bot", "description": "CI service account", "privilege": "snapshotter", "created_at": START});
    assert_eq!(world.call_as_admin(Method::POST, ACCOUNTS, request.clone()), (201, bot.clone()));
    let path = format!("{ACCOUNTS}/bot");
    assert_eq!(world.call_as_admin(Method::GET, &path, Value::Null), (200, bot.clone()));
    let (status, list) = world.call_as_admin(Method::GET, ACCOUNTS, Value::Null);
    let names: Vec<&str> = list.as_array().expect("an array").iter().filter_map(|one| one["name"].as_str()).collect();
    assert_eq!((status, names), (200, vec!["admin", "bot", "ci"]));
    assert_eq!(list[1], bot);

    let (_, key) = world.call_as_admin(Method::POST, &format!("{path}/api-keys"), json!({"description": "x"}));
    let key = text(&key["key"]);
    assert_eq!(world.verify(&key), 200);
    assert_eq!(world.call_as_admin(Method::POST, ACCOUNTS, request).0, 400, "there is one with that name");
    assert_eq!(world.call_as_admin(Method::DELETE, &path, Value::Null), (200, json!("OK")));
    assert_eq!(world.verify(&key), 401);
    let no_account = (404, json!({"message": "Service account not found"}));
    assert_eq!(world.call_as_admin(Method::GET, &path, Value::Null), no_account);
    assert_eq!(world.call_as_admin(Method::DELETE, &path, Value::Null), no_account);
}

#[test]
fn fields_of_a_service_account_that_are_not_valid_are_named() {
    let mut world = World::new();
    for (body, wrong) in [
        (json!({}), vec![("name", "missing"), ("privilege", "missing")]),
        (
            json!({"name": "a_b", "privilege": "root", "description": 1}),
            vec![("name", "string_pattern_mismatch"), ("privilege", "enum"), ("description", "string_type")],
        ),
        (json!({"name": "bot", "privilege": "Admin"}), vec![("privilege", "enum")]),
    ] {
        let (status, answer) = world.call_as_admin(Method::POST, ACCOUNTS, body.clone());
        let wrong: Vec<_> = wrong.iter().map(|(field, word)| ((*field).to_owned(), (*word).to_owned())).collect();
        assert_eq!((status, invalid(&answer)), (422, wrong), "{body}");
    }
    assert_eq!(world.call_as_admin(Method::GET, ACCOUNTS, Value::Null).1.as_array().map(Vec::len), Some(2));
}

/// "You can only create a service account with a privilege equal to or lower than your own."
#[test]
fn a_service_account_is_created_with_at_most_the_creators_role() {
    let roles = ["reader", "snapshotter", "member", "admin"];
    for (own, may) in roles.into_iter().zip([0, 2, 3, 4]) {
        let mut world = World::new();
        world.kosli.add_account("acme", "creator", Role::named(own).expect("a role"));
        let (_, key) = world.kosli.add_key("acme", "creator", "x", at(START), None);
        for (index, role) in roles.into_iter().enumerate() {
            let body = json!({"name": format!("new-{role}"), "privilege": role});
            let status = world.call(Method::POST, ACCOUNTS, &key, body).0;
            assert_eq!(status, if index < may { 201 } else { 403 }, "{own} creates {role}");
        }
    }
}

/// "Only organization admins or the creating user can manage a service account": whatever the rest is.
#[test]
fn who_created_an_account_manages_its_keys_and_no_others() {
    for key_managers in [KeyManagers::AdminsAndCreator, KeyManagers::OwnKeyToo, KeyManagers::OwnAccountToo] {
        let mut world = World::with(Switches { key_managers, ..Switches::default() });
        world.kosli.add_account("acme", "creator", Role::Snapshotter);
        let (_, creator) = world.kosli.add_key("acme", "creator", "x", at(START), None);
        let body = json!({"name": "made", "privilege": "reader"});
        assert_eq!(world.call(Method::POST, ACCOUNTS, &creator, body).0, 201);

        let keys = format!("{ACCOUNTS}/made/api-keys");
        let (status, made) = world.call(Method::POST, &keys, &creator, json!({"description": "x"}));
        assert_eq!(status, 201);
        let id = text(&made["id"]);
        assert_eq!(world.call(Method::POST, &format!("{keys}/{id}/rotate"), &creator, Value::Null).0, 201);
        assert_eq!(world.call(Method::GET, &keys, &creator, Value::Null).0, 200);
        assert_eq!(world.call(Method::DELETE, &format!("{keys}/{id}"), &creator, Value::Null).0, 200);

        let rotate = format!("{KEYS}/{}/rotate", world.id);
        assert_eq!(world.call(Method::POST, &rotate, &creator, Value::Null).0, 403, "another's account");
        assert_eq!(world.call(Method::DELETE, CI, &creator, Value::Null).0, 403, "another's account");
        let made_key = world.kosli.add_key("acme", "made", "x", at(START), None).1;
        let path = format!("{ACCOUNTS}/made");
        assert_eq!(world.call(Method::DELETE, &path, &made_key, Value::Null).0, 403, "it did not create itself");
        assert_eq!(world.call(Method::DELETE, &path, &creator, Value::Null).0, 200);
    }
}

#[test]
fn what_a_person_does_in_the_web_pages() {
    let mut world = World::new();
    let (id, key) = (world.id.clone(), world.key.clone());
    assert!(world.kosli.revoke_key(&id));
    assert!(!world.kosli.revoke_key(&id));
    assert!(!world.kosli.accepts(&key));

    let admin = world.admin.clone();
    world.kosli.remove_account("acme", "admin");
    assert_eq!(world.verify(&admin), 401);

    let (_, new) = world.kosli.add_key("acme", "new", "x", at(START), None);
    assert_eq!(world.verify(&new), 200);
    assert_eq!(world.find(&new).minted_by, MintedBy::SetUp);

    assert!(Kosli::is_account_name("a-Z09") && Kosli::is_account_name(&"a".repeat(64)));
    assert!(!Kosli::is_account_name("") && !Kosli::is_account_name("a_b") && !Kosli::is_account_name(&"a".repeat(65)));
}

#[test]
fn a_seed_makes_keys_repeatable() {
    let minted = || {
        let mut kosli = Kosli::new(Clock::frozen(at(START)));
        kosli.seed(7);
        [1, 2].map(|_| kosli.add_key("acme", "ci", "x", at(START), None))
    };
    let [first, second] = minted();
    assert_ne!(first, second);
    assert_eq!([first, second], minted());
}

#[test]
fn looking_is_not_a_use_but_every_request_is() {
    let mut world = World::new();
    let key = world.key.clone();
    assert!(world.kosli.accepts(&key));
    assert_eq!(world.find(&key).last_used_at(), None);
    assert_eq!(world.list()[0].get("last_used_at"), None);
    // Refused for want of a right, but authenticated.
    assert_eq!(world.call(Method::GET, "/api/v2/environments/other", &key, Value::Null).0, 403);
    assert_eq!(world.list()[0]["last_used_at"], START);
}

/// One variation per answer that is not the default, each with a name and a setting of its own.
#[test]
fn variations_are_all_different() {
    let variations = Switches::named();
    assert!(variations.starts_with(&Switches::variations()));
    for (index, (name, switches)) in variations.iter().enumerate() {
        assert_ne!(*switches, Switches::default(), "{name}");
        for (other, others) in &variations[..index] {
            assert!(name != other && switches != others, "{name} and {other}");
        }
    }
}

#[test]
fn two_variations_are_one_setting() {
    for (name, first) in Switches::variations() {
        assert_eq!(first.and(&Switches::default()), first, "{name}");
        assert_eq!(Switches::default().and(&first), first, "{name}");
        for (other, second) in Switches::variations() {
            let both = first.and(&second);
            let asks_the_same = name.split('=').next() == other.split('=').next();
            assert_eq!(both, if asks_the_same { second.clone() } else { second.and(&first) }, "{name} and {other}");
        }
    }
}

/// Whatever Kosli's open answers are, what it does say holds.
#[test]
fn every_variation_rotates() {
    for (name, switches) in Switches::named() {
        let mut world = World::with(switches);
        let (id, old) = (world.id.clone(), world.key.clone());
        let (status, answer) = world.rotate(&id, json!({"grace_period_hours": 1}));
        assert!(status == 201 || status == 200, "{name}: {status}");
        let new = text(answer.get("key").or(answer.get("api_key")).expect("the key's value"));
        world.clock.advance(Duration::from_secs(10));
        assert!(world.kosli.accepts(&old) && world.kosli.accepts(&new), "{name}");
        world.clock.advance(HOUR);
        assert!(!world.kosli.accepts(&old), "{name}");
        assert!(world.kosli.accepts(&new), "{name}");
    }
}

#[test]
fn switch_successor_id() {
    let mut world = World::with(Switches { successor_id: SuccessorId::Same, ..Switches::default() });
    let (id, old) = (world.id.clone(), world.key.clone());
    let (new_id, new) = world.rotated(&id, json!({}));
    assert_eq!(id, new_id);
    assert_eq!((world.verify(&old), world.verify(&new)), (200, 200));
    assert_eq!(world.listed(), std::slice::from_ref(&id));
    assert_eq!(world.get(&id).1["created_at"], START);
    // This is why a function must not revoke "the old id".
    assert_eq!(world.revoke(&id).0, 200);
    assert_eq!((world.verify(&old), world.verify(&new)), (401, 401));
}

/// A rotation in place: to Kosli it is the same key, before and after.
#[test]
fn switch_carried_over() {
    let used = Some(START);
    for (carried_over, created, used_before) in [
        (CarriedOver::Nothing, START + 3600.0, None),
        (CarriedOver::CreatedAt, START - 86400.0, None),
        (CarriedOver::LastUsedAt, START + 3600.0, used),
        (CarriedOver::CreatedAndLastUsedAt, START - 86400.0, used),
    ] {
        let successor_id = SuccessorId::Same;
        let mut world = World::with(Switches { carried_over, successor_id, ..Switches::default() });
        let (id, old) = (world.id.clone(), world.key.clone());
        world.verify(&old);
        world.clock.advance(HOUR);
        let (status, answer) = world.rotate(&id, json!({}));
        assert_eq!((status, answer["created_at"].as_f64()), (201, Some(created)), "{carried_over:?}");
        let shown = |world: &mut World| {
            let list = world.list();
            assert_eq!(list.as_array().map(Vec::len), Some(1));
            (list[0]["created_at"].as_f64(), list[0].get("last_used_at").and_then(Value::as_f64))
        };
        assert_eq!(shown(&mut world), (Some(created), used_before), "{carried_over:?}");
        // Twice in place, and not used in between.
        world.rotated(&id, json!({}));
        let again = if carried_over == CarriedOver::LastUsedAt { START + 3600.0 } else { created };
        assert_eq!(shown(&mut world), (Some(again), used_before), "{carried_over:?}");
        let newest = world.kosli.keys().last().expect("a key").value.clone();
        world.verify(&newest);
        assert_eq!(shown(&mut world), (Some(again), Some(START + 3600.0)), "{carried_over:?}");
        // What really happened is known to who looks.
        assert_eq!(world.find(&newest).created_at, at(START) + HOUR);
        assert_eq!(world.find(&newest).last_used_at(), Some(at(START) + HOUR));
    }
}

#[test]
fn switch_cap_from() {
    let (year, wanted) = (365.0 * 86400.0, (START + 365.0 * 86400.0) as u64);
    for (cap_from, kept) in [(CapFrom::Mint, wanted as f64), (CapFrom::RotatedKey, START - 86400.0 + year)] {
        let mut world = World::with(Switches { cap_from, ..Switches::default() });
        let id = world.id.clone();
        let (status, answer) = world.rotate(&id, json!({"expires_at": wanted}));
        assert_eq!((status, answer["expires_at"].as_f64()), (201, Some(kept)), "{cap_from:?}");
        // What is within the cap is kept to the second, and a created key has no other to count from.
        let new = text(&answer["id"]);
        assert_eq!(world.rotate(&new, json!({"expires_at": 1_790_000_001})).1["expires_at"], 1_790_000_001.0);
        assert_eq!(world.create(json!({"description": "x"})).1["expires_at"], START + year);
        // From before the cap, and older than it.
        let (old, value) = world.kosli.add_key("acme", "ci", "x", at(START) - 365 * DAY, None);
        let status = if cap_from == CapFrom::Mint { 201 } else { 400 };
        assert_eq!(world.rotate(&old, json!({})).0, status, "{cap_from:?}");
        assert_eq!(world.find(&value).grace_ends_at.is_some(), cap_from == CapFrom::Mint);
    }
}

#[test]
fn switch_key_value() {
    for (key_value, between) in
        [(KeyValue::Opaque, None), (KeyValue::IdDotSecret, Some(".")), (KeyValue::IdThenSecret, Some(""))]
    {
        let mut world = World::with(Switches { key_value, ..Switches::default() });
        let id = world.id.clone();
        for (id, value) in [(id.clone(), world.key.clone()), world.rotated(&id, json!({}))] {
            let begin = between.map_or("emulated".to_owned(), |between| format!("{id}{between}emulated"));
            assert!(value.starts_with(&begin), "{key_value:?}");
            assert!(world.find(&value).secret_part().starts_with("emulated"), "{key_value:?}");
            assert_eq!(world.verify(&value), 200);
            assert_eq!(world.verify(&id), 401);
        }
    }
}

#[test]
fn switch_odd_entries() {
    let mut world = World::new();
    assert_eq!(world.listed().len(), 1);
    world.kosli.switches.odd_entries = OddEntries::Strangers;
    let own = world.id.clone();
    assert_eq!(world.listed(), [&own, "ci/b+c==", "ci:0 é", "ci.25"]);
    let list = world.list();
    assert_eq!((&list[1]["created_at"], &list[2]["created_at"]), (&Value::Null, &json!(0)));
    assert_eq!(list[2].get("expires_at"), None);
    assert_eq!(list[3]["created_at"].as_f64().map(f64::fract), Some(0.25));
    assert_eq!(list[3]["expires_at"].as_f64().map(f64::fract), Some(0.75));
    // They are keys like any other, and there once.
    assert_eq!(world.kosli.odd_keys("acme", "ci"), ["ci/b+c==", "ci:0 é", "ci.25"]);
    assert_eq!(world.get("ci%2Fb%2Bc%3D%3D"), (200, list[1].clone()));
    assert_eq!(world.revoke("ci%2Fb%2Bc%3D%3D").0, 200);
    assert_eq!(world.listed(), [&own, "ci:0 é", "ci.25"]);
}

#[test]
fn switch_expired_keys() {
    for (expired_keys, status) in [(ExpiredKeys::Gone, 404), (ExpiredKeys::Listed, 200)] {
        let mut world = World::with(Switches { expired_keys, ..Switches::default() });
        let (id, key) = (world.id.clone(), world.key.clone());
        let (rotated, value) = world.kosli.add_key("acme", "ci", "x", at(START), Some(at(START) + 40 * DAY));
        let (new, _) = world.rotated(&rotated, json!({"grace_period_hours": 1}));
        world.clock.advance(30 * DAY);
        assert_eq!(world.get(&id).0, status, "{expired_keys:?}");
        let listed = if status == 200 { vec![id.clone(), new] } else { vec![new] };
        assert_eq!(world.listed(), listed, "the end of a grace period is a revocation");
        assert!(!world.kosli.accepts(&key) && !world.kosli.accepts(&value));
        assert_eq!(world.rotate(&id, json!({})).0, 404);
        assert_eq!(world.revoke(&id).0, status);
        assert_eq!(world.get(&id).0, 404);
    }
}

#[test]
fn switch_rotate_in_grace() {
    // With a first grace period of 8 hours and a second of 20: does the first key live after 1 hour, and after 9?
    for (rotate_in_grace, status, lives) in [
        (RotateInGrace::RestartsGrace, 201, [true, true]),
        (RotateInGrace::KeepsGrace, 201, [true, false]),
        (RotateInGrace::EndsGrace, 201, [false, false]),
        (RotateInGrace::BadRequest, 400, [true, false]),
        (RotateInGrace::NotFound, 404, [true, false]),
        (RotateInGrace::Conflict, 409, [true, false]),
    ] {
        for successor_id in [SuccessorId::New, SuccessorId::Same] {
            let mut world = World::with(Switches { rotate_in_grace, successor_id, ..Switches::default() });
            let (id, key) = (world.id.clone(), world.key.clone());
            let (_, first) = world.rotated(&id, json!({"grace_period_hours": 8}));
            let minted = world.kosli.keys().count();
            assert_eq!(world.rotate(&id, json!({"grace_period_hours": 20})).0, status, "{rotate_in_grace:?}");
            assert_eq!(world.kosli.keys().count(), minted + usize::from(status == 201));
            world.clock.advance(HOUR);
            assert_eq!(world.kosli.accepts(&key), lives[0], "{rotate_in_grace:?} {successor_id:?}");
            world.clock.advance(8 * HOUR);
            assert_eq!(world.kosli.accepts(&key), lives[1], "{rotate_in_grace:?} {successor_id:?}");
            // Only where the id is handed on has the first successor been rotated too, and then it is in its own grace.
            assert!(world.kosli.accepts(&first));
            let rotated = status == 201 && successor_id == SuccessorId::Same;
            assert_eq!(world.find(&first).grace_ends_at, rotated.then_some(at(START) + 20 * HOUR));
        }
    }
}

#[test]
fn switches_on_showing_a_key_in_grace() {
    let own_expiry = START + 30.0 * 86400.0;
    for (list_in_grace, expiry) in [
        (ListInGrace::OwnExpiry, Some(own_expiry)),
        (ListInGrace::EndOfGrace, Some(START + 86400.0)),
        (ListInGrace::Hidden, None),
    ] {
        let mut world = World::with(Switches { list_in_grace, ..Switches::default() });
        let id = world.id.clone();
        let (new, _) = world.rotated(&id, json!({}));
        let list = world.list();
        let entries = list.as_array().expect("an array");
        let old = entries.iter().find(|entry| entry["id"] == *id);
        assert_eq!(old.and_then(|entry| entry["expires_at"].as_f64()), expiry, "{list_in_grace:?}");
        assert!(entries.iter().any(|entry| entry["id"] == *new));
        assert_eq!(world.get(&id).1["expires_at"], expiry.unwrap_or(own_expiry));
    }

    let mut world = World::with(Switches { get_in_grace: GetInGrace::NotFound, ..Switches::default() });
    let id = world.id.clone();
    let (new, _) = world.rotated(&id, json!({}));
    assert_eq!((world.get(&id).0, world.get(&new).0), (404, 200));
    assert_eq!(world.revoke(&id).0, 200);
}

#[test]
fn switch_rights_in_grace() {
    for (rights_in_grace, status) in [(RightsInGrace::Unchanged, 200), (RightsInGrace::VerifyOnly, 403)] {
        let mut world = World::with(Switches { rights_in_grace, ..Switches::default() });
        world.kosli.add_account("acme", "ci", Role::Admin);
        let (id, key) = (world.id.clone(), world.key.clone());
        assert_eq!(world.call(Method::GET, KEYS, &key, Value::Null).0, 200);
        world.rotated(&id, json!({}));
        assert_eq!(world.call(Method::GET, KEYS, &key, Value::Null).0, status);
        assert_eq!(world.verify(&key), 200);
    }
}

#[test]
fn switch_key_managers() {
    // May a key of this role rotate another account's key, rotate one of its own account, rotate itself, list its account?
    for (key_managers, role, may) in [
        (KeyManagers::AdminsAndCreator, Role::Admin, [true, true, true, true]),
        (KeyManagers::AdminsAndCreator, Role::Member, [false, false, false, false]),
        (KeyManagers::OwnAccountToo, Role::Admin, [true, true, true, true]),
        (KeyManagers::OwnAccountToo, Role::Reader, [false, true, true, true]),
        (KeyManagers::OwnKeyToo, Role::Admin, [true, true, true, true]),
        (KeyManagers::OwnKeyToo, Role::Member, [false, false, true, true]),
        (KeyManagers::Admins, Role::Admin, [true, true, true, true]),
        (KeyManagers::Admins, Role::Member, [false, false, false, false]),
        (KeyManagers::AllButReaders, Role::Snapshotter, [true, true, true, true]),
        (KeyManagers::AllButReaders, Role::Reader, [false, false, false, false]),
    ] {
        let mut world = World::with(Switches { key_managers, ..Switches::default() });
        world.kosli.add_account("acme", "caller", role);
        let (own_id, own) = world.kosli.add_key("acme", "caller", "own", at(START), None);
        let (sibling_id, _) = world.kosli.add_key("acme", "caller", "sibling", at(START), None);
        let keys = "/api/v2/service-accounts/acme/caller/api-keys";
        let calls = [
            (Method::POST, format!("{KEYS}/{}/rotate", world.id)),
            (Method::POST, format!("{keys}/{sibling_id}/rotate")),
            (Method::POST, format!("{keys}/{own_id}/rotate")),
            (Method::GET, keys.to_owned()),
        ];
        let did = calls.map(|(method, path)| world.call(method, &path, &own, Value::Null).0 < 300);
        assert_eq!(did, may, "{key_managers:?} {role:?}");
        assert_eq!(world.verify(&own), 200);
    }
    // Who created the account of the first question, with a role that gives no rights of its own.
    for key_managers in [KeyManagers::AdminsAndCreator, KeyManagers::Admins] {
        let mut world = World::with(Switches { key_managers, ..Switches::default() });
        world.kosli.add_account("acme", "creator", Role::Snapshotter);
        let (_, creator) = world.kosli.add_key("acme", "creator", "x", at(START), None);
        let rotate = format!("{KEYS}/{}/rotate", world.id);
        assert_eq!(world.call(Method::POST, &rotate, &creator, Value::Null).0, 403, "somebody else created it");
        world.kosli.set_creator("acme", "ci", "creator");
        let status = if key_managers == KeyManagers::Admins { 403 } else { 201 };
        assert_eq!(world.call(Method::POST, &rotate, &creator, Value::Null).0, status, "{key_managers:?}");
    }
}

#[test]
fn switch_rate_limit() {
    for (retry_after, header) in [(None, None), (Some(Duration::from_secs(5)), Some("5"))] {
        let rate_limit = Some(RateLimit { every: 2, retry_after });
        let mut world = World::with(Switches { rate_limit, ..Switches::default() });
        let (id, key) = (world.id.clone(), world.key.clone());
        assert_eq!(world.verify(&key), 200);
        assert_eq!(world.rotate(&id, json!({})).0, 429);
        assert_eq!(world.find(&key).grace_ends_at, None);
        assert_eq!(world.verify(&key), 200);
        let request = Request::get(ENVIRONMENTS).body(Bytes::new()).expect("a valid request");
        let response = world.kosli.handle(&request);
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers().get("retry-after").map(|value| value.to_str().expect("text")), header);
    }
}

#[test]
fn switch_quota() {
    for (retry_after, header) in [(None, None), (Some(Duration::from_secs(5)), Some("5"))] {
        let quota = Some(Quota { per_second: 2, retry_after });
        let mut world = World::with(Switches { quota, ..Switches::default() });
        let (id, key) = (world.id.clone(), world.key.clone());
        let half = Duration::from_millis(500);
        assert_eq!(world.verify(&key), 200);
        world.clock.advance(half);
        assert_eq!(world.verify(&key), 200);
        assert_eq!(world.rotate(&id, json!({})).0, 429);
        assert_eq!(world.find(&key).grace_ends_at, None);
        let request = Request::get(ENVIRONMENTS).body(Bytes::new()).expect("a valid request");
        let response = world.kosli.handle(&request);
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers().get("retry-after").map(|value| value.to_str().expect("text")), header);
        // The first of the two is a second old now; those that were refused do not count.
        world.clock.advance(half);
        assert_eq!(world.verify(&key), 200);
        assert_eq!(world.verify(&key), 429);
    }
}

#[test]
fn switch_key_limit() {
    let mut world = World::with(Switches { key_limit: Some(2), ..Switches::default() });
    let id = world.id.clone();
    let (new, _) = world.rotated(&id, json!({"grace_period_hours": 1}));
    assert_eq!(world.create(json!({"description": "x"})).0, 400);
    assert_eq!(world.rotate(&new, json!({})).0, 400);
    world.clock.advance(HOUR);
    assert_eq!(world.create(json!({"description": "x"})).0, 201);
}

#[test]
fn switches_on_delays() {
    let rest = Duration::from_millis(1);
    let delay = Duration::from_secs(3);
    let almost = delay - rest;

    let mut world = World::with(Switches { new_key_refused_for: delay, ..Switches::default() });
    let id = world.id.clone();
    let (_, new) = world.rotated(&id, json!({}));
    world.clock.advance(almost);
    assert_eq!(world.verify(&new), 401);
    world.clock.advance(rest);
    assert_eq!(world.verify(&new), 200);

    let mut world = World::with(Switches { revoked_key_accepted_for: delay, ..Switches::default() });
    let (id, key) = (world.id.clone(), world.key.clone());
    assert_eq!(world.revoke(&id).0, 200);
    assert!(world.listed().is_empty());
    world.clock.advance(almost);
    assert_eq!(world.verify(&key), 200);
    world.clock.advance(rest);
    assert_eq!(world.verify(&key), 401);

    let mut world = World::with(Switches { list_lag: delay, ..Switches::default() });
    let id = world.id.clone();
    let (new, value) = world.rotated(&id, json!({}));
    world.clock.advance(almost);
    assert_eq!(world.verify(&value), 200);
    assert_eq!((world.listed(), world.get(&new).0), (vec![id.clone()], 404));
    world.clock.advance(rest);
    assert_eq!((world.listed(), world.get(&new).0), (vec![id, new], 200));
}

#[test]
fn switch_list_shape() {
    let mut world = World::with(Switches { list_shape: ListShape::Wrapped, ..Switches::default() });
    let list = world.list();
    assert_eq!((fields(&list), &list["api_keys"][0]["id"]), (vec!["api_keys"], &json!(world.id)));

    let mut world = World::with(Switches { list_shape: ListShape::Pages(2), ..Switches::default() });
    for description in ["second", "third"] {
        world.kosli.add_key("acme", "ci", description, at(START), None);
    }
    assert_eq!(world.listed().len(), 2);
    for (page, length) in [(1, 2), (2, 1), (3, 0)] {
        let (_, list) = world.call_as_admin(Method::GET, &format!("{KEYS}?page={page}"), Value::Null);
        assert_eq!(list.as_array().map(Vec::len), Some(length));
    }
}

#[test]
fn switch_last_used_at() {
    for (last_used_at, shown) in [
        (LastUsedAt::AtOnce, Some(START + 3600.0)),
        (LastUsedAt::After(HOUR), Some(START)),
        (LastUsedAt::After(2 * HOUR), None),
        (LastUsedAt::Never, None),
    ] {
        let mut world = World::with(Switches { last_used_at, ..Switches::default() });
        let key = world.key.clone();
        world.verify(&key);
        world.clock.advance(HOUR);
        world.verify(&key);
        assert_eq!(world.list()[0].get("last_used_at").and_then(Value::as_f64), shown, "{last_used_at:?}");
        assert_eq!(world.find(&key).last_used_at(), Some(at(START) + HOUR));
    }
}

#[test]
fn switch_expires_at() {
    for (expires_at, kept) in [
        (ExpiresAt::AsSent, 1_785_000_001.0),
        (ExpiresAt::Ignored, START + 365.0 * 86400.0),
        (ExpiresAt::StartOfDay, 1_784_937_600.0),
    ] {
        let mut world = World::with(Switches { expires_at, ..Switches::default() });
        let (_, answer) = world.create(json!({"description": "x", "expires_at": 1_785_000_001}));
        assert_eq!(answer["expires_at"], kept, "{expires_at:?}");
    }
}

#[test]
fn switch_key_field() {
    for (key_field, names) in
        [(KeyField::Key, vec!["key"]), (KeyField::ApiKey, vec!["api_key"]), (KeyField::Both, vec!["key", "api_key"])]
    {
        let mut world = World::with(Switches { key_field, ..Switches::default() });
        let (_, answer) = world.create(json!({"description": "x"}));
        let shown: Vec<&str> = fields(&answer).into_iter().filter(|name| name.ends_with("key")).collect();
        assert_eq!(shown, names);
        for name in names {
            assert!(world.kosli.accepts(&text(&answer[name])));
        }
    }
}

#[test]
fn switches_on_times() {
    for (never, shown) in [(Never::Zero, Some(json!(0))), (Never::Null, Some(Value::Null)), (Never::Absent, None)] {
        let mut world = World::with(Switches { never, timestamps: Timestamps::Integer, ..Switches::default() });
        let (id, _) = world.kosli.add_key("acme", "ci", "for ever", at(START), None);
        let (_, entry) = world.get(&id);
        assert_eq!((entry.get("expires_at"), entry.get("last_used_at")), (shown.as_ref(), shown.as_ref()));
        assert_eq!(entry["created_at"].as_u64(), Some(1_780_584_129));
    }
}

#[test]
fn switches_on_statuses_and_errors() {
    let mut world = World::with(Switches { rotate_status: RotateStatus::Ok, ..Switches::default() });
    let id = world.id.clone();
    assert_eq!(world.rotate(&id, json!({})).0, 200);

    let message = "Input payload validation failed";
    let errors = json!({"message": message, "errors": {"description": "Field required"}});
    let detail = json!({"detail": [{"loc": ["body", "description"], "msg": "Field required", "type": "missing"}]});
    for (invalid_request, error_body, status, body) in [
        (InvalidRequest::Detail, ErrorBody::Object, 422, &detail),
        (InvalidRequest::Errors400, ErrorBody::Object, 400, &errors),
        (InvalidRequest::Errors422, ErrorBody::Object, 422, &errors),
        (InvalidRequest::Detail, ErrorBody::MessageOnly, 422, &json!({"message": message})),
        (InvalidRequest::Detail, ErrorBody::BareString, 422, &json!(message)),
    ] {
        let mut world = World::with(Switches { invalid_request, error_body, ..Switches::default() });
        assert_eq!(world.create(json!({})), (status, body.clone()));
    }
}
