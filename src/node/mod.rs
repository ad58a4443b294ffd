//! The shell around a core.
pub mod doors;
pub mod env;
pub mod inbox;
pub mod link;
pub mod tcp;
pub mod tls;
pub mod transport;
