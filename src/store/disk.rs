//! The seam to the disk: a flat directory of files. One real directory here; tests put a recording one in its place and cut the
//! power at every step (`tests/crash.rs`).
//!
//! What is assumed of the medium: after [`DiskFile::sync`] returns, what was written to that file before stays; after
//! [`Disk::sync_names`] so do names made, changed or removed before. A write that was not synced may be there, partly there, or
//! not, in any order. A write never changes bytes outside it; drives with sectors of 512 bytes or that emulate them keep that
//! promise between slots, since slots begin at multiples of 512. Where a drive breaks it, the share is found damaged and dropped.

use crate::store::error::StoreError;
use crate::store::state;
use core::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One open file.
pub trait DiskFile: Debug + Send + Sync {
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Fills `out` from `offset`; [`io::ErrorKind::UnexpectedEof`] past the end.
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    /// Writes all of `data` at `offset`.
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Cuts or extends; new bytes are zero.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Returns once everything written before lasts.
    fn sync(&self) -> io::Result<()>;
}

/// A flat directory of files that one process has for itself.
pub trait Disk: Debug + Send + Sync {
    /// Opens a file; makes it when `create` says so.
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>>;
    /// All names, in no order.
    fn names(&self) -> io::Result<Vec<String>>;
    /// Renames a file over another.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Returns once names made, changed or removed before last.
    fn sync_names(&self) -> io::Result<()>;
}

/// A directory of the file system, locked for this process for as long as this value lives.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    _lock: File,
}

impl Directory {
    /// Makes the directory if it is missing (mode 0700), refuses one that others may read, and locks it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        state::private_dir(path)?;
        let lock = state::lock_dir(path)?;
        Ok(Self { path: path.to_path_buf(), _lock: lock })
    }
}

impl Disk for Directory {
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create(create).mode(0o600).open(self.path.join(name))?;
        Ok(Arc::new(Plain(file)))
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

#[derive(Debug)]
struct Plain(File);

impl DiskFile for Plain {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
