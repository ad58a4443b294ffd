//! Rooms may use what is below them and nothing else (the map in `lib.rs`). One crate cannot enforce that by itself, so this does.

#![expect(clippy::unwrap_used, reason = "a test that fails may say so at once")]

use std::fs;
use std::path::{Path, PathBuf};

/// Each room, and the rooms it may use besides itself.
const ROOMS: [(&str, &[&str]); 10] = [
    ("base", &[]),
    ("wire", &["base"]),
    ("crypto", &["base", "wire"]),
    ("proto", &["base", "wire", "crypto"]),
    ("store", &["base", "wire", "crypto"]),
    ("node", &["base", "wire", "crypto", "proto", "store"]),
    ("client", &["base", "wire", "crypto", "proto", "node"]),
    ("api", &["base", "wire", "crypto", "proto", "node", "client"]),
    ("config", &["base", "wire", "crypto", "proto", "client"]),
    ("cli", &["base", "wire", "crypto", "proto", "store", "node", "client", "api", "config"]),
];

fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

/// The room of a path below `src`: its first folder, or the file's own name.
fn room(path: &Path) -> String {
    let first = path.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// What is wrong with a source text of this room.
fn faults(room: &str, text: &str) -> Vec<String> {
    let allowed = ROOMS.iter().find(|(name, _)| *name == room).map(|(_, below)| *below);
    let mut faults = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or("");
        let mut fault = |what: &str| faults.push(format!("line {}: {what}: {}", number + 1, line.trim()));
        if code.contains("crate::{") {
            fault("one path for each `use crate::`");
        }
        if code.contains("super::super") {
            fault("name the path from the crate's root");
        }
        for rest in code.split("crate::").skip(1) {
            let used: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            let known = ROOMS.iter().any(|(name, _)| *name == used);
            if known && used != room && !allowed.is_some_and(|below| below.contains(&used.as_str())) {
                fault("this room may not use that one");
            }
        }
    }
    faults
}

#[test]
fn rooms_use_only_what_is_below_them() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    assert!(files.len() > 20, "the sources were found");
    let mut all = String::new();
    for file in files {
        let below = file.strip_prefix(&src).unwrap();
        let room = room(below);
        if room == "lib" || room == "main" {
            continue;
        }
        assert!(ROOMS.iter().any(|(name, _)| *name == room), "{room} is a new room: say in ROOMS what it may use");
        for fault in faults(&room, &fs::read_to_string(&file).unwrap()) {
            all.push_str(&format!("{}: {fault}\n", below.display()));
        }
    }
    assert!(all.is_empty(), "\n{all}");
}

#[test]
fn faults_are_seen() {
    for bad in ["use crate::node::env;", "let x = crate::store::open();", "use crate::{base, wire};", "use super::super::x;"] {
        assert_eq!(faults("proto", bad).len(), 1, "{bad}");
    }
    assert!(faults("proto", "use crate::wire::cell; // like crate::node").is_empty());
}
