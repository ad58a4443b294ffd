//! What people and programs see. Results go to standard output, everything else to standard error. With `--json` a program gets
//! exactly one object on standard output, an error as `{"error":{..}}`, and people's lines are left out.

use crate::base::ErrorKind;
use crate::base::text::harmless;
use crate::base::text::harmless_json;
use crate::client::failure;
use crate::client::files::output_failure;
use crate::client::lines::error_json;
use crate::client::lines::in_sentences;
use crate::proto::event::Failure;
use crate::proto::event::Progress;
use crate::proto::event::count;
use crate::proto::event::size;
use core::time::Duration;
use indicatif::ProgressBar;
use indicatif::ProgressDrawTarget;
use indicatif::ProgressStyle;
use rustix::event;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::fs::FallocateFlags;
use rustix::fs::OFlags;
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use serde::Serialize;
use std::fs::File;
use std::io;
use std::io::IsTerminal;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use tokio::task::AbortHandle;

/// Bytes of a file that are set aside for a result before it is there: a key with its report, or a line with a path.
const RESULT: u64 = 4096;

/// How often long work says how far it is, where no bar shows it: seldom enough for a log.
pub(super) const TELL_EVERY: Duration = Duration::from_secs(5);
/// The same for a program that draws a bar of its own.
const OBJECT_EVERY: Duration = Duration::from_secs(1);

/// Where a command's words go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Out {
    /// One JSON object instead of people's lines.
    pub(super) json: bool,
    /// Nothing but errors on standard error.
    pub(super) quiet: bool,
    /// How far long work is, as JSON objects on standard error.
    pub(super) progress: bool,
}

impl Out {
    /// Whether standard output takes anything, as far as that can be known without writing to it: what comes at great cost should
    /// not find it closed. It is tried before the work.
    pub(super) fn ready(self) -> Result<(), Failure> {
        can_write(io::stdout()).map_err(|e| Failure { kept: "Nothing was sent.".to_owned(), ..output_failure(&e.into()) })
    }

    /// A result, on standard output. A result that nobody could get is a failure.
    pub(super) fn result(self, text: &str) -> Result<(), Failure> {
        // Its own handle: the library's takes a closed one for one that swallows everything.
        let write = || File::from(io::stdout().as_fd().try_clone_to_owned()?).write_all(format!("{text}\n").as_bytes());
        write().map_err(|e| output_failure(&e))
    }

    /// A result in both forms: people's lines, or the object.
    pub(super) fn either(self, text: impl FnOnce() -> String, object: &impl Serialize) -> Result<(), Failure> {
        if self.json {
            let object = serde_json::to_string(object)
                .map_err(|_| failure(ErrorKind::Other, "a result has no JSON form: this is a bug", "", "Please report it."))?;
            self.result(&harmless_json(&object))
        } else {
            self.result(&text())
        }
    }

    /// Something worth knowing, on standard error.
    pub(super) fn note(self, text: &str) {
        if !self.quiet && !self.json {
            let _ = writeln!(io::stderr().lock(), "{}", harmless(text));
        }
    }

    /// An error: what happened, what was kept, what to do next.
    pub(super) fn error(self, why: &Failure) {
        if self.json {
            let object = harmless_json(&error_json(why));
            // Nothing more can be done where both are closed.
            let _ = self.result(&object).or_else(|_| writeln!(io::stderr().lock(), "{object}"));
        } else {
            let Failure { what, kept, next, .. } = in_sentences(why);
            // Where a part comes from a running node, or from the system, nobody has looked at it yet.
            let [what, kept, next] = [what, kept, next].map(|part| harmless(&part));
            let _ = write!(io::stderr().lock(), "error: {what}\nkept:  {kept}\nnext:  {next}\n");
        }
    }

