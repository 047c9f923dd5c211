//! Whatever somebody else does, at every gap between two calls of a rotation: no promise breaks, nothing of theirs is undone in
//! silence, and the operator who does what he is told ends with a key that works.
//!
//! The calls of a rotation are recorded, and then every event happens before every one of them, and between every two steps. The same
//! again where a fault befalls the mint or the store.

#![allow(clippy::unwrap_used)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use emulator::kosli::{ListInGrace, RotateInGrace, Switches};
use emulator::rotation::STEPS;
use exhaustive::course::Course;
use exhaustive::excused;
use exhaustive::happening::{Happening, Write};
use exhaustive::turns::{Trouble, Turns};
use exhaustive::{asked_for, everything, kind, on_every_core, replay};
use testbed::{HOUR, Setting, Shape, Testbed, World, say, second, token};

/// The settings that differ most. In text: `json admin after-grace listed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    shape: Shape,
    admin: bool,
    immediately: bool,
    kosli: Answers,
}

/// How Kosli answers for a key in its grace period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answers {
    Listed,
    Hidden,
    Refused,
}

const SHAPES: [(&str, Shape); 3] = [("json", Shape::ApiKey), ("without-id", Shape::WithoutId), ("plain", Shape::Plain)];
const AUTHORITIES: [(&str, bool); 2] = [("admin", true), ("self", false)];
const REVOCATIONS: [(&str, bool); 2] = [("after-grace", false), ("immediately", true)];
const ANSWERS: [(&str, Answers); 3] =
    [("listed", Answers::Listed), ("hidden", Answers::Hidden), ("409", Answers::Refused)];

/// The word for a value, and the value for a word.
fn word<T: PartialEq>(words: &'static [(&'static str, T)], value: &T) -> &'static str {
    words.iter().find(|(_, known)| known == value).unwrap().0
}

fn value<T: Clone>(words: &'static [(&'static str, T)], word: &str) -> Result<T, String> {
    let found = words.iter().find(|(known, _)| *known == word);
    found.map(|(_, value)| value.clone()).ok_or_else(|| format!("{word}?"))
}

impl Place {
    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for (_, shape) in SHAPES {
            for (_, admin) in AUTHORITIES {
                for (_, immediately) in REVOCATIONS {
                    for (_, kosli) in ANSWERS {
                        all.push(Self { shape, admin, immediately, kosli });
                    }
                }
            }
        }
        all
    }

    fn setting(self) -> Setting {
        let switches = match self.kosli {
            Answers::Listed => Switches::default(),
            Answers::Hidden => Switches { list_in_grace: ListInGrace::Hidden, ..Switches::default() },
            Answers::Refused => Switches { rotate_in_grace: RotateInGrace::Conflict, ..Switches::default() },
        };
        Setting {
            name: self.to_string(),
            switches,
            admin: self.admin,
            revoke_immediately: self.immediately,
            shape: self.shape,
            ..Setting::default()
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shape, authority) = (word(&SHAPES, &self.shape), word(&AUTHORITIES, &self.admin));
        write!(f, "{shape} {authority} {} {}", word(&REVOCATIONS, &self.immediately), word(&ANSWERS, &self.kosli))
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let [shape, authority, revocation, answers] = text.split(' ').collect::<Vec<_>>()[..] else {
            return Err(text.to_owned());
        };
        Ok(Self {
            shape: value(&SHAPES, shape)?,
            admin: value(&AUTHORITIES, authority)?,
            immediately: value(&REVOCATIONS, revocation)?,
            kosli: value(&ANSWERS, answers)?,
        })
    }
}

/// What was before the rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum History {
    /// One version.
    New,
    /// A person has put the key in; the one before it lives on.
    ByHand,
    /// A rotation two hours ago: the key before is in its grace period.
    HoursAgo,
    /// A rotation two days ago: the key before is dead.
    DaysAgo,
}

const HISTORIES: [(&str, History); 4] = [
    ("new", History::New),
    ("put-by-hand", History::ByHand),
    ("rotated-2h-ago", History::HoursAgo),
    ("rotated-2d-ago", History::DaysAgo),
];

impl History {
    async fn pass(self, world: &World) {
        if let Self::HoursAgo | Self::DaysAgo = self {
            world.rotate_completely(&token("before", 0)).await;
            world.advance(HOUR * if self == Self::HoursAgo { 2 } else { 48 });
        }
    }
}

/// What befalls a call, by its name in a case.
const TROUBLES: [(&str, &[&str], &str); 9] = [
    ("mint-killed-before", MINT, "kill-before"),
    ("mint-killed-after", MINT, "kill-after"),
    ("mint-lost", MINT, "drop-after"),
    ("mint-late", MINT, "late:33s"),
    ("store-killed-before", STORE, "kill-before"),
    ("store-killed-after", STORE, "kill-after"),
    ("store-lost", STORE, "drop-after"),
    ("store-refused", STORE, "refuse:400:AccessDeniedException"),
    ("store-late", STORE, "late:6s"),
];
const MINT: &[&str] = &["rotate", "create"];
const STORE: &[&str] = &["PutSecretValue"];

