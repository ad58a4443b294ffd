//! The command line as people and scripts meet it: words, streams, exit codes. What it prints is compared with files under
//! `tests/cli`; `ONIONSKIN_BLESS=1 cargo test --test cli` writes them anew, for a look at the difference.

#![expect(clippy::unwrap_used, reason = "a test says what failed by failing")]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use tempfile::TempDir;

/// Runs the program in an empty directory of its own, with nothing of the user's around it.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn run_with(&self, args: &[&str], input: &str) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_onionskin"))
            .args(args)
            .current_dir(self.0.path())
            .env_clear()
            .env("HOME", self.0.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A program that does not read may be gone already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    fn run(&self, args: &[&str]) -> Output {
        self.run_with(args, "")
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(self.0.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// All that a run showed, as one text.
fn shown(args: &[&str], out: &Output) -> String {
    format!(
        "$ onionskin {}\nexit {}\n--- stdout\n{}--- stderr\n{}",
        args.join(" "),
        out.status.code().unwrap(),
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    )
}

fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli").join(name);
    if std::env::var_os("ONIONSKIN_BLESS").is_some() {
        fs::write(&path, text).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "{} differs; see the top of tests/cli.rs", path.display());
}

fn check(name: &str, args: &[&str]) {
    let place = Place::new();
    golden(name, &shown(args, &place.run(args)));
    assert!(place.names().is_empty(), "{args:?} left {:?}", place.names());
}

#[test]
fn help_texts() {
    for command in ["demo", "relay", "publish", "get", "check", "keys", "status"] {
        check(&format!("help-{command}.txt"), &[command, "--help"]);
    }
    check("help.txt", &["--help"]);
}

#[test]
fn mistakes_are_named_and_nothing_is_sent() {
    check("no-command.txt", &[]);
    check("unknown-option.txt", &["publish", "x", "--lesae", "3"]);
    check("missing-argument.txt", &["get"]);
    check("relays.txt", &["demo", "--relays", "3"]);
    check("size.txt", &["relay", "--quota", "5apples"]);
    check("quota.txt", &["relay", "--quota", "1023KiB"]);
    check("lease.txt", &["publish", "x", "--lease", "401"]);
    check("sample.txt", &["check", "qqqq", "--sample", "0"]);
    check("empty-input.txt", &["get", "-"]);
    check("mistyped.txt", &["get", "qqqq", "-o", "x"]);
    check("mistyped-check.txt", &["check", "qqqq"]);
    check("mistyped-json.txt", &["--json", "keys", "qqqq"]);
    check("usage-json.txt", &["--json", "get"]);
    check("missing-file.txt", &["publish", "no-such-file"]);
    check("directory.txt", &["publish", "."]);
    check("slow.txt", &["publish", "x", "--slow"]);
    check("fast-and-slow.txt", &["publish", "x", "--slow", "--fast"]);
    check("no-node.txt", &["--data-dir", "d", "status"]);
    check("no-address.txt", &["relay"]);
}

/// A name that is too long vanished; now it is told before anything is looked for.
#[test]
fn a_text_over_its_limit_is_an_error() {
    let place = Place::new();
    for option in ["--name", "--type"] {
        for (text, fits) in
            [("", false), (&*"x".repeat(255), true), (&"x".repeat(256), false), (&"é".repeat(127), true), (&"é".repeat(128), false)]
        {
            let out = place.run(&["publish", "no-such-file", option, text]);
            let said = String::from_utf8(out.stderr).unwrap();
            assert_eq!(out.status.code(), Some(2));
            assert_eq!(said.contains("there is no file"), fits, "{said}");
            let why = if text.is_empty() { "it is empty" } else { "it has 256 bytes, and 255 are the most" };
            assert_eq!(said.contains(why), !fits, "{said}");
        }
    }
    let addresses =
        ["203.0.113.1:1", "203.0.113.2:1", "203.0.113.3:1", "203.0.113.4:1", "203.0.113.5:1"].map(|a| ["--advertise", a]);
    let out = place.run(&[&["relay"][..], addresses.as_flattened()].concat());
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.code() == Some(2) && said.contains("can tell others 4 addresses"), "{said}");
    assert!(place.names().is_empty());
}

#[test]
fn without_a_relay_to_start_from_nothing_is_written() {
    let place = Place::new();
    fs::write(place.0.path().join("doc"), "hello").unwrap();
    let args = ["--data-dir", "d", "publish", "doc"];
    golden("no-bootstrap.txt", &shown(&args, &place.run(&args)));
    assert_eq!(place.names(), ["doc"]);
}

#[test]
fn a_data_directory_that_is_a_file_is_named_and_left_alone() {
    let place = Place::new();
    fs::write(place.0.path().join("d"), "mine").unwrap();
    let args = ["--data-dir", "d", "publish", "d"];
    golden("file-for-data.txt", &shown(&args, &place.run(&args)));
    let args = ["--data-dir", "d/e", "status"];
    golden("file-above-data.txt", &shown(&args, &place.run(&args)));
    assert_eq!(fs::read_to_string(place.0.path().join("d")).unwrap(), "mine");
    assert_eq!(place.names(), ["d"]);
}

#[test]
fn what_cannot_be_published_is_told_at_once() {
    let place = Place::new();
    assert!(Command::new("mkfifo").arg(place.0.path().join("pipe")).status().unwrap().success());
    for path in ["pipe", "/proc/self/status", "/dev/zero"] {
        let out = place.run(&["publish", path]);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!((out.status.code(), said.contains("is not an ordinary file")), (Some(2), true), "{path}: {said}");
    }
    // A key that nobody sees.
    fs::write(place.0.path().join("doc"), "words").unwrap();
    let publish = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_onionskin"));
        command.args(["publish", "doc"]).args(more).current_dir(place.0.path()).env_clear().env("HOME", place.0.path());
        let out = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (code, said) = publish(&[]);
    assert!(code == Some(2) && said.contains("standard output goes nowhere"), "{said}");
    let (code, said) = publish(&["--convergent"]);
    assert!(code == Some(4) && said.contains("knows no relay"), "{said}");
}

#[test]
fn a_setting_that_does_not_exist_is_named() {
    let place = Place::new();
    fs::write(place.0.path().join("o.toml"), "quota = \"5 GiB\"\nqouta = 7\n").unwrap();
    let args = ["relay", "--config", "o.toml"];
    golden("config-field.txt", &shown(&args, &place.run(&args)));
    let args = ["relay", "--config", "missing.toml"];
    golden("config-missing.txt", &shown(&args, &place.run(&args)));
    assert_eq!(place.names(), ["o.toml"]);
}

#[test]
fn a_key_is_explained() {
    let key = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/read.key")).unwrap();
    let key = key.trim();
    let place = Place::new();
    let args = ["keys", key];
    golden("keys.txt", &shown(&args, &place.run(&args)));
    let typed = place.run_with(&["keys", "-"], &format!("{key}\n"));
    assert_eq!(typed.stdout, place.run(&args).stdout);
    let object: serde_json::Value = serde_json::from_slice(&place.run(&["keys", key, "--json"]).stdout).unwrap();
    let verify = object["verify_key"].as_str().unwrap();
    assert_eq!(object["kind"], "read");
    // The verify key explains itself, and is no way to the read key.
    let args = ["keys", verify];
    golden("keys-verify.txt", &shown(&args, &place.run(&args)));
    let args = ["get", verify];
    golden("get-verify.txt", &shown(&args, &place.run(&args)));
    assert!(place.names().is_empty());
}

#[test]
fn one_changed_letter_is_noticed_everywhere() {
    let key = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/read.key")).unwrap();
    let key = key.trim();
    let place = Place::new();
    for i in ("onionskin:".len()..key.len()).step_by(7) {
        let mut bytes = key.as_bytes().to_vec();
        bytes[i] = if bytes[i] == b'a' { b'c' } else { b'a' };
        let wrong = String::from_utf8(bytes).unwrap();
        let out = place.run(&["get", &wrong, "-o", "x"]);
        assert_eq!(out.status.code(), Some(2), "letter {i}");
        assert!(!String::from_utf8_lossy(&out.stderr).contains(&wrong), "a key is not echoed");
    }
    assert!(place.names().is_empty());
}

#[test]
fn what_exists_is_not_replaced() {
    let key = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/read.key")).unwrap();
    let place = Place::new();
    fs::write(place.0.path().join("x"), "mine").unwrap();
    let out = place.run(&["get", key.trim(), "-o", "x"]);
    golden("exists.txt", &shown(&["get", "KEY", "-o", "x"], &out));
    assert_eq!(fs::read(place.0.path().join("x")).unwrap(), b"mine");
}

/// Whatever was typed: three lines, of which none can drive a terminal, with a path in them whole.
#[test]
fn no_argument_reaches_the_terminal_as_it_is() {
    let key = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/read.key")).unwrap();
    let (place, key) = (Place::new(), key.trim());
    let bad = "a. b\u{1b}]0;x\u{7}\n\r\u{9b}2J\u{ad}\u{202e}\u{2028}\u{e0041}; z";
    let whole = r"$'a. b\033]0;x\007\n\015\302\2332J\302\255\342\200\256\342\200\250\363\240\201\201; z";
    fs::write(place.0.path().join(format!("{bad}.toml")), format!("\"{}\" = 1", "\\u001b\\u202e")).unwrap();
    let (in_bad, toml) = (format!("{bad}/x"), format!("{bad}.toml"));
    let commands: [(&[&str], bool); 13] = [
        (&["publish", bad], true),
        (&["publish", &in_bad], true),
        (&["get", key, "-o", &in_bad], true),
        (&["status", "--data-dir", bad], true),
        (&["publish", "--data-dir", &toml, "x"], false),
        (&["publish", &toml, "--data-dir", &toml], true),
        (&["relay", "--config", bad], true),
        (&["relay", "--config", &toml], true),
        (&[bad], true),
        (&["status", bad], true),
        (&["publish", "x", "--lease", bad], true),
        (&["relay", "--quota", bad], true),
        (&["get", bad], false),
    ];
    for (command, names_it) in commands {
        for json in [false, true] {
            let args = [command, if json { &["--json"] } else { &[] }].concat();
            let out = place.run(&args);
            let said = String::from_utf8([out.stdout.clone(), out.stderr.clone()].concat()).unwrap();
            assert!(said.lines().flat_map(str::chars).all(onionskin::base::text::is_harmless), "{args:?}: {said:?}");
            assert_eq!(said.lines().count(), if json { 1 } else { 3 }, "{args:?}: {said}");
            let told =
                if json { serde_json::from_str::<serde_json::Value>(&said).unwrap()["error"]["what"].to_string() } else { said };
            let whole = if json { whole.replace('\\', r"\\") } else { whole.to_owned() };
            assert_eq!(told.contains(&whole), names_it, "{args:?}: {told}");
        }
    }
}

/// Before the network is looked for, which here would fail with another code.
#[test]
fn a_target_that_cannot_be_written_is_noticed_at_once() {
    let key = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/read.key")).unwrap();
    let place = Place::new();
    // Nobody makes files there, not even root.
    let out = place.run(&["get", key.trim(), "-o", "/proc/self/x"]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    let told = String::from_utf8_lossy(&out.stderr);
    assert!(told.starts_with("error: cannot write /proc/self/.x."), "{told}");
    assert!(told.contains("\nnext:  Check the "), "{told}");
    // A place that can, and no network: nothing is left there.
    let out = place.run(&["--data-dir", "d", "get", key.trim(), "-o", "x"]);
    assert_eq!(out.status.code(), Some(4), "{out:?}");
    assert!(place.names().is_empty(), "{:?}", place.names());
}
