//! What is on the wire, and in every lasting format: bytes become types here, once, and behind this room there are only types.
//!
//! Nothing here panics on any input. Lengths are checked against [`crate::base::limits`] before anything is allocated, trailing
//! bytes are refused, and every value has exactly one encoding.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

pub mod cell;
pub mod codec;
pub mod freshness;
pub mod hello;
pub mod manifest;
pub mod overlay;
pub mod record;
pub mod request;
pub mod share;
