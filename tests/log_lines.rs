//! The lines in `docs/observability.md` are those that the executable writes: each block says how it came about, and is made
//! again here. Ids and instants differ from run to run, and are left out of the comparison on both sides.

use std::collections::BTreeSet;
use std::time::Duration;

use emulator::Clock;
use emulator::demo::{Options, World};
use emulator::process::FunctionProcess;
use emulator::rotation::{self, Event, Retries, STEPS, step_event};
use kosli_key_rotation::rotation::{OldKey, Outcome};
use serde_json::{Value, json};
use testbed::Canaries;

const DOCUMENT: &str = include_str!("../docs/observability.md");

/// What stands before a block of lines.
const MARKER: &str = "<!-- written by";

/// A block of the document, and how its lines come about.
#[derive(Debug)]
struct Block {
    /// `rotation`; one of its steps, alone; or `checkSecret` after a rotation.
    what: &'static str,
    level: &'static str,
    format: &'static str,
    fault: Option<&'static str>,
    lines: Vec<&'static str>,
}

/// `<!-- written by rotation INFO JSON rotate#1=drop-after -->`, and the fenced lines that follow.
fn blocks() -> Vec<Block> {
    let parse = |text: &'static str| {
        let (head, rest) = text.split_once("-->").expect("the comment ends");
        let mut words = head.split_whitespace();
        let mut word = || words.next().expect("what, level and format");
        let (what, level, format) = (word(), word(), word());
        let fenced = rest.trim_start().strip_prefix("```").expect("a block follows");
        let lines = fenced.lines().skip(1).take_while(|line| *line != "```").collect();
        Block { what, level, format, fault: words.next(), lines }
    };
    DOCUMENT.split(MARKER).skip(1).map(parse).collect()
}

impl Block {
    /// The lines that the executable writes.
    async fn make(&self) -> Vec<String> {
        let world = World::set_up(Clock::real(), &Options::default()).await.expect("a world");
        let mut function = world.function(env!("CARGO_BIN_EXE_kosli-key-rotation").into());
        for (name, value) in [("AWS_LAMBDA_LOG_LEVEL", self.level), ("AWS_LAMBDA_LOG_FORMAT", self.format)] {
            if !value.is_empty() {
                function.environment.push((name.to_owned(), value.to_owned()));
            }
        }
        if let Some(fault) = self.fault {
            world.emulator.faults().add(fault.parse().expect("a fault"));
        }
        let rotation = world.begin_rotation(&function.arn()).await.expect("it begins");
        let process = FunctionProcess::new(&world.emulator, "function", function.clone());
        if STEPS.contains(&self.what) {
            // Whether it succeeds is part of what it writes.
            let _ = process.invoke(&step_event(&rotation, self.what)).await;
        } else {
            let once = Retries { attempts: 1, spacing: Duration::ZERO };
            let invoke = async |event| process.invoke(&event).await;
            rotation::rotate(&world.emulator, &rotation, once, invoke, |_, _: &Event| {}).await;
        }
        process.stop().await;
        let keyless = |lines: Vec<String>| {
            let mut canaries = Canaries::default();
            world.emulator.with_kosli(|kosli| canaries.add(kosli.keys().map(|key| key.value.as_str())));
            canaries.add([rotation.rotation_token.as_str()]);
            assert_eq!(canaries.find(lines.join("\n").as_bytes()), None);
            lines
        };
        if self.what != "checkSecret" {
            return keyless(process.output());
        }
        let process = FunctionProcess::new(&world.emulator, "check", function);
        let event = json!({ "Step": self.what, "SecretId": rotation.arn });
        process.invoke(&event).await.expect("a report");
        process.stop().await;
        keyless(process.output())
    }
}

/// A line without what differs from run to run, and from build to build: with the emulator in it, the executable keeps the order of
/// JSON members; as it is deployed, it sorts them.
fn comparable(line: &str) -> String {
    let sorted = serde_json::from_str::<Value>(line).map(|mut line| {
        line.sort_all_objects();
        line.to_string()
    });
    let line = sorted.as_deref().unwrap_or(line);
    let mut comparable = String::new();
    let mut last = "";
    for piece in line.split_inclusive(|c: char| !(c.is_ascii_alphanumeric() || "-.:".contains(c))) {
        let end = piece.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        let word = end.trim_start_matches(':');
        let all = |test: fn(&u8) -> bool| word.bytes().all(|byte| test(&byte));
        let kind = match word {
            _ if word.len() >= 20 && word.ends_with('Z') && word.as_bytes()[4] == b'-' => "TIME",
            _ if word.len() >= 20 && all(|byte| byte.is_ascii_hexdigit() || *byte == b'-') => "ID",
            _ if word.len() >= 10 && all(u8::is_ascii_digit) => "SECONDS",
            _ if word.contains('.') && word.parse::<f64>().is_ok() => "DAYS",
            _ if last == "StepDuration" && all(u8::is_ascii_digit) => "MILLISECONDS",
            _ if word.len() == "ci-AbCdEf".len() && word.starts_with("ci-") => "ci-SUFFIX",
            _ => word,
        };
        comparable += &piece.replacen(word, kind, 1);
        last = if word.is_empty() { last } else { word };
    }
    comparable
}

