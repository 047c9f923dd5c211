//! The layers of the source: a file uses what lies below it, never what lies beside or above it. So there is no circle, and whoever
//! reads from the bottom knows every word that comes.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The function's layers, from the bottom. An entry is a file, or a folder together with the file of its name.
const FUNCTION: &[&[&str]] = &[
    &["api_key", "clock", "log", "words"],
    &["identity"],
    &["budget", "document", "error", "metrics", "schedule"],
    &["event", "kosli/answer"],
    &["config"],
    &["http_client"],
    &["secrets_manager/outcome"],
    &["by_hand", "kosli", "marker", "secrets_manager"],
    &["function", "staging"],
    &["rotation/credential"],
    &["rotation/failures", "rotation/marks"],
    &["rotation/promotion", "rotation/session", "rotation/replacement/stop"],
    &["rotation/late", "rotation/replacement/plan", "rotation/requirements"],
    &["rotation/invocation"],
    &["rotation/replacement/mint"],
    &["rotation/replacement/store"],
    &[
        "rotation/clean_up",
        "rotation/replacement",
        "rotation/check_secret",
        "rotation/set_secret",
        "rotation/test_secret",
    ],
    &["rotation/create_secret", "rotation/finish_secret"],
    &["rotation"],
    &["lib"],
    &["main"],
];

/// The emulator's layers, from the bottom. The operations of a service stand above the service: they are methods of it.
const EMULATOR: &[&[&str]] = &[
    &["clock", "faults", "quota", "tls"],
    &["kosli/key", "kosli/switches", "kosli/account", "secrets_manager/answer"],
    &["kosli/answer", "secrets_manager/model"],
    &["kosli/request", "secrets_manager/wire"],
    &["kosli", "secrets_manager"],
    &["kosli/accounts", "kosli/rules", "secrets_manager/operations", "secrets_manager/password"],
    &["secrets_manager/list", "secrets_manager/policy", "secrets_manager/rotation"],
    &["secrets_manager/batch"],
    &["call"],
    &["hook", "reply"],
    &["fault_plan", "runtime_api"],
    &["emulator"],
    &["control", "lambda_endpoint", "rotation"],
    &["server"],
    &["process"],
    &["page/words"],
    &["page/promises"],
    &["page"],
    &["demo/options", "demo/words"],
    &["demo/world"],
    &["demo/promises"],
    &["demo/narration"],
    &["demo"],
    &["lib"],
    &["serve"],
    &["demo_command"],
    &["main"],
];

#[test]
fn no_file_of_the_emulator_uses_one_beside_or_above_it() {
    assert_eq!(upward("emulator/src", "emulator", EMULATOR), [""; 0]);
}

#[test]
fn no_file_of_the_function_uses_one_beside_or_above_it() {
    assert_eq!(upward("src", "kosli_key_rotation", FUNCTION), [""; 0]);
}

/// Every use of a file that does not lie below the one that uses it, and every file that has no layer.
fn upward(folder: &str, library: &str, layers: &[&[&str]]) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files = BTreeSet::new();
    collect(&folder, &folder, &mut files);
    // The longest entry counts: `kosli/answer` before `kosli`.
    let layer_of = |file: &str| {
        let entries =
            layers.iter().enumerate().flat_map(|(layer, entries)| entries.iter().map(move |entry| (layer, *entry)));
        entries
            .filter(|(_, entry)| file.strip_prefix(entry).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
            .max_by_key(|(_, entry)| entry.len())
    };
    let mut findings = Vec::new();
    let mut uses = 0;
    for file in &files {
        let Some((layer, entry)) = layer_of(file) else {
            findings.push(format!("{file} has no layer"));
            continue;
        };
        let source = fs::read_to_string(folder.join(format!("{file}.rs"))).expect("a source file");
        for used in used_by(file, &source, library, &files) {
            uses += 1;
            if let Some((below, other)) = layer_of(&used)
                && below >= layer
                && other != entry
            {
                findings.push(format!("{file} uses {used}"));
            }
        }
    }
    for entry in layers.iter().copied().flatten() {
        assert!(files.contains(*entry), "there is no {entry}");
    }
    assert!(uses > files.len(), "so few uses prove nothing");
    findings
}

