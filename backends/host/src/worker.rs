//! A backend in a process of its own, so that a fault of its code ends that process and not the harness.
//!
//! The harness and its worker talk over one Unix socket, in frames ([`wire`]) of requests and replies ([`message`]), one
//! at a time. `examples/transport.rs` holds it against pipes and shared memory: on a loaded Zen 4 a forest of 65,536 nodes
//! took 0.5 ms over the socket and 0.1 ms through shared memory, of which whole BLiMP needs 22. The difference, 10 ms of
//! a run of seconds, does not buy memory that a broken backend still writes to while it is read, and a mapping whose
//! size changes with each request. The worker is the program itself, started anew ([`process`]); it becomes a worker by
//! calling [`serve`].

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
