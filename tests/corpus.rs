//! Replays the committed corpora of all fuzz targets: what a fuzzer once found interesting stays tested in ordinary builds.
//!
//! `ONIONSKIN_BLESS=1 cargo test --test corpus` writes the seeds anew that are made of valid values; others in the folders stay.

#![expect(clippy::print_stdout, reason = "names the input that fails")]

#[path = "fuzz_bodies/mod.rs"]
mod bodies;
#[path = "fuzz_bodies/seeds.rs"]
mod seeds;

use std::fs;
use std::path::PathBuf;

fn folder(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

fn replay(target: &str) {
    let Some((_, body)) = bodies::TARGETS.iter().find(|(name, _)| *name == target) else { unreachable!("no target {target}") };
    let dir = folder(target);
    if std::env::var_os("ONIONSKIN_BLESS").is_some() {
        fs::create_dir_all(&dir).expect("a folder");
        for (i, seed) in seeds::of(target).into_iter().enumerate() {
            fs::write(dir.join(format!("seed-{i:02}")), seed).expect("a seed");
        }
    }
    let mut files: Vec<PathBuf> = fs::read_dir(&dir).expect("a corpus").map(|e| e.expect("an entry").path()).collect();
    files.sort();
    assert!(files.len() >= 5, "{target} has {} inputs", files.len());
    for file in files {
        println!("{}", file.display());
        body(&fs::read(&file).expect("an input"));
    }
}

macro_rules! replayed {
    ($($target:ident)*) => {$(
        #[test]
        fn $target() {
            replay(stringify!($target));
        }
    )*

    #[test]
    fn every_target_is_replayed_and_fuzzed() {
        let replayed = [$(stringify!($target)),*];
        let names: Vec<&str> = bodies::TARGETS.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, replayed);
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        let manifest = fs::read_to_string(root.join("Cargo.toml")).expect("fuzz/Cargo.toml");
        for name in names {
            assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is missing in fuzz/Cargo.toml");
            assert!(root.join(format!("fuzz_targets/{name}.rs")).exists(), "{name} has no target");
        }
    }};
}

replayed! { cell hello overlay_message record share_manifest request key_text paths_state kept_view ntor session link store world }
