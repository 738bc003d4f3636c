//! Whether memory stays as it was.

use bheval_host::Origin;

use crate::corpus::probe;
use crate::memory::resident;
use crate::subject::Subject;
use crate::verdict::{Finding, Stop, failed, skipped};

/// Growth up to this is what allocators keep of what they were given back.
const MAY_GROW: u64 = 16 << 20;

pub(super) fn memory_calls(subject: &Subject) -> Finding {
    let mut opened = subject.open()?;
    let sequences = probe(&opened.info);
    growth("calls", 100, 1000, || Ok(opened.ask(&sequences).map(drop)?))
}

pub(super) fn memory_models(subject: &Subject) -> Finding {
    growth("models that were opened, asked and closed", 5, 50, || {
        let mut opened = subject.open()?;
        let sequences = probe(&opened.info);
        Ok(opened.ask(&sequences).map(drop)?)
    })
}

fn growth(what: &str, warm: usize, times: usize, mut once: impl FnMut() -> Result<(), Stop>) -> Finding {
    (0..warm).try_for_each(|_| once())?;
    let Some(before) = resident() else {
        (0..times).try_for_each(|_| once())?;
        return skipped(format!("{times} {what} went well, but their memory is measured on Linux only"));
    };
    (0..times).try_for_each(|_| once())?;
    let after = resident().unwrap_or(before);
    let grown = after.saturating_sub(before);
    let amount = |bytes: u64| format!("{:.1} MB", bytes as f64 / f64::from(1 << 20));
    let found = format!("{times} {what}: {} more than after {warm}, where {}", amount(grown), amount(before));
    if grown > MAY_GROW && grown > before / 20 {
        return failed(format!("{found} were in use; up to 16 MB or 5 % is allowed"));
    }
    Ok(format!("{found} were in use"))
}

/// Leaves a model open; whoever started this process sees whether it ends in order.
pub(super) fn exit(subject: &Subject) -> Finding {
    let mut left = subject.open()?;
    let mut closed = subject.open()?;
    let sequences = probe(&left.info);
    left.ask(&sequences)?;
    closed.ask(&sequences)?;
    drop(closed);
    std::mem::forget(left);
    Ok("one model was closed, one left open".to_owned())
}

/// Inside a process that holds the library there is nothing to see: see [`crate::unload`].
pub(super) fn unload(subject: &Subject) -> Finding {
    match subject.library.origin() {
        Origin::Linked => skipped("part of bheval: there is nothing to unload"),
        Origin::File { .. } => {
            skipped("needs a process that has not loaded the library: run `bheval verify`")
        }
    }
}
