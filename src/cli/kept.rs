//! Keys that are not handed out yet. A publication costs work, and its key is known before the work is done: from then on it is
//! kept in the data directory, so that no full disk, broken pipe or kill loses it, until it is out on standard output.
//!
//! ```text
//! <data>/kept-keys/TAG      mode 0600: the read key, one line; the tag is made from the key and says nothing about it
//! ```

use crate::base::text::shown;
use crate::cli::output::Out;
use crate::cli::session;
use crate::client::files::io_failure;
use crate::client::target::tag;
use crate::config::Config;
use crate::proto::doc::key::ReadKey;
use crate::proto::event::Failure;
use std::fs;
use std::io;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;

/// Directory of kept keys.
const DIRECTORY: &str = "kept-keys";
/// Longest of these files that is overwritten when it goes: a key is far shorter.
const FILE_MAX: u64 = 64 * 1024;

/// What keeps the key of one publication.
pub(super) struct Keeper<'a> {
    out: Out,
    config: &'a Config,
    key: Mutex<Option<ReadKey>>,
}

impl<'a> Keeper<'a> {
    /// Of a publication that has no key yet.
    pub(super) const fn new(out: Out, config: &'a Config) -> Self {
        Self { out, config, key: Mutex::new(None) }
    }

    fn key(&self) -> Option<ReadKey> {
        self.key.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps a key from now on. A place that cannot be written to stops no publication: the key is still told at its end.
    pub(super) fn keep(&self, key: &ReadKey) {
        if self.key.lock().unwrap_or_else(PoisonError::into_inner).replace(key.clone()).is_some() {
            return;
        }
        if let Err(why) = self.write(key) {
            self.out.note(&format!("the key is kept in no file: {}", why.what));
        }
    }

    fn write(&self, key: &ReadKey) -> Result<PathBuf, Failure> {
        let path = directory(self.config)?.join(tag(key));
        let line = format!("{}\n", key.to_text());
        session::write(&path, line.as_bytes()).map_err(|e| io_failure("write", &path, &e))?;
        Ok(path)
    }

    /// Where the key is, in words for a failure, once there is one. With no file left to name, the key itself.
    pub(super) fn told(&self) -> Option<String> {
        let key = self.key()?;
        Some(match self.write(&key) {
            Ok(path) => {
                let forget = in_directory(self.config, "onionskin keys forget");
                format!("The key, in {}; `{forget}` removes it.", shown(path))
            }
            Err(_) => format!("Nothing on the disk; this is the key: {}", key.to_text()),
        })
    }

    /// The key is out: its file goes.
    pub(super) fn handed_out(&self) {
        if let (Some(key), Ok(directory)) = (self.key(), directory(self.config)) {
            let path = directory.join(tag(&key));
            if let Err(e) = erase(&path).and_then(|()| leave(&directory)) {
                self.out.note(&format!("a kept key stays: {}", io_failure("remove", &path, &e).what));
            }
        }
    }
}

/// A command that means this very data directory.
fn in_directory(config: &Config, command: &str) -> String {
    config.data_dir.as_ref().map_or_else(|| command.to_owned(), |dir| format!("{command} --data-dir {}", shown(dir)))
}

fn directory(config: &Config) -> Result<PathBuf, Failure> {
    Ok(config.data_dir()?.join(DIRECTORY))
}

/// Removes one kept key, or all of them. Gives their number.
pub(super) fn forget(config: &Config, key: Option<&ReadKey>) -> Result<u64, Failure> {
    let directory = directory(config)?;
    let paths = match key {
        Some(key) => vec![directory.join(tag(key))],
        None => match fs::read_dir(&directory) {
            Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(io_failure("read", &directory, &e)),
        },
    };
    let mut forgotten = 0;
    for path in paths {
        match erase(&path) {
            Ok(()) => forgotten += 1,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(io_failure("remove", &path, &e)),
        }
    }
    leave(&directory).map_err(|e| io_failure("remove", &directory, &e))?;
    Ok(forgotten)
}

/// Overwrites a key's file and removes it. File systems and disks that write elsewhere keep the bytes all the same.
fn erase(path: &Path) -> io::Result<()> {
    let length = fs::symlink_metadata(path)?.len().min(FILE_MAX);
    let zeros = vec![0; usize::try_from(length).unwrap_or(0)];
    // Best effort: what cannot be overwritten is removed at least.
    let _ = fs::OpenOptions::new().write(true).open(path).and_then(|mut file| {
        file.write_all(&zeros)?;
        file.sync_all()
    });
    fs::remove_file(path)
}

/// Removes the directory when nothing is in it any more.
fn leave(directory: &Path) -> io::Result<()> {
    match fs::remove_dir(directory) {
        Err(e) if !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::secret::Secret;
    use std::os::unix::fs::PermissionsExt;

    const OUT: Out = Out { json: false, quiet: true, progress: false };

    fn key(n: u8) -> ReadKey {
        ReadKey::new(Secret::new([n; 32]), [9; 32], false)
    }

    #[test]
    fn a_key_is_kept_for_its_user_alone_until_it_is_out() {
        let temp = tempfile::tempdir().unwrap();
        let config = Config { data_dir: Some(temp.path().join("my data")), ..Config::default() };
        let keeper = Keeper::new(OUT, &config);
        assert_eq!(keeper.told(), None, "no key, no words");
        keeper.keep(&key(1));
        let path = temp.path().join("my data/kept-keys").join(tag(&key(1)));
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", key(1).to_text()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        let told = keeper.told().unwrap();
        assert!(told.contains(&shown(&path)) && told.contains("keys forget --data-dir '"), "{told}");
        assert!(!told.contains(&key(1).to_text()), "a file is enough");
        keeper.handed_out();
        assert!(!path.parent().unwrap().exists());
        // Somebody removed it meanwhile: it is there when it is named.
        assert!(keeper.told().is_some() && path.exists());
    }

    #[test]
    fn without_a_place_the_key_itself_is_told() {
        let temp = tempfile::tempdir().unwrap();
        let config = Config { data_dir: Some(temp.path().to_owned()), ..Config::default() };
        fs::write(temp.path().join(DIRECTORY), "in the way").unwrap();
        let keeper = Keeper::new(OUT, &config);
        keeper.keep(&key(1));
        assert!(keeper.told().unwrap().ends_with(&key(1).to_text()));
        keeper.handed_out();
        assert_eq!(fs::read_to_string(temp.path().join(DIRECTORY)).unwrap(), "in the way");
    }

    #[test]
    fn forgetting_takes_one_or_all() {
        let temp = tempfile::tempdir().unwrap();
        let config = Config { data_dir: Some(temp.path().to_owned()), ..Config::default() };
        assert_eq!(forget(&config, None).unwrap(), 0);
        for n in 1..=3 {
            Keeper::new(OUT, &config).keep(&key(n));
        }
        assert_eq!(forget(&config, Some(&key(9))).unwrap(), 0);
        assert_eq!(forget(&config, Some(&key(2))).unwrap(), 1);
        let mut held = fs::File::open(temp.path().join(DIRECTORY).join(tag(&key(1)))).unwrap();
        assert_eq!(forget(&config, None).unwrap(), 2);
        let mut left = Vec::new();
        io::Read::read_to_end(&mut held, &mut left).unwrap();
        assert!(!left.is_empty() && left.iter().all(|b| *b == 0), "overwritten");
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
    }
}
