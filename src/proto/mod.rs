//! Under construction.

pub mod overlay;
pub mod path;
