//! Documents on disk. What arrives is written to a private part file beside its target, and gets the final name only when it is
//! whole: nothing half-done is ever seen under that name. A part stays behind when a get fails, and the same get goes on from it.
//! Which names these are, [`Target`] says.
//!
//! A part proves itself: the file of sums beside it has one sum of 32 bytes for each whole block of the part, written when the
//! block is safe on the disk. Each sum covers its block and the sum before it. A get goes on behind the last block that is still
//! right, and fetches the rest again. The sums find damage; whoever may write to both files can forge them.

use crate::base::ErrorKind;
use crate::base::limits;
use crate::base::text::shown;
use crate::client::Found;
use crate::client::Node;
use crate::client::Operations;
use crate::client::Sink;
use crate::client::Source;
use crate::client::Watch;
use crate::client::failure;
use crate::client::target::Target;
use crate::client::target::tag;
use crate::crypto::kdf::Label;
use crate::crypto::kdf::LongHash;
use crate::crypto::kdf::hash;
use crate::proto::doc::key::ReadKey;
use crate::proto::event::Failure;
use crate::proto::event::NO_KEY;
use crate::proto::event::Report;
use bytes::Bytes;
use bytes::BytesMut;
use rustix::io::Errno;
use std::fs;
use std::io;
use std::io::Read;
use std::io::Seek;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Once;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::SystemTime;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncSeekExt;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt;

/// A block of a part: synced to disk when it is whole, and proven by one sum.
const SYNC_EVERY: u64 = 1 << 20;
/// Bytes that are read at once when a part is proven, or standard input is kept.
const READ: usize = 64 * 1024;

/// Explains an IO error of a local file.
pub fn io_failure(doing: &str, path: &Path, error: &io::Error) -> Failure {
    io_failure_of(doing, &shown(path), error)
}

/// What is told where nobody reads the results any more; most often, as with `| head`, nobody misses them either.
pub const UNREAD: &str = "the program that read standard output has ended";

/// Explains why standard output takes nothing.
pub fn output_failure(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return failure(ErrorKind::Other, UNREAD, "", "Let it read to the end.");
    }
    io_failure_of("write to", "standard output", error)
}

/// Explains an IO error of something that has no path, or whose path is shown already.
pub fn io_failure_of(doing: &str, what: &str, error: &io::Error) -> Failure {
    let kind = error.kind();
    let is = |errno: Errno| error.raw_os_error() == Some(errno.raw_os_error());
    let next = if matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory) {
        "Check the path."
    } else if is(Errno::LOOP) {
        "Links lead in a circle there: check the path."
    } else if is(Errno::MFILE) || is(Errno::NFILE) {
        "Too many files are open: end other programs, or raise the limit (`ulimit -n`)."
    } else if kind == io::ErrorKind::ReadOnlyFilesystem {
        "Nothing can be written to that disk: choose another place."
    } else if kind == io::ErrorKind::FileTooLarge {
        "The disk, or a limit of this user (`ulimit -f`), takes no file so long: choose another place."
    } else if kind == io::ErrorKind::PermissionDenied {
        "Check the permissions, or choose another place."
    } else if matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        "Make room, then repeat the command."
    } else if matches!(kind, io::ErrorKind::InvalidInput | io::ErrorKind::InvalidFilename) {
        "Choose a shorter path."
    } else if kind == io::ErrorKind::BrokenPipe {
        "The program that read it has ended; repeat the command."
    } else {
        "Check the disk, then repeat the command."
    };
    failure(ErrorKind::Other, format!("cannot {doing} {what}: {error}"), "", next)
}

pub(in crate::client) fn usage(what: String, next: &str) -> Failure {
    failure(ErrorKind::Usage, what, "Nothing was sent.", next)
}

// --- publishing

/// A file that is read in order, and must stay as it was.
#[derive(Debug)]
pub struct FileSource {
    file: tokio::fs::File,
    /// What people are told it is.
    shown: String,
    left: u64,
    length: u64,
    modified: Option<SystemTime>,
}

