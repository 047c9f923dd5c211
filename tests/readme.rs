//! What the README, its pages and the crate's documentation say is so: the calls of a clean rotation, configuration, runbook,
//! checks, tests, links, map.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use emulator::demo::{self, Options, World};
use emulator::process::FunctionProcess;
use emulator::rotation::{self, Event, Retries};
use emulator::{BoxFuture, Call, Clock, Fault, Hook, Service};
use kosli_key_rotation::config::Config;
use kosli_key_rotation::error::ErrorKind;
use kosli_key_rotation::rotation::CheckName;

const README: &str = include_str!("../README.md");
const RUNBOOK: &str = include_str!("../docs/runbook.md");
const PERFORMANCE: &str = include_str!("../docs/performance.md");

/// The rows of the table under a heading that begins with these words, without its head, cell by cell.
fn table(page: &'static str, heading: &str) -> Vec<Vec<&'static str>> {
    let (_, section) = page.split_once(&format!("# {heading}")).unwrap_or_else(|| panic!("no heading {heading}"));
    section
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

/// What stands in backticks.
fn code(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Calls that run side by side: the step, and the calls to either service, in alphabetical order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Round {
    step: String,
    secrets_manager: Vec<String>,
    kosli: Vec<String>,
}

impl Round {
    fn len(&self) -> usize {
        self.secrets_manager.len() + self.kosli.len()
    }

    fn sorted(mut self) -> Self {
        self.secrets_manager.sort();
        self.kosli.sort();
        self
    }
}

/// Holds every call until all those have arrived that the page says run side by side with it, and notes who came.
struct SideBySide {
    documented: Vec<Round>,
    seen: Mutex<Seen>,
    token: String,
    own_key: String,
}

#[derive(Default)]
struct Seen {
    step: &'static str,
    rounds: Vec<Round>,
    /// Whether the last round still waits for calls.
    open: bool,
}

impl SideBySide {
    fn arrive(&self, call: &Call) -> usize {
        let mut seen = self.seen.lock().expect("no panic");
        if !seen.open {
            let round = Round { step: seen.step.to_owned(), ..Round::default() };
            seen.rounds.push(round);
            seen.open = true;
        }
        let round = seen.rounds.last_mut().expect("one is open");
        match call.service {
            Service::SecretsManager => round.secrets_manager.push(self.name(call)),
            Service::Kosli => round.kosli.push(self.name(call)),
        }
        seen.rounds.len() - 1
    }

    fn is_complete(&self, round: usize) -> bool {
        let expected = self.documented.get(round).map_or(1, Round::len);
        self.seen.lock().expect("no panic").rounds[round].len() >= expected
    }

    /// A call as the page names it.
    fn name(&self, call: &Call) -> String {
        let operation = &call.operation;
        let reads = |what: &str| call.detail.contains(what);
        let of = match operation.as_str() {
            "GetSecretValue" if reads("SecretId=kosli/admin") => " admin secret",
            "GetSecretValue" if reads("VersionStage=AWSCURRENT") => " AWSCURRENT",
            "GetSecretValue" if reads("VersionStage=AWSPREVIOUS") => " AWSPREVIOUS",
            "GetSecretValue" if reads(&format!("VersionId={}", self.token)) => " pending version",
            "GetSecretValue" => " another version",
            "verify" if call.key_id.as_ref() == Some(&self.own_key) => " current key",
            "verify" => " new key",
            _ => "",
        };
        format!("{operation}{of}")
    }
}

impl Hook for SideBySide {
    fn before<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Option<Fault>> {
        Box::pin(async move {
            let round = self.arrive(call);
            let began = Instant::now();
            // Calls that are said to run side by side and do not would wait for each other for ever.
            while !self.is_complete(round) && began.elapsed() < Duration::from_secs(5) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // Calls that run side by side and are not said to would be here by now.
            tokio::time::sleep(Duration::from_millis(30)).await;
            self.seen.lock().expect("no panic").open = false;
            None
        })
    }
}

#[tokio::test]
async fn the_calls_of_a_clean_rotation_are_those_that_it_lists() {
    let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
    let documented: Vec<Round> = table(PERFORMANCE, "The calls of a clean rotation")
        .iter()
        .map(|row| Round { step: row[0].to_owned(), secrets_manager: owned(code(row[1])), kosli: owned(code(row[2])) })
        .map(Round::sorted)
        .collect();
    let sum = |count: fn(&Round) -> usize| documented.iter().map(count).sum::<usize>();
    let (to_aws, to_kosli) = (sum(|round| round.secrets_manager.len()), sum(|round| round.kosli.len()));
    assert!(
        PERFORMANCE.contains(&format!("{to_aws} to Secrets Manager and {to_kosli} to Kosli.")),
        "{to_aws} and {to_kosli}"
    );

    let world = World::set_up(Clock::real(), &Options::default()).await.expect("a world");
    let function = world.function(env!("CARGO_BIN_EXE_kosli-key-rotation").into());
    let rotation = world.begin_rotation(&function.arn()).await.expect("it begins");
    let process = FunctionProcess::new(&world.emulator, "function", function);
    let hook = Arc::new(SideBySide {
        documented: documented.clone(),
        seen: Mutex::default(),
        token: rotation.token.clone(),
        own_key: world.own_key.clone(),
    });
    world.emulator.set_hook(hook.clone());
    let once = Retries { attempts: 1, spacing: Duration::ZERO };
    let invoke = async |event| process.invoke(&event).await;
    let end = rotation::rotate(&world.emulator, &rotation, once, invoke, |_, event| {
        if let Event::StepBegan(step) = event {
            hook.seen.lock().expect("no panic").step = step;
        }
    })
    .await;
    assert_eq!(end, Event::Succeeded);
    let rounds: Vec<Round> = hook.seen.lock().expect("no panic").rounds.iter().cloned().map(Round::sorted).collect();
    assert_eq!(rounds, documented);
}

#[test]
fn every_variable_is_in_the_configuration_table_with_its_default() {
    let asked = Mutex::new(BTreeSet::new());
    let by_lambda = |name: &str| match name {
        "AWS_REGION" => Some("eu-west-1".to_owned()),
        "AWS_ACCESS_KEY_ID" | "AWS_SECRET_ACCESS_KEY" => Some("made-up".to_owned()),
        _ => None,
    };
    let config = Config::from_vars(|name: &str| {
        asked.lock().expect("no panic").insert(name.to_owned());
        by_lambda(name)
    })
    .expect("every other variable has a default");
    let read = asked.into_inner().expect("no panic");

    let rows = table(README, "Configuration");
    let documented: BTreeSet<String> = rows.iter().flat_map(|row| code(row[0])).map(str::to_owned).collect();
    assert_eq!(documented, read);

    for row in &rows {
        let default = code(row[1]).first().copied();
        assert!(default.is_some() || ["unset", "set by Lambda"].contains(&row[1]), "{row:?}");
        let with_default = |name: &str| {
            default.filter(|_| code(row[0]).contains(&name)).map(str::to_owned).or_else(|| by_lambda(name))
        };
        let explicit = Config::from_vars(with_default).expect("the default is valid");
        assert_eq!(format!("{explicit:?}"), format!("{config:?}"), "{row:?}");
    }
}

#[test]
fn every_source_file_is_on_the_map_of_the_crate_documentation() {
    let documentation: String =
        include_str!("../src/lib.rs").lines().filter(|line| line.starts_with("//! |")).collect();
    for (folder, prefix) in [
        ("src", ""),
        ("src/kosli", "kosli/"),
        ("src/rotation", "rotation/"),
        ("src/rotation/replacement", "rotation/replacement/"),
    ] {
        for entry in std::fs::read_dir(folder).expect("tests run in the package's folder") {
            let name = entry.expect("it can be read").file_name().into_string().expect("a plain name");
            let Some(module) = name.strip_suffix(".rs").filter(|module| *module != "lib") else { continue };
            let named = [format!("`{prefix}{name}`"), format!("[`{prefix}{module}`]")];
            assert!(named.iter().any(|name| documentation.contains(name)), "{prefix}{name} is not on the map");
        }
    }
}

#[test]
fn every_tag_is_named() {
    for source in [include_str!("../src/config.rs"), include_str!("../src/rotation/credential.rs")] {
        let tags: Vec<&str> = source.split('"').filter(|text| text.starts_with("kosli:")).collect();
        assert!(!tags.is_empty());
        for tag in tags {
            assert!(README.contains(&format!("`{tag}`")), "the README does not name the tag {tag}");
        }
    }
}

#[test]
fn the_runbook_has_one_row_for_each_kind_of_error() {
    let rows = table(RUNBOOK, "Every errorType");
    let words: Vec<&str> = rows.iter().flat_map(|row| code(row[0])).collect();
    let kinds: Vec<&str> = ErrorKind::ALL.iter().map(|kind| kind.word()).collect();
    assert_eq!(words, kinds);
    for row in rows {
        assert!(row.len() == 4 && row.iter().all(|cell| !cell.is_empty()), "{row:?}");
    }
}

#[test]
fn every_check_of_check_secret_is_explained() {
    let documented: BTreeSet<&str> =
        table(include_str!("../docs/check-secret.md"), "The checks").iter().flat_map(|row| code(row[0])).collect();
    assert_eq!(documented, CheckName::ALL.iter().map(|name| name.word()).collect());
}

#[test]
fn every_test_that_proves_something_exists() {
    let mut proofs = 0;
    for line in include_str!("../docs/failures.md").lines().filter(|line| line.starts_with("| ")) {
        let cell = line.trim_matches('|').split('|').next_back().unwrap_or_default();
        let mut source = String::new();
        for name in code(cell) {
            if name.starts_with("tests/") {
                source = std::fs::read_to_string(name).unwrap_or_else(|error| panic!("{name}: {error}"));
            } else {
                assert!(source.contains(&format!("fn {name}(")), "there is no test {name}: {line}");
            }
            proofs += 1;
        }
    }
    assert!(proofs > 50, "so few proofs prove nothing");
}

/// The pages that a person reads, each with its text.
fn pages() -> impl Iterator<Item = (PathBuf, String)> {
    let of_docs = std::fs::read_dir("docs").expect("tests run in the package's folder");
    ["README.md", "CONTRIBUTING.md", "SECURITY.md", "emulator/README.md"]
        .into_iter()
        .map(PathBuf::from)
        .chain(of_docs.map(|page| page.expect("a page").path()))
        .filter(|page| page.extension().is_some_and(|extension| extension == "md"))
        .map(|page| (page.clone(), std::fs::read_to_string(&page).expect("a page")))
}

/// Links within the repository, to files and to headings.
#[test]
fn every_link_leads_somewhere() {
    let mut links = 0;
    for (page, text) in pages() {
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://")) {
            links += 1;
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { page.clone() } else { page.with_file_name(file) };
            let linked = std::fs::read(&file).unwrap_or_else(|error| panic!("{page:?}: {target}: {error}"));
            assert!(
                heading.is_empty() || anchors(&String::from_utf8_lossy(&linked)).any(|anchor| anchor == heading),
                "{page:?}: {target}"
            );
        }
    }
    assert!(links > 30, "so few links prove nothing");
}

#[test]
fn every_file_that_a_page_names_exists() {
    let mut files = 0;
    for (page, text) in pages() {
        for name in text.lines().flat_map(code).filter(|name| !name.contains([' ', '*'])) {
            let ours = |folder: &str| !folder.is_empty() && folder != "target" && PathBuf::from(folder).is_dir();
            if name.split_once('/').is_some_and(|(folder, _)| ours(folder)) {
                assert!(PathBuf::from(name).exists(), "{page:?}: there is no {name}");
                files += 1;
            }
        }
    }
    assert!(files > 100, "so few files prove nothing: {files}");
}

/// The headings of a page, as links name them.
fn anchors(page: &str) -> impl Iterator<Item = String> {
    page.lines().filter(|line| line.starts_with('#')).map(|line| {
        let kept = |c: &char| c.is_alphanumeric() || [' ', '-', '_'].contains(c);
        line.trim_start_matches('#').trim().chars().filter(kept).collect::<String>().replace(' ', "-").to_lowercase()
    })
}

/// "Self-rotation does without the two reads of the admin secret. Immediate revocation adds `DescribeSecret`, `revoke` and `verify`."
#[tokio::test]
async fn self_rotation_costs_two_calls_less_and_immediate_revocation_three_more() {
    for (arguments, expected) in [(&[][..], 23), (&["--self-rotation"], 21), (&["--revoke", "immediately"], 26)] {
        let options = Options::parse(arguments).expect("valid options");
        let function = env!("CARGO_BIN_EXE_kosli-key-rotation").into();
        let ended = demo::run(&options, function, Arc::new(|_| {})).await.expect("it runs");
        let calls = ended.world.emulator.calls();
        assert_eq!(calls.iter().filter(|call| call.tag == "function").count(), expected, "{arguments:?}");
    }
}
