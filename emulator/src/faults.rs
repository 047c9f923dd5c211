//! What can go wrong on the way to a service and back, and the text form in which a person asks for it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use http::StatusCode;

/// What becomes of one call. In its text form (see [`FromStr`]) it is what people write after the `=` of a [`Rule`].
///
/// A refusal, an error, a page and a garbled answer echo the request, its `Authorization` and its body, as some servers and proxies
/// do: in the body, in the header `x-request` and in `location`. A client that logs or quotes what it is told leaks then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The service refuses in its own error shape: a definite no, nothing happened. `refuse:409`, `refuse:400:AccessDeniedException`.
    Refuse(Refusal),
    /// A 5xx instead of the effect. `error-before`, `error-before:503`.
    ErrorBefore(StatusCode),
    /// A 5xx although the effect has happened. `error-after`, `error-after:502`.
    ErrorAfter(StatusCode),
    /// The connection is reset; nothing happened. `drop-before`.
    DropBefore,
    /// The effect has happened, and then the connection is reset. `drop-after`.
    DropAfter,
    /// Nothing happens and no answer ever comes. `no-answer`.
    NoAnswer,
    /// The effect has happened, and no answer ever comes. `no-answer-after`.
    NoAnswerAfter,
    /// No answer ever comes, and the effect happens that much later on the emulator's clock. `late:20s`.
    ///
    /// Every later call sees it, and every look at a service does.
    LateEffect(Duration),
    /// The effect happens at once, the answer leaves that much later on the emulator's clock. `delay:3s`.
    Delay(Duration),
    /// The effect, and the service's status with a body that is not JSON. `garble`.
    Garble,
    /// The effect, and the connection is cut in the middle of the body. `truncate`.
    Truncate,
    /// The effect, and an answer without what it is asked for: Kosli's `key` and `api_key`; Secrets Manager's values,
    /// version ids and labels. `incomplete`.
    Incomplete,
    /// A proxy answers with a page of its own, and the service hears nothing. `html`, `html:503`.
    Html(StatusCode),
    /// The client is killed before anything happens ([`Hook::kill`](crate::Hook::kill)), and the connection is reset. `kill-before`.
    KillBefore,
    /// The client is killed right after the effect ([`Hook::kill`](crate::Hook::kill)), and the connection is reset. `kill-after`.
    KillAfter,
}

/// How a service says no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status code of the answer.
    pub status: StatusCode,
    /// Secrets Manager's error type (`__type`). Kosli's errors have no code. `None`: one that fits the status.
    pub code: Option<String>,
    /// The message. `None`: one that fits the status.
    pub message: Option<String>,
    /// Seconds for a `Retry-After` header.
    pub retry_after: Option<u32>,
}

impl Refusal {
    /// A refusal with this status, and with what usually goes with it.
    pub fn new(status: StatusCode) -> Self {
        Self { status, code: None, message: None, retry_after: None }
    }
}

/// When the effect of a call happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It does not.
    Never,
    /// Before the answer leaves, as it should.
    Now,
    /// That much later on the clock.
    Later(Duration),
}

impl Fault {
    /// When a call that meets this fault has its effect.
    pub fn effect(&self) -> Effect {
        match self {
            Self::Refuse(_)
            | Self::ErrorBefore(_)
            | Self::DropBefore
            | Self::NoAnswer
            | Self::Html(_)
            | Self::KillBefore => Effect::Never,
            Self::ErrorAfter(_)
            | Self::DropAfter
            | Self::NoAnswerAfter
            | Self::Delay(_)
            | Self::Garble
            | Self::Truncate
            | Self::Incomplete
            | Self::KillAfter => Effect::Now,
            Self::LateEffect(by) => Effect::Later(*by),
        }
    }
}

/// The text form: a word, then what it needs, separated by colons. It is what [`FromStr`] reads.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refuse(Refusal { status, code, message, retry_after }) => {
                write!(f, "refuse:{}", status.as_u16())?;
                if let Some(seconds) = retry_after {
                    write!(f, ":retry-after={seconds}")?;
                }
                if let Some(code) = code {
                    write!(f, ":{code}")?;
                }
                message.as_ref().map_or(Ok(()), |message| write!(f, ":message={message}"))
            }
            Self::ErrorBefore(status) => write!(f, "error-before:{}", status.as_u16()),
            Self::ErrorAfter(status) => write!(f, "error-after:{}", status.as_u16()),
            Self::DropBefore => f.write_str("drop-before"),
            Self::DropAfter => f.write_str("drop-after"),
            Self::NoAnswer => f.write_str("no-answer"),
            Self::NoAnswerAfter => f.write_str("no-answer-after"),
            Self::LateEffect(by) => write!(f, "late:{}ms", by.as_millis()),
            Self::Delay(by) => write!(f, "delay:{}ms", by.as_millis()),
            Self::Garble => f.write_str("garble"),
            Self::Truncate => f.write_str("truncate"),
            Self::Incomplete => f.write_str("incomplete"),
            Self::Html(status) => write!(f, "html:{}", status.as_u16()),
            Self::KillBefore => f.write_str("kill-before"),
            Self::KillAfter => f.write_str("kill-after"),
        }
    }
}

