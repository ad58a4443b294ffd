//! What fuzzing does with bytes: one function for each target, `fn(&[u8])`, that panics when something is wrong.
//!
//! The bodies stand here, so that ordinary builds keep them compiling: `fuzz/fuzz_targets` calls them with a fuzzer's bytes, and
//! `tests/corpus.rs` with the committed ones. Bytes that decode must encode to the same bytes wherever a format has one encoding.

#![allow(dead_code, unreachable_pub, reason = "each target uses a part")]

pub mod formats;
pub mod handshakes;
pub mod link;
pub mod store;
pub mod world;

/// One target's body.
pub type Body = fn(&[u8]);

/// All targets, by name.
pub const TARGETS: [(&str, Body); 14] = [
    ("cell", formats::cell),
    ("hello", formats::hello),
    ("overlay_message", formats::overlay_message),
    ("record", formats::record),
    ("share_manifest", formats::share_manifest),
    ("request", formats::request),
    ("key_text", formats::key_text),
    ("paths_state", formats::paths_state),
    ("kept_view", formats::kept_view),
    ("ntor", handshakes::ntor),
    ("session", handshakes::session),
    ("link", link::link),
    ("store", store::store),
    ("world", world::world),
];

/// Bytes as a list of small choices; zero when they are used up.
#[derive(Clone, Copy, Debug)]
pub struct Choices<'a>(pub &'a [u8]);

impl<'a> Choices<'a> {
    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    /// The next two bytes.
    pub fn short(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// At most `n` bytes.
    pub fn take(&mut self, n: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        head
    }

    /// Whether nothing is left.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Changes bytes as choices say: place, then what to XOR. The same message can come out; the caller compares.
pub fn mutated(message: &[u8], mut choices: Choices<'_>) -> Vec<u8> {
    let mut bytes = message.to_vec();
    match choices.byte() % 4 {
        0 => {}
        1 => bytes.truncate(usize::from(choices.short()) % (bytes.len() + 1)),
        2 => {
            let more = usize::from(choices.byte());
            bytes.extend_from_slice(choices.take(more));
        }
        _ => bytes = choices.take(bytes.len()).to_vec(),
    }
    while !choices.is_empty() && !bytes.is_empty() {
        let at = usize::from(choices.short()) % bytes.len();
        bytes[at] ^= choices.byte();
    }
    bytes
}