impl FileSource {
    /// Opens a document and takes its length.
    pub async fn open(path: &Path) -> Result<Self, Failure> {
        let fail = |e: io::Error| {
            if e.kind() == io::ErrorKind::NotFound {
                return usage(format!("there is no file {}", shown(path)), "Check the path.");
            }
            Failure { kept: "Nothing was sent.".to_owned(), ..io_failure("open", path, &e) }
        };
        // Before it is opened: a pipe without a writer would let nobody open it.
        ordinary(&tokio::fs::metadata(path).await.map_err(fail)?, &shown(path))?;
        let mut source = Self::over(tokio::fs::File::open(path).await.map_err(fail)?, shown(path)).await?;
        // What the system makes up as it is read, as in /proc, has no length.
        if source.length == 0 && source.file.read(&mut [0]).await.map_err(|e| io_failure("read", path, &e))? > 0 {
            return Err(not_ordinary(&source.shown));
        }
        Ok(source)
    }

    /// Everything that a stream has to give, through a nameless private file: a document's length must be known before its first
    /// chunk.
    pub async fn spool(from: impl tokio::io::AsyncRead + Unpin) -> Result<Self, Failure> {
        let source = "standard input";
        let directory = std::env::temp_dir();
        // Its place is nobody's choice here and now: it is named, and how to choose another.
        let keep = |e: io::Error| {
            let next = "Make room there, or name another directory in the environment: TMPDIR=DIR.";
            let why = io_failure_of("keep standard input in", &shown(&directory), &e);
            Failure { kept: "Nothing was sent.".to_owned(), next: next.to_owned(), ..why }
        };
        let mut file = tokio::fs::File::from_std(tempfile::tempfile_in(&directory).map_err(keep)?);
        let mut from = from.take(limits::DOCUMENT_MAX + 1);
        let mut buffer = vec![0; READ];
        loop {
            let read = from.read(&mut buffer).await.map_err(|e| io_failure_of("read", source, &e))?;
            if read == 0 {
                break;
            }
            file.write_all(buffer.get(..read).unwrap_or_default()).await.map_err(keep)?;
        }
        file.flush().await.map_err(keep)?;
        file.rewind().await.map_err(keep)?;
        Self::over(file, source.to_owned()).await
    }

    async fn over(file: tokio::fs::File, shown: String) -> Result<Self, Failure> {
        let meta = file.metadata().await.map_err(|e| io_failure_of("read", &shown, &e))?;
        ordinary(&meta, &shown)?;
        if meta.len() > limits::DOCUMENT_MAX {
            return Err(usage(format!("{shown} is longer than a document can be, which is 1 TiB"), "Publish it in parts."));
        }
        Ok(Self { file, shown, left: meta.len(), length: meta.len(), modified: meta.modified().ok() })
    }

    /// Bytes of the document.
    pub fn length(&self) -> u64 {
        self.length
    }

    fn changed(&self) -> Failure {
        failure(
            ErrorKind::Other,
            format!("{} changed while it was being published", self.shown),
            NO_KEY,
            "Publish it again once nothing writes to it, or publish a copy.",
        )
    }
}

fn ordinary(meta: &fs::Metadata, shown: &str) -> Result<(), Failure> {
    if meta.is_dir() {
        return Err(usage(format!("{shown} is a directory"), "Publish one file; an archive of the directory is one."));
    }
    if meta.is_file() { Ok(()) } else { Err(not_ordinary(shown)) }
}

fn not_ordinary(shown: &str) -> Failure {
    usage(format!("{shown} is not an ordinary file"), "Pipe it in and publish `-` instead.")
}

impl Source for FileSource {
    async fn read(&mut self, len: usize) -> Result<Bytes, Failure> {
        let mut bytes = BytesMut::zeroed(len);
        match self.file.read_exact(&mut bytes).await {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(self.changed()),
            Err(e) => return Err(io_failure_of("read", &self.shown, &e)),
        }
        self.left = self.left.saturating_sub(len as u64);
        if self.left == 0 {
            // Before the last chunk leaves: afterwards the document would stand, mixed of two states of the file.
            let meta = self.file.metadata().await.map_err(|e| io_failure_of("read", &self.shown, &e))?;
            if meta.len() != self.length || meta.modified().ok() != self.modified {
                return Err(self.changed());
            }
        }
        Ok(bytes.freeze())
    }

    async fn rewind(&mut self) -> Result<(), Failure> {
        self.file.rewind().await.map_err(|e| io_failure_of("read", &self.shown, &e))?;
        self.left = self.length;
        Ok(())
    }
}

// --- fetching

