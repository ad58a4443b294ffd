//! Under construction.

pub mod overlay;
