//! How much memory this process has, as Linux counts it.

/// Bytes in memory now, or `None` where the system does not say.
pub(crate) fn resident() -> Option<u64> {
    status("VmRSS:")
}

/// Most bytes that were in memory at a time.
pub(crate) fn peak() -> Option<u64> {
    status("VmHWM:")
}

fn status(field: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn what_is_touched_is_counted() {
        let before = resident().expect("Linux");
        let block = vec![1_u8; 64 << 20];
        let now = resident().expect("Linux");
        assert!(now >= before + (60 << 20) && peak().expect("Linux") >= now, "{} bytes", block.len());
    }
}
