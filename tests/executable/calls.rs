//! Every call of a clean rotation, in order: the list that the documentation has.

use emulator::Clock;
use emulator::rotation::STEPS;
use emulator::secrets_manager::AWSCURRENT;
use emulator::{Call, Service};
use serde_json::json;

use crate::{SHAPES, WITH_ADMIN, world_with};
use testbed::{ADMIN_SECRET, SECRET};

/// The calls of one step: group after group, and those of one group side by side.
type Groups = Vec<Vec<&'static str>>;

/// A rotation of a secret that has been rotated before, so that there is an `AWSPREVIOUS`, with an admin secret.
fn clean_rotation() -> [Groups; 4] {
    [
        vec![
            vec![
                "DescribeSecret secret",
                "GetSecretValue secret VersionId=new -> 400 ResourceNotFoundException",
                "GetSecretValue secret VersionStage=AWSCURRENT",
                "GetSecretValue secret VersionStage=AWSPREVIOUS",
                "GetSecretValue admin-secret VersionStage=AWSCURRENT",
            ],
            vec!["verify environments/acme with old-key", "list acme/ci/api-keys with admin-key"],
            vec!["GetSecretValue secret VersionId=new -> 400 ResourceNotFoundException"],
            vec!["rotate acme/ci/api-keys/old-key/rotate grace_period_hours=24 with admin-key"],
            vec!["PutSecretValue secret ClientRequestToken=new VersionStages=AWSPENDING"],
        ],
        vec![vec!["DescribeSecret secret", "GetSecretValue secret VersionId=new"]],
        vec![
            vec![
                "DescribeSecret secret",
                "GetSecretValue secret VersionId=new",
                "GetSecretValue secret VersionStage=AWSCURRENT",
            ],
            vec!["verify environments/acme with new-key"],
        ],
        vec![
            vec![
                "DescribeSecret secret",
                "GetSecretValue secret VersionId=new",
                "GetSecretValue secret VersionStage=AWSCURRENT",
                "GetSecretValue admin-secret VersionStage=AWSCURRENT",
            ],
            vec!["verify environments/acme with new-key", "list acme/ci/api-keys with admin-key"],
            vec!["UpdateSecretVersionStage secret VersionStage=AWSCURRENT MoveToVersionId=new RemoveFromVersionId=old"],
        ],
    ]
}

/// What comes after that with immediate revocation.
fn revocation() -> Groups {
    vec![
        vec!["DescribeSecret secret"],
        vec!["revoke acme/ci/api-keys/old-key with admin-key"],
        vec!["verify environments/acme with old-key -> 401"],
    ]
}

#[tokio::test]
async fn a_clean_rotation_makes_17_calls_to_secrets_manager_and_6_to_kosli_in_11_rounds() {
    let calls = second_rotation(&WITH_ADMIN, clean_rotation()).await;
    assert_eq!(clean_rotation().iter().map(Vec::len).sum::<usize>(), 11);
    assert_eq!(counted(&calls), (17, 6));
}

#[tokio::test]
async fn immediate_revocation_makes_three_calls_more() {
    let mut expected = clean_rotation();
    expected[3].extend(revocation());
    let calls = second_rotation(&[WITH_ADMIN[0], ("KOSLI_REVOKE_OLD_KEY", "immediately")], expected).await;
    assert_eq!(counted(&calls), (18, 8));
}

/// Rotates twice, and compares the calls of the second rotation with the list, step by step.
async fn second_rotation(variables: &[(&str, &str)], expected: [Groups; 4]) -> Vec<Call> {
    let world = world_with(Clock::real(), SHAPES[0], variables).await;
    let admin_key = world.keys()[0].id.clone();
    world.rotate(SECRET).await;

    let old_key = world.newest_key().id;
    let old = world.labelled(SECRET, AWSCURRENT).unwrap();
    let rotation = world.begin(SECRET, json!({})).await;
    let arn_end = rotation.arn.split_once(":secret:").unwrap().1;
    let mut all = Vec::new();
    for (step, groups) in STEPS.iter().zip(expected) {
        let before = world.calls().len();
        world.step(&rotation, step).await.unwrap();
        let calls = world.calls().split_off(before);
        let names = [
            (&*format!("SecretId={arn_end}"), "secret"),
            (&*format!("SecretId={ADMIN_SECRET}"), "admin-secret"),
            (&rotation.token, "new"),
            (&old, "old"),
            (&admin_key, "admin-key"),
            (&old_key, "old-key"),
            (&world.newest_key().id, "new-key"),
        ];
        let lines: Vec<String> = calls.iter().map(|call| line(call, &names)).collect();
        assert_eq!(in_groups(&lines, &groups), sorted(&groups), "{step} made the calls {lines:#?}");
        all.extend(calls);
    }
    world.end().await;
    all
}

/// One call, with words in the place of ids, and without the expiry, which differs from mint to mint.
fn line(call: &Call, names: &[(&str, &str)]) -> String {
    let mut line = format!("{} {}", call.operation, call.detail);
    line.truncate(line.find(" expires_at=").unwrap_or(line.len()));
    if let Some(key) = &call.key_id {
        line += &format!(" with {key}");
    }
    for (id, name) in names {
        line = line.replace(id, name);
    }
    match call.status {
        Some(status) if status < 300 => line,
        status => format!("{line} -> {} {}", status.unwrap_or_default(), call.outcome).trim_end().to_owned(),
    }
}

/// The calls in groups as long as the expected ones; what is too much is a group that nobody expects.
fn in_groups(mut calls: &[String], expected: &Groups) -> Vec<Vec<String>> {
    let mut groups = Vec::new();
    for group in expected {
        let (these, rest) = calls.split_at(group.len().min(calls.len()));
        groups.push(these.to_vec());
        calls = rest;
    }
    groups.extend((!calls.is_empty()).then(|| calls.to_vec()));
    sorted(&groups)
}

/// Within a group the order is left to chance.
fn sorted<T: ToString>(groups: &[Vec<T>]) -> Vec<Vec<String>> {
    let sorted = |group: &Vec<T>| {
        let mut group: Vec<String> = group.iter().map(T::to_string).collect();
        group.sort();
        group
    };
    groups.iter().map(sorted).collect()
}

fn counted(calls: &[Call]) -> (usize, usize) {
    let of = |service| calls.iter().filter(|call| call.service == service).count();
    (of(Service::SecretsManager), of(Service::Kosli))
}
