//! Small files of the node's own state (keys, known relays, settings it learned): whole-file reads and atomic whole-file writes in
//! a directory that only this user and one process can use.
//!
//! ```text
//! <data>/             mode 0700, else refused
//!   lock              held while the node runs; empty, says nothing
//!   <name>            mode 0600, replaced whole: written as <name>.new, synced, renamed, directory synced
//!   store/            the shares (see the room's front page)
//! ```
//! The file system stamps a file's last change to the nanosecond; callers that must not tell more than a day write once a day or at
//! random times. The content is the caller's: this file adds no time and no name of anyone.

use crate::store::error::StoreError;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Longest state file that is read, in bytes: a damaged file must not take all memory.
pub const STATE_MAX: u64 = 64 << 20;

/// The node's data directory, locked for this process until dropped.
///
/// # Invariants
/// A name holds either what the last finished `write` gave or, after a crash during one, what it or the one before gave.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    writing: Mutex<()>,
    _lock: File,
}

impl StateDir {
    /// Makes the directory if it is missing, refuses one that other users may read, and locks it.
    ///
    /// # Errors
    /// [`StoreError::Exposed`] with the `chmod` to run, [`StoreError::InUse`], or what the disk said.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        private_dir(path)?;
        let lock = lock_dir(path)?;
        Ok(Self { path: path.to_path_buf(), writing: Mutex::new(()), _lock: lock })
    }

    /// Where a file or directory of this name lies, for rooms that keep their own (the store, the control socket).
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The whole content of a file, or `None` when there is none of this name.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let doing = "reading a state file";
        let file = match File::open(self.path.join(plain(name)?)) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StoreError::io(doing, e)),
        };
        let mut bytes = Vec::new();
        file.take(STATE_MAX + 1).read_to_end(&mut bytes).map_err(|e| StoreError::io(doing, e))?;
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > STATE_MAX {
            return Err(StoreError::io(doing, io::ErrorKind::FileTooLarge.into()));
        }
        Ok(Some(bytes))
    }

    /// Replaces the whole content of a file. When this returns it lasts; when it fails the old content is still there. What it held
    /// before is overwritten, for it may be keys whose time is over; file systems and disks that write elsewhere keep it all the
    /// same.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let name = plain(name)?;
        let doing = "writing a state file";
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let new = self.path.join(format!("{name}.new"));
        let old = OpenOptions::new().write(true).open(self.path.join(name));
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
            .and_then(|()| std::fs::rename(&new, self.path.join(name)))
            .and_then(|()| File::open(&self.path)?.sync_all());
        if let (Ok(()), Ok(old)) = (&written, old) {
            // Best effort: what lasts is written.
            let _ = overwrite(old);
        }
        written.map_err(|e| {
            // Best effort: half a file helps nobody, and a full disk needs the room.
            let _ = std::fs::remove_file(&new);
            StoreError::io(doing, e)
        })
    }

    /// Removes a file; removing one that is not there is no failure.
    pub fn remove(&self, name: &str) -> Result<(), StoreError> {
        let path = self.path.join(plain(name)?);
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        match std::fs::remove_file(path).and_then(|()| File::open(&self.path)?.sync_all()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io("removing a state file", e)),
            _ => Ok(()),
        }
    }
}

/// Writes zeros over a whole file, if it has no name any more: one behind a link is somebody's copy.
fn overwrite(mut file: File) -> io::Result<()> {
    let meta = file.metadata()?;
    if meta.nlink() > 0 {
        return Ok(());
    }
    let length = meta.len().min(STATE_MAX);
    io::copy(&mut io::repeat(0).take(length), &mut file)?;
    file.sync_all()
}

/// A name that stays inside the directory and is none of its own: letters, digits, `-`, `_` and inner dots.
fn plain(name: &str) -> Result<&str, StoreError> {
    let fits = !name.is_empty()
        && name.len() <= 64
        && !name.starts_with('.')
        && !name.ends_with(".new")
        && name != "lock"
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if fits { Ok(name) } else { Err(StoreError::Name(name.to_owned())) }
}

/// Makes a directory (and those above it) with mode 0700, or checks that an existing one is closed to others.
pub(crate) fn private_dir(path: &Path) -> Result<(), StoreError> {
    let doing = "opening the data directory";
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| StoreError::io(doing, e))?;
    let meta = std::fs::metadata(path).map_err(|e| StoreError::io(doing, e))?;
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(StoreError::Exposed { path: path.to_path_buf(), mode });
    }
    Ok(())
}

