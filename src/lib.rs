//! **Onionskin**: publish documents anonymously, fetch them by key, run a relay.
//!
//! Rooms, bottom to top; imports point down only (`tests/layers.rs` enforces it):
//!
//! ```text
//! cli        commands, prompts, exit codes          the only room that prints
//! config     settings: one struct                   read by cli only
//! api        HTTP and JSON on a Unix socket         serves a Handle to programs
//! client     publish, get, check over a Handle      files, progress; or over the socket
//! node       sockets, TLS, disk tasks, the loop     moves bytes, time and chance; decides nothing
//! proto | store   every decision, sans-IO  |  shares on disk, blocking
//! crypto     the only room that opens secrets
//! wire       bytes to types, once
//! base       ids, time, limits
//! ```

pub mod api;
pub mod base;
pub mod cli;
pub mod client;
pub mod config;
pub mod crypto;
pub mod node;
pub mod proto;
pub mod store;
pub mod wire;
