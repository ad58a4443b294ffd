//! Text for people's eyes. What comes from elsewhere (paths, names that strangers chose, words of the system) may hold characters
//! that drive a terminal or hide what is there; here it becomes harmless, and nothing of it is cut.

use core::fmt::Write as _;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Characters that nobody sees, or that change how others are seen: soft hyphen, joiners, fillers, marks and embeddings of
/// direction, line and paragraph separators, invisible operators, annotations, tags, and selectors that can carry hidden text
/// (T25).
const UNSEEN: [(char, char); 16] = [
    ('\u{ad}', '\u{ad}'),
    ('\u{34f}', '\u{34f}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{115f}', '\u{1160}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{180b}', '\u{180f}'),
    ('\u{200b}', '\u{200f}'),
    ('\u{2028}', '\u{202e}'),
    ('\u{2060}', '\u{206f}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{fff0}', '\u{fffb}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0000}', '\u{e0fff}'),
];

/// Whether a character shows itself and nothing else.
pub fn is_harmless(c: char) -> bool {
    !c.is_control() && !UNSEEN.iter().any(|(first, last)| (*first..=*last).contains(&c))
}

/// The text, with `?` for every character that is not harmless.
pub fn harmless(text: &str) -> String {
    text.chars().map(|c| if is_harmless(c) { c } else { '?' }).collect()
}

/// JSON text with an escape for every character that is not harmless: the same value, safe on a terminal.
pub fn harmless_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if is_harmless(c) {
            out.push(c);
        } else {
            // Outside of strings JSON has no such character but line ends, and ours is one line.
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out
}

/// A path as a person sees it and can paste it into a shell: as it is where that is safe, else quoted, and in the form `$'..'`
/// where a character is not harmless or the bytes are no text.
pub fn shown(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    // No command takes it for an option.
    if path.as_os_str().as_bytes().starts_with(b"-") { quoted(Path::new(".").join(path)) } else { quoted(path) }
}

/// The same for any text.
pub fn quoted(text: impl AsRef<OsStr>) -> String {
    let bytes = text.as_ref().as_bytes();
    let plain = |c: char| c.is_alphanumeric() || "-_./,:@%+=".contains(c);
    match core::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && text.chars().all(|c| plain(c) && is_harmless(c)) => text.to_owned(),
        Ok(text) if text.chars().all(is_harmless) => format!("'{}'", text.replace('\'', r"'\''")),
        Ok(_) | Err(_) => escaped(bytes),
    }
}

fn escaped(bytes: &[u8]) -> String {
    let mut out = String::from("$'");
    let octal = |out: &mut String, bytes: &[u8]| {
        for b in bytes {
            // Always three digits, so that a digit behind it stays one.
            let _ = write!(out, "\\{b:03o}");
        }
    };
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => out.push_str("\\n"),
                '\t' => out.push_str("\\t"),
                '\\' | '\'' => out.extend(['\\', c]),
                c if is_harmless(c) => out.push(c),
                c => octal(&mut out, c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        octal(&mut out, chunk.invalid());
    }
    out.push('\'');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each kind: escape, line end, delete, a C1 control, soft hyphen, direction, line separators, joiner, tag, selector.
    const HARMFUL: &str = "\u{1b}\n\u{7f}\u{9b}\u{ad}\u{202e}\u{2066}\u{61c}\u{2028}\u{2029}\u{200d}\u{feff}\u{e0041}\u{e0101}";

    #[test]
    fn text_of_strangers_cannot_drive_a_terminal_and_is_not_cut() {
        assert_eq!(harmless("a\u{1b}[2Jb\n\u{202e}c"), "a?[2Jb??c");
        assert_eq!(harmless(HARMFUL), "?".repeat(HARMFUL.chars().count()));
        let whole = "grüße 日本 ".repeat(100);
        assert_eq!(harmless(&whole), whole);
    }

    #[test]
    fn json_keeps_its_value() {
        let json = serde_json::to_string(&format!("a\"\\{HARMFUL}")).unwrap();
        let safe = harmless_json(&json);
        assert!(safe.chars().all(is_harmless), "{safe}");
        assert_eq!(serde_json::from_str::<String>(&safe).unwrap(), format!("a\"\\{HARMFUL}"));
    }

    #[test]
    fn a_path_is_whole_harmless_and_can_be_pasted() {
        for (path, expected) in [
            (&b"a/b-1.txt"[..], "a/b-1.txt"),
            ("gr\u{fc}\u{df}e".as_bytes(), "grüße"),
            (b"", "''"),
            (b"my file", "'my file'"),
            (b"it's; rm -rf ~", r"'it'\''s; rm -rf ~'"),
            (b"~x", "'~x'"),
            (b"-rf", "./-rf"),
            (b"$HOME", "'$HOME'"),
            (b"a. b: c", "'a. b: c'"),
            (b"caf\xe9.bin", r"$'caf\351.bin'"),
            (b"a\x1b]0;x\x07\n'\\1", r"$'a\033]0;x\007\n\'\\1'"),
            ("a\u{202e}b".as_bytes(), r"$'a\342\200\256b'"),
        ] {
            assert_eq!(shown(Path::new(OsStr::from_bytes(path))), expected);
        }
    }

    /// What a shell makes of it is the path again.
    #[test]
    fn a_shell_reads_what_is_shown() {
        let Ok(bash) = std::process::Command::new("bash").arg("-c").arg(":").status() else { return };
        assert!(bash.success());
        for path in [&b"my file"[..], b"it's", b"$(x) `y` \"z\" *", b"caf\xe9.bin", HARMFUL.as_bytes(), b"\x80\xff\x311\\'\t"] {
            let line = format!("printf %s {}", shown(Path::new(OsStr::from_bytes(path))));
            let out = std::process::Command::new("bash").arg("-c").arg(&line).output().unwrap();
            assert_eq!(out.stdout, path, "{line}");
        }
    }
}