fn trouble(name: &str) -> Result<Option<Trouble>, String> {
    if name == "no fault" {
        return Ok(None);
    }
    let (_, operations, fault) = TROUBLES.iter().find(|(known, ..)| *known == name).ok_or(name.to_owned())?;
    Ok(Some(Trouble { operations, fault: fault.parse().unwrap() }))
}

/// When it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gap {
    /// Before this call of the first execution.
    Before(usize),
    /// After this step, before Secrets Manager asks for the next.
    After(&'static str),
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Before(call) => write!(f, "before call {call}"),
            Self::After(step) => write!(f, "after {step}"),
        }
    }
}

impl FromStr for Gap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(call) = text.strip_prefix("before call ") {
            return call.parse().map(Self::Before).map_err(|_| text.to_owned());
        }
        let step = STEPS.into_iter().find(|step| text == format!("after {step}"));
        step.map(Self::After).ok_or_else(|| text.to_owned())
    }
}

/// A case: `json admin after-grace listed | new | edit | before call 7 | mint-lost`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Case {
    place: Place,
    history: History,
    happening: Option<Happening>,
    gap: Gap,
    trouble: &'static str,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let happening = self.happening.map_or("nothing", Happening::name);
        let history = word(&HISTORIES, &self.history);
        write!(f, "{} | {history} | {happening} | {} | {}", self.place, self.gap, self.trouble)
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let [place, history, happening, gap, trouble] = text.split(" | ").collect::<Vec<_>>()[..] else {
            return Err(text.to_owned());
        };
        let names = TROUBLES.iter().map(|(name, ..)| *name).chain(["no fault"]);
        Ok(Self {
            place: place.parse()?,
            history: value(&HISTORIES, history)?,
            happening: Happening::ALL.into_iter().find(|known| known.name() == happening),
            gap: gap.parse()?,
            trouble: names.into_iter().find(|name| *name == trouble).ok_or(trouble.to_owned())?,
        })
    }
}

/// What a case came to.
struct Run {
    /// Whether there was anything to do for the one who does something.
    applies: bool,
    /// How many calls the rotation made, its retries included.
    calls: usize,
    broken: Vec<String>,
    /// The calls in the order of their turns.
    turns: Vec<String>,
    story: String,
}

impl Case {
    async fn run(&self, testbed: &Testbed) -> Run {
        let world = testbed.world(&self.place.setting());
        self.history.pass(&world).await;
        let course = Course::new(world);
        if self.history == History::ByHand {
            excused::replaced_by_hand(&course);
            course.put_key(&course.make_key());
            course.an_hour_later();
        }
        let world = &course.world;
        if self.happening == Some(Happening::GraceRemoved) {
            world.tag("kosli:grace-period-hours", "48");
        }
        let turns =
            Turns::new(&world.emulator, world.probe.clone(), course.ledger.clone(), trouble(self.trouble).unwrap());
        let turns = Arc::new(turns);
        world.emulator.set_hook(turns.clone());
        let (happened, applies, calls) = (Cell::new(self.happening.is_none()), Cell::new(true), Cell::new(0));
        let write: RefCell<Option<Write>> = RefCell::default();
        let happen = async || {
            happened.set(true);
            let Some(happening) = self.happening else { return };
            course.tell(&format!("{} happens, {}", happening.name(), self.gap));
            match happening.happen(&course, &turns).await {
                Some(what) => *write.borrow_mut() = what,
                None => applies.set(false),
            }
            course.ledger.observe();
        };
        let whole = async {
            let rotation = world.begin_rotation(&second()).unwrap();
            let between = async |step: &str| {
                // From here on, whoever looks sees what was written.
                write.borrow_mut().iter_mut().for_each(|write| write.has_been_seen(&course));
                if self.gap == Gap::After(STEPS.into_iter().find(|known| *known == step).unwrap()) && !happened.get() {
                    happen().await;
                    write.borrow_mut().iter_mut().for_each(|write| write.has_been_seen(&course));
                }
            };
            course.drive(0, &rotation, 4, between).await;
            while let Some(rotation) = { course.begun.borrow_mut().pop_front() } {
                course.drive(0, &rotation, 4, async |_| {}).await;
            }
            calls.set(turns.passed());
            course.operate().await;
            let mut broken = course.end().await;
            if let Some(write) = write.borrow().as_ref() {
                broken.extend(write.undone(&course));
            }
            broken
        };
        let take_turns = async {
            loop {
                turns.settle().await;
                match turns.next_of_first() {
                    Some(call) if self.gap == Gap::Before(call) && !happened.get() => {
                        turns.before_it_goes_on(happen()).await;
                    }
                    _ => turns.pass(),
                }
            }
        };
        let broken = tokio::select! {
            broken = whole => broken,
            never = take_turns => never,
        };
        let applies = applies.get() && happened.get();
        Run { applies, calls: calls.get(), broken, turns: turns.log(), story: world.story() }
    }
}

