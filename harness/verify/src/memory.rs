//! How much memory this process has, as Linux counts it.

/// Bytes in memory now, or `None` where the system does not say.
pub(crate) fn resident() -> Option<u64> {
    status("VmRSS:")
}

/// Memory before something is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    resident: u64,
    peak: u64,
}

impl Memory {
    pub(crate) fn now() -> Option<Self> {
        Some(Self { resident: resident()?, peak: status("VmHWM:")? })
    }

    /// Bytes that were taken since, at most at a time. The peak from before, which reading a model leaves, says nothing:
    /// while it was not passed, what is still held is told.
    pub(crate) fn grown(self) -> Option<u64> {
        let now = Self::now()?;
        let most = if now.peak > self.peak { now.peak } else { now.resident };
        Some(most.saturating_sub(self.resident))
    }
}

fn status(field: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;

    #[test]
    #[cfg(target_os = "linux")]
    fn what_is_touched_is_counted() {
        let before = Memory::now().expect("Linux");
        drop(black_box(vec![1_u8; 64 << 20]));
        let grown = before.grown().expect("Linux");
        assert!(grown >= 60 << 20, "{grown} bytes at the peak");
        let before = Memory::now().expect("Linux");
        let block = black_box(vec![1_u8; 32 << 20]);
        let grown = before.grown().expect("Linux");
        assert!((30 << 20..50 << 20).contains(&grown), "{grown} of {} bytes", block.len());
    }
}
