//! The overlay plane.

pub mod record;
pub mod region;
pub mod view;

#[cfg(test)]
pub(crate) mod testing;