#[tokio::test]
async fn the_lines_are_those_that_the_executable_writes() {
    let blocks = blocks();
    for (level, format) in [("INFO", "JSON"), ("INFO", "Text"), ("WARN", "JSON"), ("WARN", "Text")] {
        let clean = |block: &&Block| (block.what, block.level, block.format) == ("rotation", level, format);
        assert!(
            blocks.iter().any(|block| clean(&block) && block.fault.is_none()),
            "no rotation at {level} in {format}"
        );
    }
    let mut differing = Vec::new();
    for block in blocks {
        let written = block.make().await;
        let comparable = |lines: &mut dyn Iterator<Item = &str>| lines.map(comparable).collect::<Vec<_>>();
        let documented = comparable(&mut block.lines.iter().copied());
        if documented != comparable(&mut written.iter().map(String::as_str)) {
            let Block { what, level, format, fault, .. } = block;
            let fault = fault.map(|fault| format!(" {fault}")).unwrap_or_default();
            differing.push(format!("{MARKER} {what} {level} {format}{fault} -->\n{}\n", written.join("\n")));
        }
    }
    assert!(differing.is_empty(), "these blocks are to be:\n{}", differing.join("\n"));
}

/// The metrics have to get through whatever level Lambda is told to drop lines below, and every line of the log has to say
/// which invocation and which step it belongs to.
#[test]
fn every_line_carries_its_level_its_instant_its_request_and_its_step() {
    let mut lines = 0;
    for block in blocks() {
        for line in &block.lines {
            lines += 1;
            let Ok(parsed) = serde_json::from_str::<Value>(line) else {
                assert!(line.contains("request_id=") && line.contains("step="), "{line}");
                continue;
            };
            let timestamp = parsed["timestamp"].as_str().expect("an instant");
            assert!(timestamp.ends_with('Z') && timestamp.contains('T'), "{line}");
            if parsed.get("_aws").is_some() {
                assert_eq!(parsed["level"], block.level, "{line}");
                continue;
            }
            assert!(parsed["span"]["request_id"].is_string() && parsed["span"]["step"].is_string(), "{line}");
        }
    }
    assert!(lines > 20, "so few lines prove nothing");
}

/// The rows of the table whose head begins with this cell.
fn rows(text: &'static str, head: &str) -> Vec<&'static str> {
    let rows = text.lines().map(|line| line.trim_start_matches("//! ")).skip_while(|line| !line.starts_with(head));
    rows.skip(2).take_while(|line| line.starts_with('|')).collect()
}

#[test]
fn the_metrics_are_those_of_the_source() {
    let documented = rows(DOCUMENT, "| metric |");
    assert!(!documented.is_empty());
    assert_eq!(documented, rows(include_str!("../src/metrics.rs"), "| metric |"));
}

#[test]
fn every_field_is_explained_and_exists() {
    let explained: BTreeSet<&str> =
        rows(DOCUMENT, "| field |").iter().flat_map(|row| row.split('|').nth(1)).flat_map(code).collect();
    let mut written = BTreeSet::new();
    for block in blocks() {
        for line in block.lines {
            if let Ok(Value::Object(line)) = serde_json::from_str(line)
                && !line.contains_key("_aws")
            {
                let span = line["span"].as_object().cloned().unwrap_or_default();
                written.extend(line.keys().chain(span.keys()).cloned());
            }
        }
    }
    for field in &written {
        assert!(explained.contains(field.as_str()), "the field {field} is not explained");
    }
    let sources = [
        include_str!("../src/rotation.rs"),
        include_str!("../src/rotation/create_secret.rs"),
        include_str!("../src/rotation/replacement.rs"),
        include_str!("../src/rotation/replacement/plan.rs"),
        include_str!("../src/rotation/replacement/mint.rs"),
        include_str!("../src/rotation/replacement/store.rs"),
        include_str!("../src/rotation/finish_secret.rs"),
        include_str!("../src/rotation/clean_up.rs"),
    ];
    for field in explained.iter().filter(|field| !written.contains(**field)) {
        let exists = [format!("{field} = "), format!("(%{field},"), format!(" {field},"), format!("info!({field},")];
        assert!(
            sources.iter().any(|source| exists.iter().any(|text| source.contains(text))),
            "nothing writes the field {field}"
        );
    }
}

#[test]
fn the_words_of_a_field_are_those_that_there_are() {
    let documented = |field: &str| -> BTreeSet<&str> {
        let begin = format!("| `{field}` |");
        let row = rows(DOCUMENT, "| field |").into_iter().find(|row| row.starts_with(&begin)).expect("a row");
        row.split('|').nth(2).into_iter().flat_map(code).collect()
    };
    assert_eq!(documented("outcome"), Outcome::ALL.iter().map(|outcome| outcome.word()).collect());
    assert_eq!(documented("old_key"), OldKey::ALL.iter().map(|verdict| verdict.word()).collect());
}

/// What stands in backticks.
fn code(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// `INFO` is Lambda's default and the README's; Lambda sets no level at all where the log is text.
#[tokio::test]
async fn without_a_level_the_log_is_at_info() {
    let written = Block { what: "rotation", level: "", format: "Text", fault: None, lines: Vec::new() }.make().await;
    assert!(written.iter().any(|line| line.contains(" INFO ") && line.contains("step succeeded")), "{written:#?}");
}
