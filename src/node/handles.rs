//! File handles: as many as the system allows, and of these a part for links.
//!
//! Each link is one handle, and whoever runs out of them can neither answer its user nor write its files. So links end before that:
//! what others open has its bound, what this node dials another, and what they leave is for the disk, the API and the runtime.

use crate::proto::event::Handles;
use rustix::process::Resource;
use rustix::process::Rlimit;
use rustix::process::getrlimit;
use rustix::process::setrlimit;

/// Handles that links leave to everything else: the store and the state files take some ten, the API [a few dozen].
///
/// [a few dozen]: crate::api
const KEPT: usize = 256;
/// What is reckoned with where the system sets no limit.
const NO_LIMIT: u64 = 1 << 20;

/// Raises this process's limit as far as it may, and gives what it is then. Where the system refuses, it stays as it is.
pub fn raise() -> usize {
    let now = getrlimit(Resource::Nofile);
    // A soft limit is for programs that keep handles in fixed tables (`select`), which nothing here does.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum });
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(NO_LIMIT);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// How many are open now, and how many may be; `None` where the system does not tell.
pub fn now() -> Option<Handles> {
    // Looking takes one.
    let open = std::fs::read_dir("/dev/fd").ok()?.count().saturating_sub(1) as u64;
    Some(Handles { open, limit: getrlimit(Resource::Nofile).current.unwrap_or(NO_LIMIT) })
}

/// How many links may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForLinks {
    /// Those that others open.
    pub accepted: usize,
    /// Those that this node dials.
    pub dialled: usize,
}

impl ForLinks {
    /// Of so many handles, with `most` accepted links at the most. A quarter of what links get is for dialling, however many come
    /// in: a relay that cannot dial carries nothing.
    pub fn of(handles: usize, most: usize) -> Self {
        let links = handles.saturating_sub(KEPT).max(handles / 2);
        let accepted = most.min(links - links / 4);
        Self { accepted, dialled: links - accepted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let before = getrlimit(Resource::Nofile);
        let low = before.maximum.map_or(1024, |most| most.min(1024));
        setrlimit(Resource::Nofile, Rlimit { current: Some(low), maximum: before.maximum }).unwrap();
        let limit = raise();
        assert_eq!(getrlimit(Resource::Nofile).current, before.maximum);
        assert_eq!(limit as u64, before.maximum.unwrap_or(NO_LIMIT));
    }

    #[test]
    fn open_handles_are_counted() {
        let kept: Vec<_> = (0..100).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        // Other tests have some too.
        let now = now().unwrap();
        assert!((101..=now.limit).contains(&now.open), "{now:?}");
        drop(kept);
    }

    #[test]
    fn links_leave_handles_for_the_rest() {
        for handles in [16, 256, 600, 1024, 4096, 20_000, 1 << 20] {
            let shares = ForLinks::of(handles, 8192);
            let left = handles - shares.accepted - shares.dialled;
            assert!(left >= KEPT.min(handles / 2), "{handles}: {shares:?}");
            assert!(shares.accepted <= 8192 && shares.dialled * 4 >= shares.accepted, "{handles}: {shares:?}");
        }
        assert_eq!(ForLinks::of(1 << 20, 8192).accepted, 8192);
        assert_eq!(ForLinks::of(1024, 8192), ForLinks { accepted: 576, dialled: 192 });
    }
}