impl FromStr for Fault {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (word, argument) = match text.split_once(':') {
            Some((word, argument)) => (word, Some(argument)),
            None => (text, None),
        };
        let status = |default| argument.map_or(Ok(default), parse_status);
        let fault = match word {
            "refuse" => return parse_refusal(argument.unwrap_or("429")).map(Self::Refuse),
            "error-before" => return status(StatusCode::INTERNAL_SERVER_ERROR).map(Self::ErrorBefore),
            "error-after" => return status(StatusCode::INTERNAL_SERVER_ERROR).map(Self::ErrorAfter),
            "html" => return status(StatusCode::BAD_GATEWAY).map(Self::Html),
            "late" => return parse_duration(argument.unwrap_or_default()).map(Self::LateEffect),
            "delay" => return parse_duration(argument.unwrap_or_default()).map(Self::Delay),
            "drop-before" => Self::DropBefore,
            "drop-after" => Self::DropAfter,
            "no-answer" => Self::NoAnswer,
            "no-answer-after" => Self::NoAnswerAfter,
            "garble" => Self::Garble,
            "truncate" => Self::Truncate,
            "incomplete" => Self::Incomplete,
            "kill-before" => Self::KillBefore,
            "kill-after" => Self::KillAfter,
            _ => return Err(ParseError(format!("\"{word}\" is not a fault; faults are {FAULTS}"))),
        };
        match argument {
            None => Ok(fault),
            Some(argument) => Err(ParseError(format!("the fault {word} takes nothing after it, not \":{argument}\""))),
        }
    }
}

/// Every fault in its text form, for help texts and error messages.
pub const FAULTS: &str = "refuse[:STATUS[:CODE][:retry-after=SECONDS][:message=TEXT]], error-before[:STATUS], \
    error-after[:STATUS], drop-before, drop-after, no-answer, no-answer-after, late:TIME, delay:TIME, garble, truncate, \
    incomplete, html[:STATUS], kill-before, kill-after";

/// Every operation that a [`Rule`] may name: Kosli's, then Secrets Manager's.
pub const OPERATIONS: [&str; 30] = [
    "create",
    "list",
    "get",
    "rotate",
    "revoke",
    "verify",
    "create-account",
    "list-accounts",
    "get-account",
    "delete-account",
    "BatchGetSecretValue",
    "CancelRotateSecret",
    "CreateSecret",
    "DeleteResourcePolicy",
    "DeleteSecret",
    "DescribeSecret",
    "GetRandomPassword",
    "GetResourcePolicy",
    "GetSecretValue",
    "ListSecretVersionIds",
    "ListSecrets",
    "PutResourcePolicy",
    "PutSecretValue",
    "RestoreSecret",
    "RotateSecret",
    "TagResource",
    "UntagResource",
    "UpdateSecret",
    "UpdateSecretVersionStage",
    // A call that neither of the services knows.
    "unknown",
];

/// Which calls meet a fault, and which fault. Written `OPERATION[@CALLER][#NUMBERS]=FAULT`.
///
/// ```text
/// rotate#1=drop-after                        the first rotate at Kosli happens, and its answer is lost
/// PutSecretValue#1..3=refuse:400:ThrottlingException
/// list=error-before:503                      every list
/// verify#2..=delay:5s                        from the second verify on
/// #7=kill-after                              the seventh call, whatever it is
/// PutSecretValue@function#1=late:107s        the first store of the function's, whatever others store meanwhile
/// ```
///
/// Operations are listed in [`OPERATIONS`]; a caller is the tag of the port that the call comes through. Calls are counted from the moment at which the rule is added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The operation; `None`: every call counts.
    pub operation: Option<String>,
    /// Whose calls count: the tag of a port. `None`: those of all.
    pub caller: Option<String>,
    /// The first of the matching calls that meets the fault, counted from one.
    pub first: usize,
    /// The last one; `None`: all that follow.
    pub last: Option<usize>,
    /// What they meet.
    pub fault: Fault,
}

