//! A disk in memory, honest or not.

use onionskin::base::Address;
use onionskin::proto::job::{PutOutcome, Shares};
use std::collections::BTreeMap;
use std::sync::Mutex;

/// How a host treats what it was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manner {
    /// Keeps and serves.
    #[default]
    Honest,
    /// Says it keeps, and has nothing.
    Forgets,
    /// Serves shares with a flipped bit.
    Corrupts,
    /// Serves some other share than the one asked for.
    Swaps,
    /// Takes very long to serve.
    Dawdles,
    /// The same, and it never comes to an end.
    IsMute,
    /// Keeps a share and says that it has no room.
    Denies,
    /// Keeps a share and says that it holds two others.
    Boasts,
}

/// Shares in memory.
#[derive(Debug, Default)]
pub struct Disk {
    /// What it does.
    pub manner: Manner,
    held: Mutex<BTreeMap<(Address, u8), Vec<u8>>>,
}

impl Disk {
    /// Shares held.
    pub fn len(&self) -> usize {
        self.held.lock().unwrap().len()
    }

    /// What is held.
    pub fn shares(&self) -> Vec<(Address, u8, Vec<u8>)> {
        self.held.lock().unwrap().iter().map(|((address, index), blob)| (*address, *index, blob.clone())).collect()
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.held.lock().unwrap().clear();
    }

    /// Addresses held.
    pub fn addresses(&self) -> Vec<Address> {
        self.held.lock().unwrap().keys().map(|(address, _)| *address).collect()
    }
}

impl Shares for Disk {
    fn put(&self, _lease_days: u16, address: &Address, index: u8, blob: &[u8], max_per_chunk: usize) -> PutOutcome {
        let mut held = self.held.lock().unwrap();
        if held.contains_key(&(*address, index)) {
            return PutOutcome::AlreadyHeld;
        }
        let others: Vec<u8> = held.range((*address, 0)..=(*address, u8::MAX)).map(|((_, index), _)| *index).collect();
        if others.len() >= max_per_chunk {
            return PutOutcome::HoldsEnough { held: others.iter().map(|index| 1 << index).sum() };
        }
        if self.manner != Manner::Forgets {
            held.insert((*address, index), blob.to_vec());
        }
        match self.manner {
            Manner::Denies => PutOutcome::Full,
            Manner::Boasts => {
                PutOutcome::HoldsEnough { held: (0..24).filter(|other| *other != index).take(2).map(|i| 1 << i).sum() }
            }
            _ => PutOutcome::Stored,
        }
    }

    fn get_any(&self, address: &Address, want: u32, chance: u32) -> Option<Vec<u8>> {
        let held = self.held.lock().unwrap();
        if self.manner == Manner::Swaps {
            return held.values().nth(chance as usize % held.len().max(1)).cloned();
        }
        let fits: Vec<_> =
            held.range((*address, 0)..=(*address, u8::MAX)).filter(|((_, index), _)| want >> index & 1 == 1).collect();
        let mut blob = fits.get(chance as usize % fits.len().max(1))?.1.clone();
        if self.manner == Manner::Corrupts {
            let at = chance as usize % blob.len();
            blob[at] ^= 1 << (chance % 8);
        }
        Some(blob)
    }
}
