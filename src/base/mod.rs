//! What every room stands on: ids, time and chance, limits, blame. Standard library and `rand_core` traits only.
//!
//! Nothing here does IO, reads a clock, or knows a protocol.

pub mod error;
pub mod ids;
pub mod limits;
pub mod net;
pub mod rarely;
pub mod redact;
pub mod text;
pub mod time;

pub use error::{Blame, ErrorKind};
pub use ids::{Address, CircuitId, JobId, LinkId, NetworkId, NodeId, OpId, Position, StreamId};
pub use rarely::Rarely;
pub use time::{Env, Time, Wall};