/// What a get that was stopped on its way left for the next one, in words. A part without a whole block is removed.
pub fn left_behind(target: &Target) -> Option<String> {
    let (part, sums) = (target.part(), target.sums());
    let file = fs::File::open(part).ok()?;
    let sums_length = fs::metadata(sums).map_or(0, |meta| meta.len());
    let blocks = (file.metadata().ok()?.len() / SYNC_EVERY).min(sums_length / 32);
    if blocks > 0 {
        return Some(kept(blocks * SYNC_EVERY, part));
    }
    // Unless another get works on it.
    if file.try_lock().is_ok() {
        let _ = fs::remove_file(part);
        let _ = fs::remove_file(sums);
    }
    None
}

fn kept(bytes: u64, part: &Path) -> String {
    format!("{bytes} verified bytes in {}; the same command goes on from there.", shown(part))
}

/// A document that arrived whole.
#[derive(Debug)]
pub struct Fetched {
    /// Where it is.
    pub path: PathBuf,
    /// What its publisher said of it.
    pub found: Found,
    /// How it went.
    pub report: Report,
    /// Bytes that an earlier get had left, and that were not fetched again.
    pub resumed: u64,
}

/// Fetches a document into a file or a directory, going on from a part if there is one. Unless `force` is set, nothing that exists
/// is replaced.
pub async fn get_to_file<H: Operations>(
    node: &Node<H>,
    key: &ReadKey,
    target: &Path,
    force: bool,
    watch: Watch<'_>,
) -> Result<Fetched, Failure> {
    let part = Part::open(Target::settle(Some(target), &tag(key), force)?).await?;
    get_to_part(node, key, part, watch).await
}

/// The same for a part that is open already.
pub async fn get_to_part<H: Operations>(
    node: &Node<H>,
    key: &ReadKey,
    mut part: Part,
    watch: Watch<'_>,
) -> Result<Fetched, Failure> {
    loop {
        let resumed = part.proven;
        match node.get(key, resumed, &mut part, watch).await {
            Ok(report) => {
                let found = part.finish().await?;
                return Ok(Fetched { path: part.target.path().to_owned(), found, report, resumed });
            }
            // Not this document's beginning after all: start anew, once.
            Err(_) if part.stale => part.restart().await?,
            // The node saw it first.
            Err(why) if resumed > 0 && why.kind == ErrorKind::Usage && !part.met => part.restart().await?,
            Err(why) => return Err(part.leave(why)),
        }
    }
}

/// The unfinished file of a document. Locked, so that two gets never write into one part.
#[derive(Debug)]
pub struct Part {
    file: tokio::fs::File,
    target: Target,
    /// Bytes that are verified and written, by this get or an earlier one.
    length: u64,
    /// Bytes of the whole blocks among them, whose sums are written.
    proven: u64,
    sums: Sums,
    found: Found,
    /// Whether the document was found.
    met: bool,
    stale: bool,
}

/// The sums over the blocks of a part.
#[derive(Debug)]
struct Sums {
    file: tokio::fs::File,
    /// What stands for the sum before the first: another document's sums prove nothing.
    first: [u8; 32],
    /// The sum of the last whole block.
    last: [u8; 32],
    /// Over the block that is not whole yet.
    open: LongHash,
}

/// The sum of a block: over its bytes, then the sum before it. All blocks are of one length, so the two do not run together.
fn block_sum(mut block: LongHash, before: &[u8; 32]) -> [u8; 32] {
    block.update(before);
    block.finish(0)
}

/// Reads a part from its beginning as far as its sums prove it. Gives the number of right blocks, and the last one's sum.
fn prove(part: &mut impl Read, sums: &mut impl Read, first: [u8; 32]) -> (u64, [u8; 32]) {
    let (mut blocks, mut last) = (0, first);
    let mut buffer = vec![0; READ];
    loop {
        let mut told = [0; 32];
        let mut block = LongHash::new(Label::PartSum);
        // What cannot be read is not there.
        let whole = sums.read_exact(&mut told).and_then(|()| {
            (0..SYNC_EVERY / READ as u64).try_for_each(|_| {
                part.read_exact(&mut buffer)?;
                block.update(&buffer);
                Ok(())
            })
        });
        if whole.is_err() || block_sum(block, &last) != told {
            return (blocks, last);
        }
        blocks += 1;
        last = told;
    }
}