impl Rule {
    /// Whether the `nth` of the calls that count meets the fault.
    pub(crate) fn covers(&self, nth: usize) -> bool {
        nth >= self.first && self.last.is_none_or(|last| nth <= last)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.operation.as_deref().unwrap_or_default())?;
        if let Some(caller) = &self.caller {
            write!(f, "@{caller}")?;
        }
        match (self.first, self.last) {
            (1, None) if self.operation.is_some() || self.caller.is_some() => {}
            (first, None) => write!(f, "#{first}..")?,
            (first, Some(last)) if first == last => write!(f, "#{first}")?,
            (first, Some(last)) => write!(f, "#{first}..{last}")?,
        }
        write!(f, "={}", self.fault)
    }
}

impl FromStr for Rule {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let in_rule = |error: ParseError| ParseError(format!("in \"{text}\": {error}"));
        let (calls, fault) = text.split_once('=').ok_or_else(|| {
            ParseError(format!("\"{text}\" names no fault; write OPERATION#NUMBER=FAULT, such as rotate#1=drop-after"))
        })?;
        let (operation, numbers) = match calls.split_once('#') {
            Some((operation, numbers)) => (operation, Some(numbers)),
            None => (calls, None),
        };
        let (operation, caller) = match operation.split_once('@') {
            Some((operation, caller)) => (operation, Some(caller)),
            None => (operation, None),
        };
        let (first, last) = numbers.map_or(Ok((1, None)), parse_numbers).map_err(in_rule)?;
        let operation = match operation {
            "" if numbers.is_none() && caller.is_none() => {
                return Err(in_rule(ParseError("name an operation, a call's number, or both before the \"=\"".into())));
            }
            "" => None,
            name if OPERATIONS.contains(&name) => Some(name.to_owned()),
            name => {
                // A step's name, most often: createSecret is none of the calls.
                let operations = OPERATIONS.join(", ");
                return Err(in_rule(ParseError(format!(
                    "\"{name}\" is not an operation; operations are {operations}"
                ))));
            }
        };
        if caller == Some("") {
            return Err(in_rule(ParseError("name a caller after the \"@\", such as function".into())));
        }
        Ok(Self { operation, caller: caller.map(str::to_owned), first, last, fault: fault.parse().map_err(in_rule)? })
    }
}

/// Why a fault or a rule could not be read: a sentence for the person who wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError(String);

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ParseError {}

fn parse_refusal(text: &str) -> Result<Refusal, ParseError> {
    // The message comes last and may hold colons of its own.
    let (head, message) = match text.split_once(":message=") {
        Some((head, message)) => (head, Some(message.to_owned())),
        None => (text, None),
    };
    let mut parts = head.split(':');
    let mut refusal = Refusal { message, ..Refusal::new(parse_status(parts.next().unwrap_or_default())?) };
    for part in parts {
        match part.split_once('=') {
            Some(("retry-after", seconds)) => {
                let seconds = seconds
                    .parse()
                    .map_err(|_| ParseError(format!("retry-after takes whole seconds, not \"{seconds}\"")))?;
                refusal.retry_after = Some(seconds);
            }
            None if !part.is_empty() => refusal.code = Some(part.to_owned()),
            _ => return Err(ParseError(format!("a refusal has no \"{part}\"; it takes {FAULTS}"))),
        }
    }
    Ok(refusal)
}

fn parse_status(text: &str) -> Result<StatusCode, ParseError> {
    text.parse().ok().filter(|status: &StatusCode| status.as_u16() >= 300 && status.as_u16() < 600).ok_or_else(|| {
        ParseError(format!("\"{text}\" is not the status of a failure; give a number from 300 to 599, such as 503"))
    })
}

/// Reads `90s`, `1500ms`, `20m`, `25h` or `30d`; a bare number is seconds.
pub fn parse_duration(text: &str) -> Result<Duration, ParseError> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let milliseconds: Option<u64> = match unit {
        "ms" => Some(1),
        "" | "s" => Some(1000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        "d" => Some(86_400_000),
        _ => None,
    };
    milliseconds
        .zip(number.parse::<u64>().ok())
        .and_then(|(unit, number)| number.checked_mul(unit))
        .map(Duration::from_millis)
        .ok_or_else(|| ParseError(format!("\"{text}\" is not a length of time; write 1500ms, 90s, 20m, 25h or 30d")))
}

fn parse_numbers(text: &str) -> Result<(usize, Option<usize>), ParseError> {
    let number = |text: &str| text.parse().ok().filter(|&number: &usize| number > 0);
    let numbers = match text.split_once("..") {
        None => number(text).map(|only| (only, Some(only))),
        Some((first, "")) => number(first).map(|first| (first, None)),
        Some((first, last)) => number(first).zip(number(last)).map(|(first, last)| (first, Some(last))),
    };
    numbers.filter(|(first, last)| last.is_none_or(|last| *first <= last)).ok_or_else(|| {
        ParseError(format!("\"#{text}\" does not number calls; write #1, #2..4 or #3.. (the first call is #1)"))
    })
}
