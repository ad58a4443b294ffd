//! Documents: being built.
pub mod key;
