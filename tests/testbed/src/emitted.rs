//! All that the function emits (its log, metrics, answers, errors and panics), kept, and searched for keys and rotation tokens
//! (promise I5).

use std::backtrace::Backtrace;
use std::cell::RefCell;
use std::io::Write;
use std::sync::Once;

use emulator::kosli::Key;
use emulator::{Call, Emulator, Service};
use kosli_key_rotation::log;

use crate::canary::Canaries;
use crate::values::key_in;

thread_local! {
    /// All that the function has emitted in this thread since the last search, and what must not be in it. `None`: nobody searches.
    static EMITTED: RefCell<Option<Emitted>> = const { RefCell::new(None) };
}

#[derive(Default)]
struct Emitted {
    text: Vec<u8>,
    canaries: Canaries,
    /// What is in no key list and is as secret as a key.
    rotation_tokens: Vec<String>,
}

/// Where the function's log, metrics, answers and errors go; and panics, which may come while this is in use or gone.
struct Emit;

impl Write for Emit {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = EMITTED.try_with(|emitted| {
            if let Ok(mut emitted) = emitted.try_borrow_mut()
                && let Some(emitted) = emitted.as_mut()
            {
                emitted.text.extend_from_slice(bytes);
            }
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Has a line that the function has written in another process searched as well.
pub fn emit(line: &str) {
    let _ = writeln!(Emit, "{line}");
}

/// What the function has emitted in this thread since the last search.
pub fn emitted() -> String {
    EMITTED.with_borrow(|emitted| {
        emitted.as_ref().map(|emitted| String::from_utf8_lossy(&emitted.text).into_owned()).unwrap_or_default()
    })
}

/// From now on all that the function emits in this thread is kept: its log as it is set up on Lambda, at its most verbose, and
/// what a panic shows.
pub(crate) fn keep_what_is_emitted() {
    static LOG: Once = Once::new();
    LOG.call_once(|| {
        let variable = |name: &str| match name {
            "AWS_LAMBDA_LOG_LEVEL" => Some("TRACE".to_owned()),
            "AWS_LAMBDA_LOG_FORMAT" => Some("JSON".to_owned()),
            _ => None,
        };
        tracing::subscriber::set_global_default(log::subscriber(variable, || Emit)).unwrap();
        let show = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            emit(&format!("{panic}\n{}", Backtrace::force_capture()));
            show(panic);
        }));
    });
    EMITTED.with_borrow_mut(|emitted| {
        emitted.get_or_insert_default();
    });
}

/// Looks for every key value that there ever was, and for every rotation token, in all that was emitted since the last search
/// and in the paths of the requests to Kosli (promise I5).
pub(crate) fn search_what_was_emitted(emulator: &Emulator) {
    let keys: Vec<Key> = emulator.with_kosli(|kosli| kosli.keys().cloned().collect());
    let mut secrets: Vec<String> = emulator.with_secrets_manager(|service| {
        let versions = service.secrets().flat_map(|secret| secret.versions.iter());
        versions.filter_map(|version| key_in(version.text()?)).collect()
    });
    // An id may be said, also where a value begins with it, or where it stands in the place of one.
    secrets.retain(|secret| keys.iter().all(|key| key.value != *secret && key.id != *secret));
    secrets.extend(keys.iter().map(|key| key.secret_part().to_owned()));
    // Whoever keeps the logs of a proxy or of Kosli reads the paths.
    let calls = emulator.calls().into_iter().filter(|call| call.service == Service::Kosli);
    let paths: Vec<String> = calls.map(|call| path(&call).to_owned()).collect();
    let found = EMITTED.with_borrow_mut(|emitted| {
        let emitted = emitted.as_mut()?;
        emitted.canaries.add(secrets.iter().chain(&emitted.rotation_tokens).map(String::as_str));
        for path in &paths {
            writeln!(emitted.text, "{path}").unwrap();
        }
        let found = emitted.canaries.find(&emitted.text);
        emitted.text.clear();
        emitted.rotation_tokens.clear();
        found
    });
    let Some(found) = found else { return };
    let what = format!("I5: a key or a rotation token got out: {found}");
    // The test fails anyway; maybe it is the panic that shows a key, or the test's own assertion.
    if std::thread::panicking() { eprintln!("{what}") } else { panic!("{what}") }
}

/// The path of a request to Kosli, without what was in its body.
pub(crate) fn path(call: &Call) -> &str {
    call.detail.split(' ').next().unwrap_or_default()
}

/// From now on this rotation token must not be in what is emitted.
pub(crate) fn must_not_emit(rotation_token: &str) {
    EMITTED.with_borrow_mut(|emitted| {
        emitted.get_or_insert_default().rotation_tokens.push(rotation_token.to_owned());
    });
}
