//! A wrapper that keeps addresses, keys and ids out of logs.

use core::fmt;

/// Shows as `[hidden]` in `Debug` and `Display`. For values that a log line must mention without telling.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sensitive<T>(pub T);

impl<T> fmt::Debug for Sensitive<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

impl<T> fmt::Display for Sensitive<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}