    /// Shows how far long work is: with a bar if standard error is a terminal, else with a line now and then for whoever asked with
    /// `-v`; and with objects for a program that asked. Work that stands still is told as well.
    pub(super) fn bar(self, doing: &'static str) -> Bar {
        let terminal = io::stderr().is_terminal();
        let show = !self.quiet && !self.json && !self.progress && terminal;
        let bar =
            ProgressBar::with_draw_target(None, if show { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() });
        if let Ok(style) = ProgressStyle::with_template("{msg:9} {bar:30} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}") {
            bar.set_style(style);
        }
        bar.set_message(doing);
        let at = Arc::new(Mutex::new(Progress::default()));
        let lines = !terminal && tracing::enabled!(tracing::Level::INFO);
        let teller = (self.progress || lines).then(|| tokio::spawn(self.tell(doing, Arc::clone(&at))).abort_handle());
        Bar { bar, at, teller }
    }

    async fn tell(self, doing: &'static str, at: Arc<Mutex<Progress>>) {
        loop {
            tokio::time::sleep(if self.progress { OBJECT_EVERY } else { TELL_EVERY }).await;
            let progress = *at.lock().unwrap_or_else(PoisonError::into_inner);
            if self.progress {
                self.object(doing, &progress);
            } else {
                tracing::info!("{doing}: {}", so_far(progress));
            }
        }
    }

    /// One object of `--progress json`: what is being done, and how far it is.
    pub(super) fn object(self, doing: &str, at: &impl Serialize) {
        if self.progress
            && let Ok(object) = serde_json::to_string(&Object { progress: Doing { doing, at } })
        {
            let _ = writeln!(io::stderr().lock(), "{}", harmless_json(&object));
        }
    }
}

#[derive(Serialize)]
struct Object<'a, T> {
    progress: Doing<'a, T>,
}

#[derive(Serialize)]
struct Doing<'a, T> {
    doing: &'a str,
    #[serde(flatten)]
    at: &'a T,
}

fn so_far(progress: Progress) -> String {
    let of = if progress.total > 0 { format!(" of {}", size(progress.total)) } else { String::new() };
    format!("{}{of}, {}", size(progress.bytes), count(progress.shares, "share"))
}

/// Shows how far an operation is; wiped when dropped.
#[derive(Debug)]
pub(super) struct Bar {
    bar: ProgressBar,
    at: Arc<Mutex<Progress>>,
    teller: Option<AbortHandle>,
}

impl Bar {
    /// Shows this.
    pub(super) fn show(&self, progress: Progress) {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = progress;
        if progress.total > 0 {
            self.bar.set_length(progress.total);
        }
        self.bar.set_position(progress.bytes);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(teller) = &self.teller {
            teller.abort();
        }
        self.bar.finish_and_clear();
    }
}

/// Tries a stream without changing what it holds.
fn can_write(to: impl AsFd) -> rustix::io::Result<()> {
    let to = to.as_fd();
    // Finds what is not open for writing, and devices that take nothing.
    rustix::io::write(to, &[])?;
    let mut polled = [PollFd::new(&to, PollFlags::OUT)];
    event::poll(&mut polled, Some(&Timespec::default()))?;
    if polled.iter().any(|fd| fd.revents().intersects(PollFlags::ERR | PollFlags::HUP)) {
        return Err(Errno::PIPE);
    }
    // A file's room is set aside, without changing its length; not every file system can.
    let at = if rustix::fs::fcntl_getfl(to)?.contains(OFlags::APPEND) { SeekFrom::End(0) } else { SeekFrom::Current(0) };
    match rustix::fs::seek(to, at).and_then(|at| rustix::fs::fallocate(to, FallocateFlags::KEEP_SIZE, at, RESULT)) {
        Err(full @ (Errno::NOSPC | Errno::DQUOT)) => Err(full),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A path's bytes in hexadecimal, for JSON: where they are no UTF-8, the text beside it cannot say them all.
pub(super) fn hex_unless_text(path: &Path) -> Option<String> {
    path.to_str().is_none().then(|| data_encoding::HEXLOWER.encode(path.as_os_str().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn every_path_has_a_form_in_json() {
        assert_eq!(hex_unless_text(Path::new("a ü")), None);
        assert_eq!(hex_unless_text(Path::new(OsStr::from_bytes(b"caf\xe9"))).unwrap(), "636166e9");
    }
}
