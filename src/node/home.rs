//! A node's data directory: who it is, which network it belongs to, and what its core saved.
//!
//! ```text
//! network     kind u8 = 16 | version u8 = 1 | id [32] | extensions
//! identity    kind u8 = 17 | version u8 = 1 | Ed25519 seed [32] | extensions        relays only
//! state-*     what the core saved, as it gave it: guards, and a relay's circuit and host keys
//! shares/     the store                                                            hosts only
//! *.torn      a file that could not be read, and was made anew
//! ```
//! What can be made anew never stops a node: a damaged file is put aside, under a name that the warning tells. A damaged identity
//! stops it, for with another one the node is another.

use crate::base::NetworkId;
use crate::crypto::secret::Secret;
use crate::node::env::os_rng;
use crate::node::error::StartError;
use crate::store::StateDir;
use crate::store::StoreError;
use crate::wire::codec::DecodeError;
use crate::wire::codec::Extensions;
use crate::wire::codec::Reader;
use crate::wire::codec::Writer;
use rand::Rng as _;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use zeroize::Zeroizing;

/// File of the network's id.
pub(super) const NETWORK: &str = "network";
const KIND_NETWORK: u8 = 16;
const IDENTITY: &str = "identity";
const KIND_IDENTITY: u8 = 17;
const VERSION: u8 = 1;
/// What the names of the core's files start with.
pub const STATE_PREFIX: &str = "state-";
/// What the names of files end with that were put aside.
const TORN: &str = ".torn";
/// Files that the command line keeps here.
const BESIDE: [&str; 2] = ["bootstrap", "convergent-secret"];
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
        if let Some(path) = path {
            settle(path)?;
        }
        let home = Self { dir: path.map(StateDir::open).transpose()? };
        if let Some(path) = path {
            sweep(path);
        }
        Ok(home)
    }

    /// Settles the network: the wished one if there is one, else the saved one, else a new one if that is allowed.
    pub fn network(&self, wished: Option<NetworkId>, may_found: bool) -> Result<NetworkId, StartError> {
        let saved = match self.read(NETWORK, KIND_NETWORK) {
            // The links say what it held.
            Err(StartError::State { .. }) if wished.is_some() => {
                self.set_aside(NETWORK)?;
                None
            }
            read => read?.map(|id| NetworkId(*id)),
        };
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

    /// What the core saved, by its own names. What is not whole is put aside; what a newer version wrote is the core's to judge.
    pub fn saved(
        &self,
        whole: impl Fn(&str, &[u8]) -> Result<(), DecodeError>,
    ) -> Result<BTreeMap<String, Zeroizing<Vec<u8>>>, StartError> {
        let mut saved = BTreeMap::new();
        let Some(dir) = &self.dir else { return Ok(saved) };
        let list = |e| StartError::Disk(StoreError::io("listing the data directory", e));
        for entry in std::fs::read_dir(dir.path("")).map_err(list)? {
            let name = entry.map_err(list)?.file_name();
            // What a crash left of a write that did not finish is no state.
            let Some(name) = name.to_str().and_then(|n| n.strip_prefix(STATE_PREFIX)).filter(|n| !n.contains('.')) else {
                continue;
            };
            let file = format!("{STATE_PREFIX}{name}");
            let Some(bytes) = dir.read(&file)?.map(Zeroizing::new) else { continue };
            match whole(name, &bytes) {
                Ok(()) | Err(DecodeError::Newer) => drop(saved.insert(name.to_owned(), bytes)),
                Err(_) => self.set_aside(&file)?,
            }
        }
        Ok(saved)
    }

    fn set_aside(&self, file: &str) -> Result<(), StartError> {
        let Some(dir) = &self.dir else { return Ok(()) };
        set_aside(&dir.path(file)).map_err(|e| StartError::Disk(StoreError::io("putting a damaged state file aside", e)))
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

/// Puts a damaged file aside, and tells so. What an earlier one left under that name goes.
pub fn set_aside(path: &Path) -> io::Result<()> {
    let mut torn = path.as_os_str().to_owned();
    torn.push(TORN);
    std::fs::rename(path, &torn)?;
    tracing::warn!("the file {path:?} is damaged: it is made anew, and what it held is kept as {torn:?}");
    Ok(())
}

/// Makes sure that a data directory is its user's alone before anything is written into it. One that is ours and empty is closed:
/// as system services and container volumes make them, they are open to others. One that others may enter and that holds something
/// is left to whoever put it there.
///
/// # Errors
/// [`StoreError::Exposed`], or what the disk said.
pub fn settle(path: &Path) -> Result<(), StoreError> {
    let doing = "opening the data directory";
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(StoreError::io(doing, e)),
    };
    let mode = meta.mode() & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let ours = meta.uid() == rustix::process::geteuid().as_raw();
    if !ours || !is_empty(path).map_err(|e| StoreError::io(doing, e))? {
        return Err(StoreError::Exposed { path: path.to_path_buf(), mode: mode & 0o777 });
    }
    // A file system without modes refuses, or only seems to do it: secrets go nowhere else than into a closed directory.
    let _ = std::fs::set_permissions(path, PermissionsExt::from_mode(0o700));
    let now = std::fs::metadata(path).map_err(|e| StoreError::io(doing, e))?.mode() & 0o777;
    if now & 0o077 != 0 {
        return Err(StoreError::Exposed { path: path.to_path_buf(), mode: now });
    }
    tracing::info!("the empty data directory was open to other users (mode {mode:o}): it is closed now");
    Ok(())
}

/// Whether nothing is in a directory but what a new file system has at its root.
fn is_empty(path: &Path) -> io::Result<bool> {
    for entry in std::fs::read_dir(path)? {
        if entry?.file_name() != "lost+found" {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Removes what a write that did not finish left of a file of ours: half of one helps nobody.
fn sweep(path: &Path) {
    let Ok(entries) = std::fs::read_dir(path) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let half = name.to_str().and_then(|name| name.rsplit_once(".new")).filter(|(of, process)| {
            let ours = [NETWORK, IDENTITY].contains(of) || BESIDE.contains(of) || of.starts_with(STATE_PREFIX);
            ours && process.bytes().all(|b| b.is_ascii_digit())
        });
        if half.is_some() {
            // Best effort: the next start tries again.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Whether a client that was here before left enough to find its network again without links.
pub fn remembers(path: &Path) -> bool {
    let state =
        |entry: std::fs::DirEntry| entry.file_name().to_str().is_some_and(|n| n.starts_with(STATE_PREFIX) && !n.contains('.'));
    path.join(NETWORK).exists() && std::fs::read_dir(path).is_ok_and(|entries| entries.flatten().any(state))
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
        assert!(home.saved(|_, _| Ok(())).unwrap().is_empty());
    }

    #[test]
    fn a_damaged_network_is_made_anew_where_links_name_one() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("node");
        let home = Home::open(Some(&path)).unwrap();
        let network = home.network(None, true).unwrap();
        let good = std::fs::read(path.join(NETWORK)).unwrap();
        for bad in [&[][..], &[0; 40], &good[..20]] {
            std::fs::write(path.join(NETWORK), bad).unwrap();
            let why = home.network(None, true).unwrap_err().to_string();
            assert!(why.contains("network") && why.contains("--bootstrap"), "{why}");
            assert_eq!(std::fs::read(path.join(NETWORK)).unwrap(), bad, "left as it is");
            assert_eq!(home.network(Some(network), false).unwrap(), network);
            assert_eq!(std::fs::read(path.join("network.torn")).unwrap(), bad);
            assert_eq!(home.network(None, false).unwrap(), network);
        }
    }

    #[test]
    fn what_a_core_saved_is_put_aside_if_it_is_damaged_and_only_then() {
        use crate::proto::core::saved_is_whole;
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("node");
        let home = Home::open(Some(&path)).unwrap();
        let read = || home.saved(|name, bytes| saved_is_whole(&NetworkId([1; 32]), name, bytes)).unwrap();
        let file = |name: &str| path.join(format!("{STATE_PREFIX}{name}"));
        for name in ["keys", "paths", "directories", "view", "descriptor", "addresses", "answered"] {
            for bad in [&[][..], &[0; 100], b"{}", &[0xff; 3]] {
                std::fs::write(file(name), bad).unwrap();
                assert!(!read().contains_key(name), "{name}");
                assert!(!file(name).exists(), "{name}");
                assert_eq!(std::fs::read(path.join(format!("{STATE_PREFIX}{name}.torn"))).unwrap(), bad);
            }
        }
        // Nothing of these is known to be wrong.
        for (name, bytes) in [("of-another-time", &b"?"[..]), ("directories", &crate::proto::core::directories::encode(&[])[..])] {
            std::fs::write(file(name), bytes).unwrap();
            assert_eq!(read().get(name).map(|read| read.to_vec()), Some(bytes.to_vec()));
        }
        // A newer version's is neither thrown away nor guessed at.
        let mut newer = crate::proto::core::directories::encode(&[]);
        newer[1] = 9;
        std::fs::write(file("directories"), &newer).unwrap();
        assert_eq!(read().get("directories").map(|read| read.to_vec()), Some(newer));
    }

    #[test]
    fn an_empty_directory_of_ours_is_closed_and_no_other() {
        let temp = tempfile::tempdir().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o7777;
        for (n, open) in [0o755, 0o750, 0o2770, 0o2755, 0o777, 0o701].into_iter().enumerate() {
            let path = temp.path().join(n.to_string());
            std::fs::create_dir(&path).unwrap();
            std::fs::create_dir(path.join("lost+found")).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(open)).unwrap();
            let home = Home::open(Some(&path)).unwrap();
            assert_eq!(mode(&path) & 0o777, 0o700, "{open:o}");
            home.identity().unwrap();
            drop(home);
            // Whoever opened it again meant to.
            std::fs::set_permissions(&path, PermissionsExt::from_mode(open)).unwrap();
            let why = Home::open(Some(&path)).unwrap_err();
            assert!(matches!(why, StoreError::Exposed { .. }) && why.to_string().contains("chmod 700"), "{why}");
            assert_eq!(mode(&path), open);
        }
        // What is another's is left alone, and so nothing is written into it.
        if rustix::process::geteuid().is_root() {
            let path = temp.path().join("theirs");
            std::fs::create_dir(&path).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
            std::os::unix::fs::chown(&path, Some(1001), None).unwrap();
            assert!(settle(&path).is_err() && mode(&path) == 0o755);
        }
    }

    #[test]
    fn halves_of_files_go_and_files_of_others_stay() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("node");
        drop(Home::open(Some(&path)).unwrap());
        let halves = ["identity.new", "network.new", "state-keys.new", "bootstrap.new4711", "convergent-secret.new1"];
        let others = ["notes.new", "state-keys.torn", "identity.newer", "bootstrap", "x.new12"];
        for name in halves.iter().chain(&others) {
            std::fs::write(path.join(name), b"x").unwrap();
        }
        drop(Home::open(Some(&path)).unwrap());
        assert!(halves.iter().all(|name| !path.join(name).exists()));
        assert!(others.iter().all(|name| path.join(name).exists()));
    }
}