/// What all cases of a test came to.
#[derive(Default)]
struct Report {
    cases: AtomicUsize,
    nothing_to_do: AtomicUsize,
    failures: Mutex<Vec<(Case, Vec<String>, String)>>,
}

impl Report {
    async fn run(&self, testbed: &Testbed, case: Case) -> usize {
        let run = case.run(testbed).await;
        if !run.applies {
            self.nothing_to_do.fetch_add(1, Ordering::SeqCst);
            return run.calls;
        }
        self.cases.fetch_add(1, Ordering::SeqCst);
        if !run.broken.is_empty() {
            self.failures.lock().unwrap().push((case, run.broken, run.story));
        }
        run.calls
    }

    /// Everything that happens, at every gap, in this place, with this history and this fault.
    async fn every_gap(&self, testbed: &Testbed, place: Place, history: History, trouble: &'static str) {
        let clean = Case { place, history, happening: None, gap: Gap::Before(0), trouble };
        let calls = self.run(testbed, clean.clone()).await;
        let gaps = (1..=calls).map(Gap::Before).chain(STEPS.map(Gap::After));
        for gap in gaps {
            for happening in
                Happening::ALL.into_iter().filter(|happening| happening.is_of_interest(history != History::New))
            {
                self.run(testbed, Case { happening: Some(happening), gap, ..clean.clone() }).await;
            }
        }
    }

    fn close(self, begin: Instant) {
        let failures = self.failures.into_inner().unwrap();
        let (cases, nothing) = (self.cases.into_inner(), self.nothing_to_do.into_inner());
        say!("{cases} cases in {:.1?} ({nothing} more with nothing to do), {} failed", begin.elapsed(), failures.len());
        excused::say_what_was_excused();
        let mut kinds: BTreeMap<(&str, String), Vec<&Case>> = BTreeMap::new();
        for (case, broken, _) in &failures {
            for what in broken {
                let cases = kinds.entry((case.happening.map_or("nothing", Happening::name), kind(what))).or_default();
                if cases.last() != Some(&case) {
                    cases.push(case);
                }
            }
        }
        for ((happening, kind), cases) in kinds {
            println!("{happening}: {} cases: {kind}\n    {}", cases.len(), replay("events", cases[0]));
        }
        if let Some((case, broken, story)) = failures.first() {
            panic!("{}\n{}\n{story}", replay("events", case), broken.join("\n"));
        }
        assert!(cases > 100, "so few cases prove nothing");
    }
}

/// The one case that was asked for. True: there was one.
fn one() -> bool {
    let Some(case) = asked_for::<Case>() else { return false };
    Testbed::run(async |testbed| {
        let run = case.run(testbed).await;
        println!("{case}\n{}", run.story);
        assert!(run.broken.is_empty(), "{}", run.broken.join("\n"));
    });
    true
}

/// A piece of work for one core.
type Piece = (Place, History, &'static str);

fn every_gap_of(pieces: &[Piece]) {
    let (begin, report) = (Instant::now(), Report::default());
    on_every_core(pieces.len(), 2, async |testbed, piece| {
        let (place, history, trouble) = pieces[piece];
        report.every_gap(testbed, place, history, trouble).await;
    });
    report.close(begin);
}

#[test]
fn whatever_happens_at_every_gap() {
    if one() {
        return;
    }
    let mut pieces = Vec::new();
    for place in Place::all() {
        for (_, history) in HISTORIES {
            pieces.push((place, history, "no fault"));
        }
    }
    every_gap_of(&pieces);
}

#[test]
fn whatever_happens_at_every_gap_of_a_rotation_whose_mint_or_store_fails() {
    if asked_for::<Case>().is_some() {
        return;
    }
    let mut pieces = Vec::new();
    for (number, place) in Place::all().into_iter().enumerate() {
        for (name, ..) in TROUBLES {
            // Kills everywhere take too long for every change: they are run in some places, and in all of them where everything is.
            let kept = name.contains("killed") && number % 7 == 0;
            if everything() || kept {
                pieces.push((place, History::New, name));
            }
        }
    }
    every_gap_of(&pieces);
}

#[test]
fn a_case_is_read_from_what_is_printed_and_takes_the_same_course_again() {
    Testbed::run(async |testbed| {
        for happening in Happening::ALL {
            let place = Place { shape: Shape::ApiKey, admin: true, immediately: true, kosli: Answers::Listed };
            let gap = Gap::Before(9);
            let case =
                Case { place, history: History::New, happening: Some(happening), gap, trouble: "store-killed-before" };
            assert_eq!(case.to_string().parse(), Ok(case.clone()));
            let (first, again) = (case.run(testbed).await, case.run(testbed).await);
            assert_eq!((first.turns, first.broken), (again.turns, again.broken), "{case}");
        }
    });
}
