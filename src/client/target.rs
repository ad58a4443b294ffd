//! Where a document goes. Settled once, before anything is sent: the same [`Target`] says where the part lies, where the whole file
//! will be, and what people are told.
//!
//! Until the document is whole it lies beside its target as `.<name>.<tag>.onionskin-part`, with sums in
//! `.<name>.<tag>.onionskin-sums`. The tag is a hash over the key ([`tag`]), so the same document finds its part again and others
//! do not. A name too long to be repeated whole is cut, and a hash of it all stands behind the rest, so that no two names meet.

use crate::base::ErrorKind;
use crate::base::text::is_harmless;
use crate::base::text::shown;
use crate::client::failure;
use crate::client::files::io_failure;
use crate::client::files::usage;
use crate::crypto::kdf::Label;
use crate::crypto::kdf::hash;
use crate::proto::doc::key::ReadKey;
use crate::proto::event::Failure;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::path::PathBuf;

/// Bytes of the target's name that its part repeats. With dots, hash, tag and ending that is 140: below the 255 of most file
/// systems, and below the 143 of those that encrypt names.
const PART_NAME_MAX: usize = 90;

/// The tag of a key in file names: the same for the same key, and says nothing about it.
pub fn tag(key: &ReadKey) -> String {
    hex(&hash(Label::PartTag, &[key.to_text().as_bytes()]))
}

/// The first 8 bytes: enough to tell apart what one person has.
fn hex(digest: &[u8]) -> String {
    digest.iter().take(8).map(|b| format!("{b:02x}")).collect()
}

/// The name of a document for which nobody gave one: one that strangers chose could be any file here (T25).
fn own_name(tag: &str) -> String {
    format!("onionskin-{tag}")
}

/// Where a document goes.
#[derive(Clone, Debug)]
pub struct Target {
    path: PathBuf,
    tag: String,
    force: bool,
    /// A directory was named: the publisher's name serves in it, once it is known.
    in_directory: bool,
    part: PathBuf,
    sums: PathBuf,
}

impl Target {
    /// Settles where the document of this tag goes. A directory takes it inside; what ends in a slash must be one. `force`: an
    /// ordinary file of this name may be replaced.
    ///
    /// # Errors
    /// Nothing can be written there.
    pub fn settle(given: Option<&Path>, tag: &str, force: bool) -> Result<Self, Failure> {
        let own = PathBuf::from(own_name(tag));
        let (path, in_directory) = match given {
            None => (own, false),
            Some(path) if path.is_dir() || means_a_directory(path) => (path.join(own), true),
            Some(path) => (path.to_owned(), false),
        };
        let (part, sums) = (part_path(&path, tag), sums_path(&path, tag));
        let target = Self { path, tag: tag.to_owned(), force, in_directory, part, sums };
        if target.path.file_name().is_none() {
            return Err(usage(format!("{} is not a file name", shown(&target.path)), "Choose another name with -o."));
        }
        if !target.directory().is_dir() {
            let what = format!("there is no directory {}", shown(target.directory()));
            return Err(usage(what, "Make it first, or choose another."));
        }
        // In a directory the name is not known yet.
        if !in_directory {
            target.may_write("Nothing was sent.")?;
        }
        Ok(target)
    }

    /// Where the whole file will be. In a directory, the final word is said when the document is found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The key's tag.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// Whether what has the name may be replaced.
    pub fn force(&self) -> bool {
        self.force
    }

    /// Where the part is kept until it is whole.
    pub fn part(&self) -> &Path {
        &self.part
    }

    /// Where the sums of the part are kept.
    pub fn sums(&self) -> &Path {
        &self.sums
    }

    /// The directory that takes the file.
    pub fn directory(&self) -> &Path {
        match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }

    /// The document is found: settles its name in a directory, by what its publisher called it, and looks whether `more` bytes have
    /// room.
    ///
    /// # Errors
    /// The name is taken, or the disk too full: both before anything is fetched in vain.
    pub fn found(&mut self, name: Option<&str>, more: u64) -> Result<(), Failure> {
        if self.in_directory {
            let theirs = name.and_then(cleaned).map(|name| self.directory().join(name));
            // A name that this file system cannot have is none.
            let theirs =
                theirs.filter(|path| !fs::symlink_metadata(path).is_err_and(|e| e.kind() == io::ErrorKind::InvalidFilename));
            self.path = theirs.unwrap_or_else(|| self.directory().join(own_name(&self.tag)));
            // A name that a stranger chose replaces nothing, whatever it is (T25).
            self.force &= self.path.file_name() == Some(own_name(&self.tag).as_ref());
            self.may_write("Nothing was fetched.")?;
        }
        self.room(more)
    }

