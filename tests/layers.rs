//! What one crate cannot enforce by itself: the rooms' imports point down only, and the tests that the threat model cites are there.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// Each room with its height. A room may name rooms below it; those of one height never name each other.
const ROOMS: [(&str, u8); 10] = [
    ("base", 0),
    ("wire", 1),
    ("crypto", 2),
    ("proto", 3),
    ("store", 3),
    ("node", 4),
    ("client", 5),
    ("config", 6),
    ("api", 6),
    ("cli", 7),
];

fn height(room: &str) -> Option<u8> {
    ROOMS.iter().find(|(name, _)| *name == room).map(|(_, height)| *height)
}

fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a directory of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

/// What is wrong with one line of a room.
fn faults(room: &str, own: u8, line: &str) -> Vec<String> {
    let code = line.split("//").next().unwrap_or_default();
    let mut faults = Vec::new();
    for banned in ["crate::{", "super::super", "crate::*"] {
        if code.contains(banned) {
            faults.push(format!("`{banned}` hides where imports go"));
        }
    }
    for part in code.split("crate::").skip(1) {
        let name: String = part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        match height(&name) {
            Some(other) if name == room || other < own => {}
            Some(_) => faults.push(format!("{room} must not know {name}")),
            None if part.starts_with(|c: char| c.is_lowercase()) => faults.push(format!("{name} is no room")),
            None => {}
        }
    }
    faults
}

#[test]
fn imports_point_down_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut seen = 0;
    let mut wrong = Vec::new();
    for file in files {
        let path = file.strip_prefix(&root).expect("below src");
        let first = path.components().next().map(|c| c.as_os_str().to_string_lossy().replace(".rs", "")).expect("a name");
        if first == "lib" || first == "main" {
            continue;
        }
        let own = height(&first).unwrap_or_else(|| unreachable!("{first} has no place among the rooms: give it one above"));
        let text = fs::read_to_string(&file).expect("a source file");
        for (number, line) in text.lines().enumerate() {
            seen += line.matches("crate::").count();
            wrong.extend(faults(&first, own, line).into_iter().map(|f| format!("src/{}:{}: {f}", path.display(), number + 1)));
        }
    }
    assert!(seen > 100, "only {seen} imports seen: the scan is broken");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_scan_sees_what_it_must() {
    assert_eq!(faults("wire", 1, "use crate::base::limits; // as crate::cli does"), Vec::<String>::new());
    for (room, line) in [
        ("wire", "use crate::crypto::kdf;"),
        ("proto", "    let x = crate::store::BLOB_MAX;"),
        ("store", "use crate::proto::Core;"),
        ("base", "use crate::{base, cli};"),
        ("proto", "use super::super::base;"),
        ("client", "use crate::attic::x;"),
    ] {
        let own = height(room).expect("a room");
        assert!(!faults(room, own, line).is_empty(), "{line}");
    }
}

#[test]
fn the_tests_that_the_threat_model_cites_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("threat-model.md")).expect("the threat model");
    let cited: Vec<(&str, &str)> = text.split('`').filter_map(|quoted| quoted.split_once(".rs::")).collect();
    assert!(cited.len() > 100, "{} citations", cited.len());
    let missing = cited.iter().filter(|(file, test)| {
        let source = fs::read_to_string(root.join(format!("{file}.rs"))).unwrap_or_default();
        !source.contains(&format!("fn {test}("))
    });
    let missing: Vec<_> = missing.collect();
    assert!(missing.is_empty(), "cited and not there: {missing:#?}");
}