/// Opens or makes a private file. One that is made is private from its first moment; one that was there is closed, if its file
/// system has modes (exFAT, SMB and some others have none, and refuse).
fn open_private(path: &Path) -> Result<fs::File, Failure> {
    if fs::symlink_metadata(path).is_ok_and(|meta| !meta.is_file()) {
        return Err(usage(format!("{} is in the way", shown(path)), "Remove it, then repeat the command."));
    }
    let options = || {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        options
    };
    let opened = match options().create_new(true).open(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            options().open(path).and_then(|file| close_to_others(&file).map(|()| file))
        }
        opened => opened,
    };
    let file = opened.map_err(|e| io_failure("write", path, &e))?;
    if file.metadata().is_ok_and(|meta| meta.mode() & 0o077 != 0) {
        // Each get has two of them.
        static TOLD: Once = Once::new();
        TOLD.call_once(|| tracing::warn!("the file system of the target keeps no modes: other users may be able to read the file"));
    }
    Ok(file)
}

/// Takes a file from everyone but its owner. Where the file system refuses that for a file of ours, it has no modes.
fn close_to_others(file: &fs::File) -> io::Result<()> {
    let meta = file.metadata()?;
    match file.set_permissions(fs::Permissions::from_mode(0o600)) {
        Err(e) if refuses_modes(&e) && meta.uid() == rustix::process::geteuid().as_raw() => Ok(()),
        done => done,
    }
}

/// Whether this is how a file system says that it has no modes (or no sockets).
pub fn refuses_modes(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|errno| [Errno::PERM, Errno::ACCESS, Errno::OPNOTSUPP, Errno::NOSYS, Errno::INVAL].contains(&errno))
}

impl Part {
    /// Opens the part of a document, or makes one, and finds out how much of it is right. Sends nothing.
    ///
    /// # Errors
    /// The place cannot be written to, or another get is at work there.
    pub async fn open(target: Target) -> Result<Self, Failure> {
        // A long part takes a while to read.
        let opened = tokio::task::spawn_blocking(move || Self::open_now(target)).await;
        opened.map_err(|e| failure(ErrorKind::Other, format!("cannot read the part: {e}"), "", ""))?
    }

    fn open_now(target: Target) -> Result<Self, Failure> {
        let (path, sums_path) = (target.part(), target.sums());
        let mut file = open_private(path)?;
        // A get that ended just now may have given this very file its name: it is no part any more.
        let same = |meta: fs::Metadata| Some(meta.ino()) == fs::symlink_metadata(path).ok().map(|named| named.ino());
        if matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock)) || !file.metadata().is_ok_and(same) {
            return Err(failure(
                ErrorKind::Other,
                "another get is fetching this document to the same place",
                "Its part is untouched.",
                "Let it finish, or choose another name with -o.",
            ));
        }
        let mut sums = open_private(sums_path)?;
        let first = hash(Label::PartSum, &[target.tag().as_bytes()]);
        let (blocks, last) = prove(&mut file, &mut sums, first);
        let proven = blocks * SYNC_EVERY;
        cut(&mut file, proven).map_err(|e| io_failure("write", path, &e))?;
        cut(&mut sums, blocks * 32).map_err(|e| io_failure("write", sums_path, &e))?;
        let sums = Sums { file: tokio::fs::File::from_std(sums), first, last, open: LongHash::new(Label::PartSum) };
        let file = tokio::fs::File::from_std(file);
        Ok(Self { file, target, length: proven, proven, sums, found: Found::default(), met: false, stale: false })
    }

    async fn restart(&mut self) -> Result<(), Failure> {
        let empty = async {
            self.sums.file.set_len(0).await?;
            self.sums.file.rewind().await?;
            self.file.set_len(0).await?;
            self.file.rewind().await
        };
        empty.await.map_err(|e| io_failure("write", self.target.part(), &e))?;
        self.sums.last = self.sums.first;
        self.sums.open = LongHash::new(Label::PartSum);
        self.length = 0;
        self.proven = 0;
        self.met = false;
        self.stale = false;
        Ok(())
    }

    /// The block that has just become whole goes to the disk, and then its sum.
    async fn prove_block(&mut self) -> io::Result<()> {
        self.file.flush().await?;
        self.file.sync_data().await?;
        let block = core::mem::replace(&mut self.sums.open, LongHash::new(Label::PartSum));
        self.sums.last = block_sum(block, &self.sums.last);
        self.sums.file.write_all(&self.sums.last).await?;
        self.sums.file.flush().await?;
        self.proven = self.length;
        Ok(())
    }

    /// Gives the whole document its name.
    async fn finish(&mut self) -> Result<Found, Failure> {
        let (part, target, force) = (self.target.part(), self.target.path(), self.target.force());
        let sync = async {
            self.file.flush().await?;
            self.file.sync_all().await
        };
        sync.await.map_err(|e| io_failure("write", part, &e))?;
        // A hard link refuses to replace what appeared meanwhile, a rename does not; not every file system has the former.
        let linked = if force { Err(io::ErrorKind::Unsupported.into()) } else { fs::hard_link(part, target) };
        let named = match linked {
            Ok(()) => fs::remove_file(part),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(e),
            Err(_) if !force && target.exists() => Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => fs::rename(part, target),
        };
        match named {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Err(self.target.exists(&format!("The whole document is in {}.", shown(part))));
            }
            Err(e) => return Err(io_failure("name", target, &e)),
        }
        let _ = fs::remove_file(self.target.sums());
        // Makes the name durable; some file systems refuse to sync a directory, and the document itself is safe already.
        if let Ok(directory) = fs::File::open(self.target.directory()) {
            let _ = directory.sync_all();
        }
        Ok(core::mem::take(&mut self.found))
    }

    /// Leaves the part for a later get, and says so; one without a whole block is removed.
    pub fn leave(&self, mut why: Failure) -> Failure {
        if self.proven == 0 {
            let _ = fs::remove_file(self.target.part());
            let _ = fs::remove_file(self.target.sums());
            return why;
        }
        why.kept = kept(self.proven, self.target.part());
        why
    }
}

