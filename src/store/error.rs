//! What can go wrong between the store and its disk, told so that the person at the screen knows what was kept and what to do.

use crate::base::error::ErrorKind;
use crate::base::text::quoted;
use crate::base::text::shown;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// A failure of the store or of the state directory. Cheap to clone: one failed commit answers everyone who waited for it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process holds the lock of this directory.
    InUse(PathBuf),
    /// The directory was written by a later release (D19).
    Newer {
        /// Version found on disk; 0 when only a critical extension is unknown.
        found: u16,
        /// Latest version that this program reads.
        known: u16,
    },
    /// The directory belongs to another network.
    WrongNetwork,
    /// A file that cannot be rebuilt from the others does not read back as it was written.
    Damaged {
        /// File inside the store directory.
        file: &'static str,
    },
    /// The index failed a check while in use. The next call opens it again, from the shares if need be.
    Index(String),
    /// No space, or the operating system's own quota is used up.
    DiskFull(&'static str),
    /// The directory cannot be written.
    ReadOnly(&'static str),
    /// The data directory is open to other users of this machine.
    Exposed {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A blob that no release stores: empty, above [`crate::store::BLOB_MAX`], or an index above 31. The caller's mistake.
    Bounds {
        /// Bytes of the blob.
        len: usize,
        /// Share index.
        index: u8,
    },
    /// A name that is no plain file name was given to the state directory. The caller's mistake.
    Name(String),
    /// Any other failure of the operating system.
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: Arc<io::Error>,
    },
}

impl core::fmt::Display for StoreError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.told().join(". "))
    }
}

impl core::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        if let Self::Io { source, .. } = self { Some(source.as_ref()) } else { None }
    }
}

impl StoreError {
    /// What happened, what was kept, what to do next: a sentence each, without its full stop.
    pub fn told(&self) -> [String; 3] {
        let (what, kept, next) = match self {
            Self::InUse(path) => (
                format!("another onionskin is running on this data directory ({})", shown(path)),
                "Nothing was touched",
                "Stop it, or choose another directory".to_owned(),
            ),
            Self::Newer { found, known } => (
                format!("the store was written by a newer onionskin (format {found}, this one knows up to {known})"),
                "Nothing was touched",
                "Install the newer release".to_owned(),
            ),
            Self::WrongNetwork => (
                "the store holds shares of another network".to_owned(),
                "Nothing was touched",
                "Use one data directory for each network".to_owned(),
            ),
            Self::Damaged { file } => (
                format!("the store's file {file} is damaged"),
                "The shares beside it were kept",
                format!("Check the disk; then delete {file} if the directory is this node's, and start again"),
            ),
            Self::Index(why) => (
                format!("the store's index failed a check ({why})"),
                "No share was lost",
                "It is rebuilt from the shares at the next use; check the disk".to_owned(),
            ),
            Self::DiskFull(doing) => (
                format!("the disk is full, while {doing}"),
                "Everything acknowledged before was kept, this change was not made",
                "Free some space or lower the quota; no restart is needed".to_owned(),
            ),
            Self::ReadOnly(doing) => (
                format!("the data directory cannot be written, while {doing}"),
                "Everything stored before was kept",
                "Check that the disk is mounted writable and that the directory is this user's".to_owned(),
            ),
            Self::Exposed { path, mode } => (
                format!("{} can be read by other users of this machine (mode {mode:o})", shown(path)),
                "Nothing was read",
                format!(
                    "Run: chmod 700 {}. Where the file system has no modes (exFAT, SMB), mount it with the option umask=077, or name \
                     another directory with --data-dir",
                    shown(path)
                ),
            ),
            Self::Bounds { len, index } => (
                format!("a share of {len} bytes with index {index} cannot be stored"),
                "Nothing was changed",
                "This is a bug in onionskin, please report it".to_owned(),
            ),
            Self::Name(name) => (
                format!("{} is no name for a state file", quoted(name)),
                "Nothing was changed",
                "This is a bug in onionskin, please report it".to_owned(),
            ),
            Self::Io { doing, source } => (
                format!("the disk failed, while {doing}: {source}"),
                "Everything acknowledged before was kept",
                "Check the disk and the system log".to_owned(),
            ),
        };
        [what, kept.to_owned(), next]
    }

    /// Sorts an error of the operating system by what can be done about it.
    pub(crate) fn io(doing: &'static str, source: io::Error) -> Self {
        use io::ErrorKind as K;
        let kind = source.kind();
        if matches!(kind, K::StorageFull | K::QuotaExceeded) {
            Self::DiskFull(doing)
        } else if matches!(kind, K::ReadOnlyFilesystem | K::PermissionDenied) {
            Self::ReadOnly(doing)
        } else {
            Self::Io { doing, source: Arc::new(source) }
        }
    }

    /// What a person can do about it, for exit codes.
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::WrongNetwork | Self::Exposed { .. } => ErrorKind::Usage,
            // Not a slip of the keyboard: the same command works when the other node has ended.
            Self::InUse(_) => ErrorKind::Other,
            Self::Newer { .. }
            | Self::Damaged { .. }
            | Self::Index(_)
            | Self::ReadOnly(_)
            | Self::DiskFull(_)
            | Self::Bounds { .. }
            | Self::Name(_)
            | Self::Io { .. } => ErrorKind::Other,
        }
    }
}
