//! The memory of a process that rotates hundreds of secrets.

#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use emulator::Clock;
use emulator::kosli::Quota;
use emulator::process::FunctionProcess;
use emulator::rotation::{Event, Retries};
use emulator::runtime_api::Function;
use emulator::secrets_manager::RotationRequest;
use testbed::fleet::{Fleet, SECRETS, Tally, Watch};
use testbed::{ADMIN_SECRET, RETRIES, Setting, Testbed, say};
use tokio::task::JoinSet;

/// The real executable, four processes of it: each rotates a quarter of the fleet, and its memory stays what it was.
#[tokio::test(flavor = "multi_thread")]
async fn the_memory_of_a_process_that_rotates_hundreds_of_secrets_is_flat() {
    const PROCESSES: usize = 4;
    /// After so many the clients are made, the connections open, and the longest of everything has been seen.
    const WARM_UP: usize = 25;
    /// The lists that Kosli answers become longer by a key with every rotation. A leak of one answer in each would be ten
    /// times this.
    const MARGIN: u64 = 1_000;

    let began = Instant::now();
    let testbed = Testbed::with_clock(0, Clock::real()).await;
    let emulator = testbed.emulator.clone();
    let (fleet, rotations) = {
        let world = testbed.world(&Setting { strangers: false, ..Setting::default() });
        let fleet = Arc::new(Fleet::new(&world));
        let rotations = fleet.begin(&world);
        (fleet, rotations)
    };
    let watch = Arc::new(Watch::new(&fleet));
    emulator.set_hook(watch.clone());
    // Loose enough for the test to be quick, tight enough to be met.
    let quota = Quota { per_second: 150, retry_after: None };
    emulator.with_kosli(|kosli| kosli.switches.quota = Some(quota));

    let mut processes = JoinSet::new();
    for (number, share) in rotations.chunks(SECRETS / PROCESSES).enumerate() {
        let (emulator, share) = (emulator.clone(), share.to_vec());
        let mut function = Function::new(env!("CARGO_BIN_EXE_function"));
        function.environment.push(("KOSLI_ADMIN_SECRET_ID".to_owned(), ADMIN_SECRET.to_owned()));
        let process = FunctionProcess::new(&emulator, &number.to_string(), function);
        processes.spawn(async move {
            let (mut after_warm_up, mut tally) = (0, Tally::default());
            for (done, rotation) in share.iter().enumerate() {
                if done == WARM_UP {
                    after_warm_up = peak_memory(process.pid().unwrap());
                }
                let seen = Mutex::new(&mut tally);
                let invoke = |event| {
                    let process = process.clone();
                    async move { process.invoke(&event).await }
                };
                let retries = Retries { attempts: RETRIES.attempts, spacing: Duration::from_secs(1) };
                let observe = |_: &RotationRequest, event: &Event| seen.lock().unwrap().observe(event);
                emulator::rotation::rotate(&emulator, rotation, retries, invoke, observe).await;
            }
            let at_the_end = peak_memory(process.pid().unwrap());
            (after_warm_up, at_the_end, tally)
        });
    }
    let ended = processes.join_all().await;
    let memory: Vec<(u64, u64)> = ended.iter().map(|(before, after, _)| (*before, *after)).collect();
    say!(
        "{SECRETS} secrets through {PROCESSES} processes in {:.1?}; peak memory in kB after {WARM_UP} rotations and after {}: \
         {memory:?}",
        began.elapsed(),
        SECRETS / PROCESSES
    );
    let calls = emulator.calls();
    assert!(calls.iter().any(|call| call.status == Some(429)), "nothing was throttled");
    for (before, after, tally) in ended {
        assert_eq!(tally.unfinished, []);
        assert!(after <= before + MARGIN, "the memory grew from {before} to {after} kB");
    }
    let mut broken = watch.broken();
    broken.extend(fleet.look_at_the_end(0));
    assert!(broken.is_empty(), "{} promises broken, the first: {}", broken.len(), broken[0]);
}

/// The most that was ever resident, in kB. A process that was started anew has none of its predecessor's.
fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim_end_matches("kB").trim().parse().unwrap()
}
