//! What the program says, and how it ends.

use std::io::{self, Write};
use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Everything that was asked for.
    Done,
    /// Finished, or broken off, with something that failed; what was done is kept.
    Failed,
    /// Nothing was begun.
    NotStarted,
    /// Ended by a signal of this number, everything saved.
    Interrupted(u8),
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done => ExitCode::SUCCESS,
            Outcome::Failed => ExitCode::from(1),
            Outcome::NotStarted => ExitCode::from(2),
            // As a shell reports a process that a signal ended.
            Outcome::Interrupted(signal) => ExitCode::from(128_u8.saturating_add(signal)),
        }
    }
}

/// Writes results to stdout.
pub(crate) fn answer(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

/// Tells the user something, on stderr.
pub(crate) fn tell(text: &str) {
    // Nobody is left to be told if stderr is gone.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Reports a failure, on stderr.
pub(crate) fn complain(text: &str) {
    tell(&format!("error: {text}"));
}

/// Warns of something that changes what a result means, on stderr.
pub(crate) fn warn(text: &str) {
    tell(&format!("warning: {text}"));
}

/// Warns of worker processes that died.
pub(crate) fn warn_of_deaths(crashes: u64) {
    let times = match crashes {
        0 => return,
        1 => "once".to_owned(),
        n => format!("{} times", grouped(n)),
    };
    warn(&format!(
        "the backend's worker died {times} and was started anew; what it held was asked again in smaller parts, and what \
         has a score was scored by a worker that lived. A backend that dies may also be wrong: hold it against another one"
    ));
}

/// Whether the reader of our output went away, as `head` does: that is no failure of ours.
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let broken = |e: &io::Error| e.kind() == io::ErrorKind::BrokenPipe;
    let closed = |e: &(dyn std::error::Error + 'static)| {
        let of_csv = e.downcast_ref::<csv::Error>().and_then(|e| match e.kind() {
            csv::ErrorKind::Io(e) => Some(e),
            _ => None,
        });
        e.downcast_ref::<io::Error>().or(of_csv).is_some_and(broken)
    };
    error.chain().any(closed)
}

/// A whole number with its digits in groups of three.
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_in_groups() {
        assert_eq!(
            [0, 999, 1000, 67_000, 1_234_567].map(grouped),
            ["0", "999", "1,000", "67,000", "1,234,567"]
        );
    }
}