/// The source files below a folder, as `rotation/marks`.
fn collect(root: &Path, folder: &Path, files: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(root, &path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let path = path.with_extension("");
            files.insert(path.strip_prefix(root).expect("below it").to_str().expect("text").to_owned());
        }
    }
}

/// The files that a file's paths lead to, its tests left out.
fn used_by(file: &str, source: &str, library: &str, files: &BTreeSet<String>) -> BTreeSet<String> {
    let source = source.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let code = source.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    // Who may use something is no use of it.
    let code = code.replace("pub(in crate::", "pub(in ");
    let here: Vec<&str> = if matches!(file, "lib" | "main") { Vec::new() } else { file.split('/').collect() };
    let above = &here[..here.len().saturating_sub(1)];
    let mut used = BTreeSet::new();
    for (start, _) in code.match_indices(|c: char| c.is_ascii_alphabetic() || c == '_') {
        if code[..start].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let tree = &code[start..];
        let first = tree.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default();
        let rest = tree[first.len()..].strip_prefix("::");
        let (base, rest) = match (first, rest) {
            ("crate", Some(rest)) => (Vec::new(), rest),
            ("super", Some(rest)) => (above.to_vec(), rest),
            (first, Some(rest)) if first == library => (Vec::new(), rest),
            // A module of this file's own.
            (_, Some(_)) if files.contains(&[&here[..], &[first]].concat().join("/")) => (here.clone(), tree),
            _ => continue,
        };
        let mut paths = Vec::new();
        expand(rest, &base, &mut paths);
        for path in paths {
            let known = (1..=path.len()).rev().map(|length| path[..length].join("/")).find(|path| files.contains(path));
            used.extend(known.filter(|known| known != file));
        }
    }
    used
}

/// The paths of a tree such as `event::{SecretId, VersionId}`; what follows the tree comes back.
fn expand<'a>(tree: &'a str, base: &[&'a str], paths: &mut Vec<Vec<&'a str>>) -> &'a str {
    if let Some(mut inner) = tree.strip_prefix('{') {
        loop {
            inner = expand(inner.trim_start(), base, paths).trim_start();
            match inner.strip_prefix(',') {
                Some(next) => inner = next,
                None => return inner.strip_prefix('}').unwrap_or(inner),
            }
        }
    }
    let end = tree.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(tree.len());
    let (segment, rest) = tree.split_at(end);
    let path = match segment {
        "super" => base[..base.len().saturating_sub(1)].to_vec(),
        "" | "self" => base.to_vec(),
        segment => [base, &[segment]].concat(),
    };
    match rest.strip_prefix("::") {
        Some(rest) => expand(rest, &path, paths),
        None => {
            paths.push(path);
            rest
        }
    }
}

#[test]
fn every_way_of_naming_a_file_is_seen() {
    let files: BTreeSet<String> = ["a", "b", "b/c", "b/d", "e"].map(str::to_owned).into();
    let used = |file, source| used_by(file, source, "lib_name", &files).into_iter().collect::<Vec<_>>();
    assert_eq!(used("a", "use crate::b::{self, c::X, d};\nfn f() { crate::e::g() }"), ["b", "b/c", "b/d", "e"]);
    assert_eq!(used("b/c", "use super::d::{X, Y};\nuse super::Z;"), ["b", "b/d"]);
    assert_eq!(used("b", "pub use c::X;\nfn f() { d::g(); self::c::h() }"), ["b/c", "b/d"]);
    assert_eq!(used("main", "use lib_name::a::X;\n// use crate::e;\n#[cfg(test)]\nmod tests { use crate::b; }"), ["a"]);
}