/// Leaves the first bytes of a file, and stands behind them.
fn cut(file: &mut fs::File, length: u64) -> io::Result<()> {
    file.set_len(length)?;
    file.seek(io::SeekFrom::Start(length)).map(|_| ())
}

impl Sink for Part {
    async fn found(&mut self, found: Found) -> Result<(), Failure> {
        if found.length < self.proven {
            self.stale = true;
            return Err(failure(ErrorKind::Other, "the part is longer than the document", "", "Remove the part."));
        }
        self.met = true;
        self.target.found(found.name.as_deref(), found.length - self.proven)?;
        self.found = found;
        Ok(())
    }

    async fn data(&mut self, bytes: Bytes) -> Result<(), Failure> {
        let write = async {
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let room = SYNC_EVERY - self.length % SYNC_EVERY;
                let (now, later) = rest.split_at(rest.len().min(room as usize));
                self.file.write_all(now).await?;
                self.sums.open.update(now);
                self.length += now.len() as u64;
                if self.length.is_multiple_of(SYNC_EVERY) {
                    self.prove_block().await?;
                }
                rest = later;
            }
            io::Result::Ok(())
        };
        write.await.map_err(|e| io_failure("write", self.target.part(), &e))
    }
}

/// A sink over any stream: standard output, or memory.
#[derive(Debug)]
pub struct StreamSink<'a, W> {
    to: W,
    found: Found,
    /// Set as soon as something is written.
    begun: &'a AtomicBool,
}

impl<'a, W> StreamSink<'a, W> {
    /// Writes to `to`, and sets `begun` before it does so for the first time.
    pub fn new(to: W, begun: &'a AtomicBool) -> Self {
        Self { to, found: Found::default(), begun }
    }

    /// What was written to, and what the publisher said of the document.
    pub fn into_parts(self) -> (W, Found) {
        (self.to, self.found)
    }
}

impl<W: AsyncWrite + Unpin + Send> Sink for StreamSink<'_, W> {
    async fn found(&mut self, found: Found) -> Result<(), Failure> {
        self.found = found;
        Ok(())
    }

    async fn data(&mut self, bytes: Bytes) -> Result<(), Failure> {
        self.begun.store(true, Ordering::Relaxed);
        let write = async {
            self.to.write_all(&bytes).await?;
            self.to.flush().await
        };
        write.await.map_err(|e| output_failure(&e))
    }
}

#[cfg(test)]
mod tests;
