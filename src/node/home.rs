//! A node's data directory: who it is, which network it belongs to, and what its core saved.
//!
//! ```text
//! network     kind u8 = 16 | version u8 = 1 | id [32] | extensions
//! identity    kind u8 = 17 | version u8 = 1 | Ed25519 seed [32] | extensions        relays only
//! state-*     what the core saved, as it gave it: guards, and a relay's circuit and host keys
//! shares/     the store                                                            hosts only
//! ```

use crate::base::NetworkId;
use crate::crypto::secret::Secret;
use crate::node::env::os_rng;
use crate::node::error::StartError;
use crate::store::StateDir;
use crate::store::StoreError;
use crate::wire::codec::Extensions;
use crate::wire::codec::Reader;
use crate::wire::codec::Writer;
use rand::Rng as _;
use std::collections::BTreeMap;
use std::path::Path;
use zeroize::Zeroizing;

const NETWORK: &str = "network";
const KIND_NETWORK: u8 = 16;
const IDENTITY: &str = "identity";
const KIND_IDENTITY: u8 = 17;
const VERSION: u8 = 1;
/// What the names of the core's files start with.
pub const STATE_PREFIX: &str = "state-";
/// Directory of the store.
pub const SHARES: &str = "shares";

/// An open data directory, or none: then everything is forgotten at the end.
#[derive(Debug)]
pub struct Home {
    dir: Option<StateDir>,
}

impl Home {
    /// Opens, and makes if need be. Blocks.
    ///
    /// # Errors
    /// See [`StateDir::open`].
    pub fn open(path: Option<&Path>) -> Result<Self, StoreError> {
        Ok(Self { dir: path.map(StateDir::open).transpose()? })
    }

    /// Settles the network: the wished one if there is one, else the saved one, else a new one if that is allowed.
    pub fn network(&self, wished: Option<NetworkId>, may_found: bool) -> Result<NetworkId, StartError> {
        let saved = self.read(NETWORK, KIND_NETWORK)?.map(|id| NetworkId(*id));
        match (wished, saved) {
            (Some(wished), Some(saved)) if wished != saved => Err(StartError::OtherNetwork),
            (_, Some(saved)) => Ok(saved),
            (Some(wished), None) => self.write(NETWORK, KIND_NETWORK, &wished.0).map(|()| wished),
            (None, None) if may_found => {
                let mut id = [0; 32];
                os_rng().fill_bytes(&mut id);
                self.write(NETWORK, KIND_NETWORK, &id)?;
                Ok(NetworkId(id))
            }
            (None, None) => Err(StartError::NoWayIn),
        }
    }

    /// The relay's identity, made at its first start.
    pub fn identity(&self) -> Result<Secret<32>, StartError> {
        if let Some(seed) = self.read(IDENTITY, KIND_IDENTITY)? {
            return Ok(Secret::init(|bytes| *bytes = *seed));
        }
        let mut seed = Zeroizing::new([0; 32]);
        os_rng().fill_bytes(&mut *seed);
        self.write(IDENTITY, KIND_IDENTITY, &seed)?;
        Ok(Secret::init(|bytes| *bytes = *seed))
    }

    /// What the core saved, by its own names.
    pub fn saved(&self) -> Result<BTreeMap<String, Zeroizing<Vec<u8>>>, StartError> {
        let mut saved = BTreeMap::new();
        let Some(dir) = &self.dir else { return Ok(saved) };
        let list = |e| StartError::Disk(StoreError::io("listing the data directory", e));
        for entry in std::fs::read_dir(dir.path("")).map_err(list)? {
            let name = entry.map_err(list)?.file_name();
            // What a crash left of a write that did not finish is no state.
            let Some(name) = name.to_str().and_then(|n| n.strip_prefix(STATE_PREFIX)).filter(|n| !n.contains('.')) else {
                continue;
            };
            if let Some(bytes) = dir.read(&format!("{STATE_PREFIX}{name}"))? {
                saved.insert(name.to_owned(), Zeroizing::new(bytes));
            }
        }
        Ok(saved)
    }

    /// The directory, for those who go on using it.
    pub fn into_dir(self) -> Option<StateDir> {
        self.dir
    }

    /// Whether anything is kept.
    pub const fn dir(&self) -> Option<&StateDir> {
        self.dir.as_ref()
    }

    fn read(&self, file: &'static str, kind: u8) -> Result<Option<Zeroizing<[u8; 32]>>, StartError> {
        let Some(dir) = &self.dir else { return Ok(None) };
        let Some(bytes) = dir.read(file)?.map(Zeroizing::new) else { return Ok(None) };
        let parse = || {
            let mut r = Reader::new(&bytes);
            let known = r.array::<2>().ok()? == [kind, VERSION];
            let value = Zeroizing::new(r.array::<32>().ok()?);
            Extensions::read(&mut r, &[]).ok()?;
            (known && r.is_empty()).then_some(value)
        };
        parse().map(Some).ok_or(StartError::State { file })
    }

    fn write(&self, file: &'static str, kind: u8, value: &[u8; 32]) -> Result<(), StartError> {
        let Some(dir) = &self.dir else { return Ok(()) };
        let mut w = Writer::with_capacity(64);
        w.u8(kind).u8(VERSION).raw(value);
        Extensions::default().write(&mut w);
        let bytes = Zeroizing::new(w.into_bytes());
        Ok(dir.write(file, &bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_and_network_outlive_a_restart() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("node");
        let home = Home::open(Some(&path)).unwrap();
        let network = home.network(None, true).unwrap();
        let identity = home.identity().unwrap();
        assert!(Home::open(Some(&path)).is_err(), "a second node on the same directory");
        drop(home);

        let home = Home::open(Some(&path)).unwrap();
        assert_eq!(home.network(None, false).unwrap(), network);
        assert_eq!(home.identity().unwrap().expose(), identity.expose());
        assert!(matches!(home.network(Some(NetworkId([9; 32])), false), Err(StartError::OtherNetwork)));
    }

    #[test]
    fn a_damaged_or_newer_identity_is_refused_and_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("node");
        let home = Home::open(Some(&path)).unwrap();
        home.identity().unwrap();
        let file = path.join(IDENTITY);
        let good = std::fs::read(&file).unwrap();
        for bad in [good[..20].to_vec(), [&[KIND_IDENTITY, 2][..], &good[2..]].concat(), [&good[..], &[0]].concat()] {
            std::fs::write(&file, &bad).unwrap();
            assert!(matches!(home.identity(), Err(StartError::State { file: IDENTITY })));
            assert_eq!(std::fs::read(&file).unwrap(), bad);
        }
    }

    #[test]
    fn without_a_directory_nothing_is_kept_and_a_client_needs_a_way_in() {
        let home = Home::open(None).unwrap();
        assert!(matches!(home.network(None, false), Err(StartError::NoWayIn)));
        assert_ne!(home.identity().unwrap().expose(), home.identity().unwrap().expose());
        assert!(home.saved().unwrap().is_empty());
    }
}