/// Takes the lock of a directory; it is given back when the file is dropped, or by the system when the process ends.
pub(crate) fn lock_dir(path: &Path) -> Result<File, StoreError> {
    let doing = "locking the data directory";
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path.join("lock"))
        .map_err(|e| StoreError::io(doing, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse(path.to_path_buf())),
        Err(TryLockError::Error(e)) => Err(StoreError::io(doing, e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        (dir, path)
    }

    #[test]
    fn written_then_read_and_replaced_whole() {
        let (_keep, path) = fresh();
        let state = StateDir::open(&path).unwrap();
        assert_eq!(state.read("node.key").unwrap(), None);
        state.write("node.key", b"first and longer").unwrap();
        state.write("node.key", b"second").unwrap();
        assert_eq!(state.read("node.key").unwrap().as_deref(), Some(&b"second"[..]));
        state.remove("node.key").unwrap();
        state.remove("node.key").unwrap();
        assert_eq!(state.read("node.key").unwrap(), None);
    }

    #[test]
    fn what_a_file_held_before_is_overwritten() {
        let (_keep, path) = fresh();
        let state = StateDir::open(&path).unwrap();
        state.write("keys", b"the first secret").unwrap();
        // Holds on to the file that the next write replaces.
        let mut held = File::open(path.join("keys")).unwrap();
        state.write("keys", b"the second").unwrap();
        let mut bytes = Vec::new();
        held.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, [0; 16]);
        assert_eq!(state.read("keys").unwrap().as_deref(), Some(&b"the second"[..]));
        // Copies that somebody made by links are his.
        std::fs::hard_link(path.join("keys"), path.join("copy")).unwrap();
        state.write("keys", b"the third").unwrap();
        assert_eq!(state.read("copy").unwrap().as_deref(), Some(&b"the second"[..]));
        std::os::unix::fs::symlink(path.join("copy"), path.join("link")).unwrap();
        state.write("link", b"x").unwrap();
        assert_eq!(state.read("copy").unwrap().as_deref(), Some(&b"the second"[..]));
    }

    #[test]
    fn files_and_directory_are_closed_to_others() {
        let (_keep, path) = fresh();
        let state = StateDir::open(&path).unwrap();
        state.write("a", b"x").unwrap();
        let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&path.join("a")), 0o600);
        assert_eq!(mode(&path.join("lock")), 0o600);
        assert!(!path.join("a.new").exists());
    }

    #[test]
    fn an_open_directory_is_refused_with_the_cure() {
        let (_keep, path) = fresh();
        drop(StateDir::open(&path).unwrap());
        for mode in [0o750, 0o705, 0o701, 0o770] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            let said = StateDir::open(&path).unwrap_err().to_string();
            assert!(said.contains(&format!("chmod 700 {}", path.display())), "{said}");
            // Where there are no modes, that changes nothing.
            assert!(said.contains("exFAT") && said.contains("umask=077"), "{said}");
        }
    }

    #[test]
    fn one_process_at_a_time() {
        let (_keep, path) = fresh();
        let first = StateDir::open(&path).unwrap();
        let said = StateDir::open(&path).unwrap_err().to_string();
        assert!(said.contains("another onionskin is running on this data directory"), "{said}");
        drop(first);
        StateDir::open(&path).unwrap();
    }

    #[test]
    fn names_stay_inside() {
        let (_keep, path) = fresh();
        let state = StateDir::open(&path).unwrap();
        for bad in ["", ".", "..", "../x", "a/b", "lock", "a.new", ".hidden", "a b", "\0", &"x".repeat(65)] {
            assert!(matches!(state.write(bad, b"x"), Err(StoreError::Name(_))), "{bad:?}");
            assert!(matches!(state.read(bad), Err(StoreError::Name(_))), "{bad:?}");
        }
    }

    #[test]
    fn a_half_written_file_left_by_a_crash_changes_nothing() {
        let (_keep, path) = fresh();
        let state = StateDir::open(&path).unwrap();
        state.write("a", b"whole").unwrap();
        drop(state);
        std::fs::write(path.join("a.new"), b"ha").unwrap();
        let state = StateDir::open(&path).unwrap();
        assert_eq!(state.read("a").unwrap().as_deref(), Some(&b"whole"[..]));
        state.write("a", b"next").unwrap();
        assert_eq!(state.read("a").unwrap().as_deref(), Some(&b"next"[..]));
    }
}
