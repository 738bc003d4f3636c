//! A backend in a process of its own, so that a fault of its code ends that process and not the harness.
//!
//! The harness and its worker talk over one Unix socket, in frames ([`wire`]) of requests and replies ([`message`]), one
//! at a time. A socket, not shared memory: `examples/transport.rs` measures both, and what a call costs lies far below
//! what its scoring costs, while memory that a broken backend can still write to would have to be copied before it is
//! checked. The worker is the program itself, started anew ([`process`]); it becomes a worker by calling [`serve`].

#[cfg(unix)]
mod message;
#[cfg(unix)]
mod process;
#[cfg(unix)]
mod refusal;
#[cfg(unix)]
mod remote;
#[cfg(unix)]
mod serve;
#[cfg(unix)]
mod wire;

#[cfg(not(unix))]
mod absent;

#[cfg(not(unix))]
pub use absent::{Launch, serve};
#[cfg(not(unix))]
pub(crate) use absent::{Loaded, Remote, Workers};
#[cfg(unix)]
pub(crate) use message::Loaded;
#[cfg(unix)]
pub use process::Launch;
#[cfg(unix)]
pub(crate) use remote::{Remote, Workers};
#[cfg(unix)]
pub use serve::serve;
