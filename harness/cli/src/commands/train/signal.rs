//! Ctrl-C and a polite `kill`: the first is noted, the second ends the program at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Ctrl-C.
pub(super) const INTERRUPT: u8 = SIGINT as u8;

/// What came so far.
pub(super) struct Signals(Arc<AtomicUsize>);

impl Signals {
    pub(super) fn watch() -> anyhow::Result<Self> {
        let (again, which) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        for signal in [SIGINT, SIGTERM] {
            // In this order: what ends the program looks whether one came before, and only then this one is noted.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&again))
                .and_then(|_| flag::register(signal, Arc::clone(&again)))
                .and_then(|_| flag::register_usize(signal, Arc::clone(&which), signal as usize))
                .context("signals can't be watched")?;
        }
        Ok(Self(which))
    }

    /// The signal that came.
    pub(super) fn seen(&self) -> Option<u8> {
        Some(self.0.load(Ordering::Relaxed) as u8).filter(|signal| *signal != 0)
    }
}
