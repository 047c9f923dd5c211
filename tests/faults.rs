//! Whatever fails, wherever: a rotation completes over redelivery, and all promises hold, at every instant.

mod support;

use std::time::{Duration, Instant};

use emulator::rotation::{Event, Retries};
use support::{Bench, Setting, token};

const RETRIES: Retries = Retries { attempts: 6, spacing: Duration::from_secs(60) };

#[test]
fn a_clean_rotation() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let bench = Bench::new(1).await;
        let begin = Instant::now();
        for n in 0..100 {
            let world = bench.world(&Setting::default());
            let end = world.rotate(&token("second", 0), RETRIES).await;
            if n == 0 {
                println!("{}", world.story());
            }
            assert_eq!(end, Event::Succeeded, "{}", world.story());
            assert_eq!(world.check_completed(), Vec::<String>::new(), "{}", world.story());
        }
        println!("{:?} per case", begin.elapsed() / 100);
    });
}