    /// Whether the file may have its name.
    fn may_write(&self, kept: &str) -> Result<(), Failure> {
        match fs::symlink_metadata(&self.path) {
            Ok(meta) if !meta.is_file() => {
                let what = format!("{} is not an ordinary file", shown(&self.path));
                Err(failure(ErrorKind::Usage, what, kept, "Choose another name with -o."))
            }
            Ok(_) if !self.force => Err(self.exists(kept)),
            Err(e) if !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Err(Failure { kept: kept.to_owned(), ..io_failure("write", &self.path, &e) })
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Whether so many bytes more have room on the disk. A file system that tells no size is believed to have it.
    fn room(&self, more: u64) -> Result<(), Failure> {
        let Ok(disk) = rustix::fs::statvfs(self.directory()) else { return Ok(()) };
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if disk.f_blocks == 0 || more <= free {
            return Ok(());
        }
        let what = format!("{more} bytes have no room in {}: {free} are free", shown(self.directory()));
        Err(failure(ErrorKind::Other, what, "", "Make room, or choose another place with -o; then repeat the command."))
    }

    /// The failure of a name that is taken.
    pub fn exists(&self, kept: &str) -> Failure {
        let next = if self.in_directory {
            "Choose a file's name with -o; with that, --force replaces it."
        } else {
            "Choose another name with -o, or replace it with --force."
        };
        failure(ErrorKind::Usage, format!("{} exists already", shown(&self.path)), kept, next)
    }
}

/// Whether a path can name nothing but a directory, also where there is none.
fn means_a_directory(path: &Path) -> bool {
    let path = path.as_os_str().as_bytes();
    path == b"." || path == b".." || [&b"/"[..], b"/.", b"/.."].iter().any(|end| path.ends_with(end))
}

/// A publisher's name as that of a file: the last part of what looks like a path, nothing unseen, nothing that hides it or means
/// something to a shell's beginner or another system.
fn cleaned(name: &str) -> Option<String> {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let clean: String = last.chars().map(|c| if !is_harmless(c) || "<>:\"|?*".contains(c) { '_' } else { c }).collect();
    let clean = clean.trim_start_matches(['.', '-', '~', ' ']).trim_end_matches(['.', ' ']).trim();
    (!clean.is_empty()).then(|| clean.to_owned())
}

/// Where the part of a document is kept until it is whole.
pub fn part_path(target: &Path, tag: &str) -> PathBuf {
    beside(target, tag, "part")
}

/// Where the sums of that part are kept.
pub fn sums_path(target: &Path, tag: &str) -> PathBuf {
    beside(target, tag, "sums")
}

fn beside(target: &Path, tag: &str, what: &str) -> PathBuf {
    let name = target.file_name().unwrap_or_default().as_bytes();
    let mut out = b".".to_vec();
    if name.len() <= PART_NAME_MAX {
        out.extend_from_slice(name);
    } else {
        // Not in the middle of a character: some file systems take only whole ones.
        let end = (0..=PART_NAME_MAX).rev().find(|at| name.get(*at).is_some_and(|b| b & 0xc0 != 0x80)).unwrap_or(PART_NAME_MAX);
        out.extend_from_slice(name.get(..end).unwrap_or_default());
        out.extend_from_slice(format!(".{}", hex(&hash(Label::PartTag, &[name]))).as_bytes());
    }
    out.extend_from_slice(format!(".{tag}.onionskin-{what}").as_bytes());
    target.with_file_name(OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    const TAG: &str = "0123456789abcdef";

    #[test]
    fn parts_have_names_that_fit_meet_nobody_and_keep_their_bytes() {
        let part = |name: &[u8]| part_path(&Path::new("d").join(OsStr::from_bytes(name)), TAG);
        assert_eq!(part(b"b.txt"), Path::new("d/.b.txt.0123456789abcdef.onionskin-part"));
        assert!(part(b"caf\xe9").as_os_str().as_bytes().starts_with(b"d/.caf\xe9."), "bytes stay");
        let mut seen = std::collections::BTreeSet::new();
        for len in 1..=255 {
            for name in
                [vec![0xe0; len], vec![b'a'; len], [vec![b'a'; len - 1], vec![b'b']].concat(), "ä".repeat(len / 2).into_bytes()]
            {
                if name.is_empty() {
                    continue;
                }
                for path in [part(&name), sums_path(&Path::new("d").join(OsStr::from_bytes(&name)), TAG)] {
                    let file = path.file_name().unwrap();
                    assert!(file.len() <= 143, "{} bytes for {len}", file.len());
                    assert!(std::str::from_utf8(&name).is_err() || file.to_str().is_some(), "text stays text");
                    seen.insert((path, name.clone()));
                }
            }
        }
        let paths: std::collections::BTreeSet<_> = seen.iter().map(|(path, _)| path).collect();
        assert_eq!(paths.len(), seen.len(), "two names share a part");
    }

    #[test]
    fn a_strangers_name_becomes_a_plain_file_name_or_none() {
        for (name, clean) in [
            ("book.pdf", Some("book.pdf")),
            ("../../etc/passwd", Some("passwd")),
            ("C:\\x\\evil.exe", Some("evil.exe")),
            (".bashrc", Some("bashrc")),
            ("-rf", Some("rf")),
            ("a\u{1b}[2J\n\u{202e}b\u{e0041}", Some("a_[2J__b_")),
            ("a:b?*.txt", Some("a_b__.txt")),
            (" . x . ", Some("x")),
            ("übung 1.txt", Some("übung 1.txt")),
            ("..", None),
            ("dir/", None),
            ("", None),
        ] {
            assert_eq!(cleaned(name).as_deref(), clean, "{name:?}");
        }
        assert_eq!(cleaned(&"é".repeat(127)).unwrap().len(), 254, "what fits is not cut");
    }

    #[test]
    fn a_directory_takes_the_file_inside() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        fs::create_dir(dir.path().join("d")).unwrap();
        std::os::unix::fs::symlink("d", &link).unwrap();
        let own = format!("onionskin-{TAG}");
        for given in ["d", "d/", "d/.", "link", "link/", "d/.."] {
            let given = dir.path().join(given);
            let mut target = Target::settle(Some(&given), TAG, false).unwrap();
            assert_eq!(target.path(), given.join(&own));
            let part = target.part().to_owned();
            target.found(Some("x/../a.txt"), 1).unwrap();
            assert_eq!((target.path(), target.part()), (&*given.join("a.txt"), &*part), "the part stays where it is");
            // The node says it again when a get starts anew, and a publisher may have said nothing usable.
            target.found(Some(".."), 1).unwrap();
            assert_eq!(target.path(), given.join(&own));
        }
        // What is there already is not a stranger's to replace.
        fs::write(dir.path().join("d/a.txt"), "mine").unwrap();
        fs::write(dir.path().join("d").join(&own), "mine").unwrap();
        for (force, name, is_refused) in [(false, "a.txt", true), (true, "a.txt", true), (false, "", true), (true, "", false)] {
            let mut target = Target::settle(Some(&dir.path().join("d")), TAG, force).unwrap();
            assert_eq!(target.found(Some(name), 1).is_err(), is_refused, "{force} {name}");
        }
    }

    #[test]
    fn what_cannot_be_written_is_refused_before_anything_is_sent() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "x").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        for given in ["no/", "no/.", "no/..", "no/x", "file/", "file/x", "link"] {
            let why = Target::settle(Some(&dir.path().join(given)), TAG, true).unwrap_err();
            assert_eq!((why.kind, &*why.kept), (ErrorKind::Usage, "Nothing was sent."), "{given}: {why:?}");
        }
        for given in ["", "/dev/null"] {
            assert_eq!(Target::settle(Some(Path::new(given)), TAG, true).unwrap_err().kind, ErrorKind::Usage, "{given}");
        }
        let long = dir.path().join("x".repeat(256));
        assert!(Target::settle(Some(&long), TAG, true).unwrap_err().next.contains("shorter"));
    }

    #[test]
    fn a_document_that_has_no_room_is_refused_when_it_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let mut target = Target::settle(Some(&dir.path().join("x")), TAG, false).unwrap();
        target.found(None, 1000).unwrap();
        let why = target.found(None, u64::MAX / 2).unwrap_err();
        assert!(why.what.contains("have no room in") && why.what.contains(&shown(dir.path())), "{why:?}");
    }
}
