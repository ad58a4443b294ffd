//! The socket that the API listens on: open to its owner only, from its first moment on.

use crate::base::ErrorKind;
use crate::base::text::shown;
use crate::client::daemon::Daemon;
use crate::client::failure;
use crate::client::files::io_failure;
use crate::client::files::refuses_modes;
use crate::proto::event::Failure;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use tokio::net::UnixListener;

/// A listening socket. Its file goes when this is dropped.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Listens at `path`. What an earlier node left there is replaced if nobody answers.
pub async fn listen(path: &Path) -> Result<(UnixListener, Socket), Failure> {
    if Daemon::find(path).await?.is_some() {
        return Err(failure(
            ErrorKind::Other,
            format!("another node answers at {} already", shown(path)),
            "It was left alone.",
            "Stop it first, or give this one a data directory of its own with --data-dir.",
        ));
    }
    let fail = |e: io::Error| no_socket(path, &e);
    if fs::symlink_metadata(path).is_ok_and(|meta| !meta.file_type().is_socket()) {
        return Err(fail(io::ErrorKind::AlreadyExists.into()));
    }
    let directory = path.parent().unwrap_or(Path::new("."));
    private_dir(directory).map_err(|e| io_failure("make", directory, &e))?;
    // Bound inside a closed directory and moved when its mode is right: nobody can slip in between.
    let nursery = directory.join(format!(".s{}", std::process::id()));
    let _ = fs::remove_dir_all(&nursery);
    let bound = || {
        fs::DirBuilder::new().mode(0o700).create(&nursery)?;
        let young = nursery.join("s");
        let listener = UnixListener::bind(&young)?;
        fs::set_permissions(&young, fs::Permissions::from_mode(0o600))?;
        fs::rename(&young, path)?;
        Ok(listener)
    };
    let bound = bound().map_err(fail);
    let _ = fs::remove_dir_all(&nursery);
    Ok((bound?, Socket { path: path.to_owned() }))
}

/// Explains why there is no socket at `path`.
fn no_socket(path: &Path, error: &io::Error) -> Failure {
    let why = io_failure("listen at", path, error);
    if !refuses_modes(error) {
        return why;
    }
    let next = "The socket needs a file system with sockets and modes, in a directory of your own. Name such a directory with \
                --data-dir; without --data-dir the socket is in $XDG_RUNTIME_DIR, if that is set.";
    Failure { next: next.to_owned(), ..why }
}

/// Makes a directory that only its owner may enter. One that exists keeps its mode: it may be somebody's home.
pub fn private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[tokio::test]
    async fn stale_is_replaced_and_living_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/api.sock");
        let (listener, socket) = listen(&path).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(listen(&path).await.unwrap_err().kind, ErrorKind::Other);
        drop(listener);
        core::mem::forget(socket);
        assert!(path.exists(), "a crash leaves the file behind");
        let (_listener, socket) = listen(&path).await.unwrap();
        drop(socket);
        assert!(!path.exists());
    }

    /// exFAT, SMB and some others take neither sockets nor modes.
    #[test]
    fn a_place_that_takes_no_socket_is_told_with_the_way_out() {
        let next = |errno: Errno| no_socket(Path::new("d/api.sock"), &errno.into()).next;
        for errno in [Errno::OPNOTSUPP, Errno::PERM, Errno::NOSYS] {
            let next = next(errno);
            assert!(next.contains("--data-dir") && next.contains("XDG_RUNTIME_DIR"), "{errno}: {next}");
        }
        assert!(next(Errno::NOSPC).contains("Make room"));
    }

    #[tokio::test]
    async fn what_is_no_socket_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        fs::write(&path, "mine").unwrap();
        assert!(listen(&path).await.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }
}
