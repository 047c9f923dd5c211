//! What random schedules have found: each failure of theirs as a test of its own, which takes no luck.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use emulator::kosli::{ExpiresAt, Switches};
use emulator::rotation::{Event, step_event};
use emulator::secrets_manager::{RotationOutcome, Staleness};
use serde_json::json;
use testbed::{HOUR, RETRIES, Setting, Shape, Testbed, token};

/// Found by a random schedule: the abandoned version keeps its label with a key id, and the tag was taken for stale.
#[test]
fn after_an_abandoned_first_rotation_the_tag_still_names_the_key() {
    Testbed::run(async |testbed| {
        for shape in [Shape::WithoutId, Shape::Plain] {
            let world = testbed.world(&Setting { shape, ..Setting::default() });
            let rotation = world.begin_rotation(&token("second", 0)).unwrap();
            world.invoke(0, &step_event(&rotation, "createSecret")).await.unwrap();
            let body = json!({"SecretId": world.arn, "VersionStage": "AWSPENDING",
                              "RemoveFromVersionId": rotation.token});
            world.aws("UpdateSecretVersionStage", body).unwrap();
            world.emulator.with_secrets_manager(|service| {
                service.end_rotation(&rotation, RotationOutcome::Failed);
            });
            world.emulator.clock().advance(HOUR);
            let end = world.rotate(&token("third", 0), RETRIES).await;
            assert_eq!(end, Event::Succeeded, "{}", world.story());
            assert_eq!(world.check_completed(), [""; 0], "{}", world.story());
        }
    });
}

/// Found by a random schedule: the loser's read did not see the winner's value yet, and the sweep came before Kosli's list
/// showed the loser's key.
#[test]
fn a_loser_whose_reads_are_stale_revokes_its_key() {
    Testbed::run(async |testbed| {
        let switches = Switches { list_lag: Duration::from_secs(3), ..Switches::default() };
        let staleness = Staleness::For(Duration::from_secs(1));
        let world = testbed.world(&Setting { switches, staleness, ..Setting::default() });
        let rotation = world.begin_rotation(&token("second", 0)).unwrap();
        world.emulator.clock().advance(HOUR);
        let event = step_event(&rotation, "createSecret");
        let (first, second) = tokio::join!(world.invoke(0, &event), world.invoke(1, &event));
        assert_eq!(world.minted().len(), 2, "both have minted: {}", world.story());
        assert!(first.is_ok() && second.is_ok(), "{first:?} {second:?}");
        assert_eq!(world.drive(&rotation, RETRIES).await, Event::Succeeded);
        assert_eq!(world.check_completed(), [""; 0], "{}", world.story());
    });
}

/// Found by a random schedule: Kosli cuts expiries to the day, which takes the mark away, and the grace period is longer than a key's
/// life. The new key's own expiry was taken for the end of a grace period.
#[test]
fn a_short_life_is_no_grace_period() {
    Testbed::run(async |testbed| {
        for shape in [Shape::ApiKey, Shape::WithoutId, Shape::Plain] {
            let switches = Switches { expires_at: ExpiresAt::StartOfDay, ..Switches::default() };
            let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
            let variables = vec![set("KOSLI_GRACE_PERIOD_HOURS", "720"), set("KOSLI_KEY_TTL_DAYS", "14")];
            let world = testbed.world(&Setting { switches, shape, variables, ..Setting::default() });
            assert_eq!(world.rotate(&token("second", 0), RETRIES).await, Event::Succeeded, "{}", world.story());
        }
    });
}
