//! `keys`: what a key is and what it reveals, without any network. Also how keys come in.

use crate::base::ErrorKind;
use crate::cli::args::Keys;
use crate::cli::args::KeysCommand;
use crate::cli::kept;
use crate::cli::output::Out;
use crate::client::failure;
use crate::config::Config;
use crate::proto::doc::key::Key;
use crate::proto::doc::key::ReadKey;
use crate::proto::doc::key::TextError;
use crate::proto::event::Failure;
use crate::proto::event::count;
use serde::Serialize;
use std::io::Read;

/// No key is longer, line ends included; what is longer on standard input is no key.
const TEXT_MAX: u64 = 4096;

/// A key as it was typed, or read from standard input for `-`.
pub(super) fn take(text: &str) -> Result<Key, Failure> {
    let read;
    let text = if text == "-" {
        let mut typed = String::new();
        if std::io::stdin().lock().take(TEXT_MAX).read_to_string(&mut typed).is_err() {
            return Err(Failure::mistyped(TextError::Characters));
        }
        if typed.trim().is_empty() {
            return Err(failure(ErrorKind::Usage, "standard input was empty", "Nothing was sent.", "Give it a key, on one line."));
        }
        read = typed;
        read.trim()
    } else {
        text.trim()
    };
    Key::parse(text).map_err(Failure::mistyped)
}

/// A key that opens a document.
pub(super) fn take_read(text: &str) -> Result<ReadKey, Failure> {
    match take(text)? {
        Key::Read(key) => Ok(key),
        Key::Verify(_) => Err(Failure::mistyped(TextError::VerifyOnly)),
    }
}

/// In lines of a comfortable width.
const REVEALS_READ: [&str; 2] =
    ["opens the document, and gives the verify key.", "Whoever sees it can read: give it to readers only."];
const REVEALS_VERIFY: [&str; 3] = [
    "checks that the document is alive, and cannot open it.",
    "It lists the address of every share: whoever has it can tell which hosts hold the document,",
    "and about how long the document is.",
];

#[derive(Serialize)]
struct Told {
    kind: &'static str,
    verify_key: String,
    read_key_reveals: String,
    verify_key_reveals: String,
}

#[derive(Serialize)]
struct Forgotten {
    forgotten: u64,
}

/// Explains a key, or forgets what publications kept.
pub(super) fn run(out: Out, config: &Config, args: &Keys) -> Result<(), Failure> {
    match (&args.key, &args.command) {
        (Some(key), None) => explain(out, key),
        (None, Some(KeysCommand::Forget { key })) => {
            let key = key.as_deref().map(take_read).transpose()?;
            let forgotten = kept::forget(config, key.as_ref())?;
            let which = if key.is_some() { "with this text " } else { "" };
            let what = if forgotten == 0 {
                format!("no key {which}was kept")
            } else {
                format!("{} removed", count(forgotten, "kept key"))
            };
            out.either(|| what, &Forgotten { forgotten })
        }
        _ => {
            let next = "Name one after `forget`, or none to forget all.";
            Err(failure(ErrorKind::Usage, "a key before `forget` is not the one to forget", "Nothing was removed.", next))
        }
    }
}

fn explain(out: Out, key: &str) -> Result<(), Failure> {
    let key = take(key)?;
    let kind = match &key {
        Key::Read(_) => "read",
        Key::Verify(_) => "verify",
    };
    let verify_key = key.verify_key().to_text();
    let told = Told { kind, verify_key, read_key_reveals: REVEALS_READ.join(" "), verify_key_reveals: REVEALS_VERIFY.join(" ") };
    let people = || {
        let read = REVEALS_READ.join("\n            ");
        let verify = REVEALS_VERIFY.join("\n            ");
        format!("kind        {kind} key\nverify key  {}\n\nread key    {read}\nverify key  {verify}", told.verify_key)
    };
    out.either(people, &told)
}
