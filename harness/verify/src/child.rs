//! Runs a check in a process of its own, so that a crash, an endless loop or an exit is a failed check and nothing more.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::{Check, EXIT, Verdict};

/// Characters that are shown of what a child said first: what went wrong. A backtrace may follow.
const FIRST: usize = 1200;
/// Characters that are shown of what it said last.
const LAST: usize = 200;

/// What a child reports of its check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// How the check ended.
    pub verdict: Verdict,
    /// The file of the backend, where it is not part of the binary.
    pub library: Option<PathBuf>,
}

impl Report {
    /// Leaves the report where the parent looks for it. What stands on stdout may be the backend's own words.
    ///
    /// # Errors
    /// Where the file can't be written.
    pub fn write(&self, file: &Path) -> io::Result<()> {
        std::fs::write(file, serde_json::to_vec(self)?)
    }
}

/// How a child's process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, with this code.
    Code(i32),
    /// By a signal.
    Signal(i32),
    /// It was stopped after this time.
    Timeout(Duration),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Code(code) => write!(f, "the process ended with exit code {code}"),
            End::Signal(signal) => write!(f, "the process died of {}", signal_name(*signal)),
            End::Timeout(limit) => write!(f, "the process did not end within {} s", limit.as_secs_f64()),
        }
    }
}

fn signal_name(signal: i32) -> String {
    let name = match signal {
        4 => "SIGILL, an instruction that this processor does not have",
        5 => "SIGTRAP, a trap",
        6 => {
            "SIGABRT: it aborted itself, as an uncaught panic or exception, an assertion or a damaged heap does"
        }
        7 => "SIGBUS, memory that is not there",
        8 => "SIGFPE, a division by zero",
        9 => "SIGKILL: it was killed, perhaps for want of memory",
        11 => "SIGSEGV, a pointer to memory that is not its own",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

/// What is left of a child.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its report, if it came that far.
    pub report: Option<Report>,
    /// How its process ended.
    pub end: End,
    /// The beginning and the end of what it, or the backend, said on stdout and stderr.
    pub said: String,
}

/// Runs a child that writes its [`Report`] to `report`, and stops it after `limit`.
///
/// # Errors
/// Where the child can't be started, or not be waited for.
pub fn run(mut command: Command, report: &Path, limit: Duration) -> io::Result<Ended> {
    let mut said = tempfile::tempfile()?;
    command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said.try_clone()?);
    let end = wait(command.spawn()?, limit)?;
    let bytes = std::fs::read(report).unwrap_or_default();
    Ok(Ended { report: serde_json::from_slice(&bytes).ok(), end, said: shortened(&mut said)? })
}

fn wait(mut child: Child, limit: Duration) -> io::Result<End> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(end_of(status));
        }
        if start.elapsed() >= limit {
            child.kill()?;
            child.wait()?;
            return Ok(End::Timeout(limit));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn end_of(status: ExitStatus) -> End {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return End::Signal(signal);
    }
    End::Code(status.code().unwrap_or(-1))
}

fn shortened(file: &mut File) -> io::Result<String> {
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(1 << 20).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim();
    if text.len() <= FIRST + LAST {
        return Ok(text.to_owned());
    }
    let (head, tail) = (text.floor_char_boundary(FIRST), text.ceil_char_boundary(text.len() - LAST));
    Ok(format!("{} ... {}", &text[..head], &text[tail..]))
}

/// The verdict of a check on what its child left. A report stands, whatever became of the process after it; that the
/// process ends in order is a check of its own.
#[must_use]
pub fn verdict(check: &Check, ended: &Ended) -> Verdict {
    let orderly = ended.end == End::Code(0);
    match &ended.report {
        Some(report) if orderly || check.name != EXIT => report.verdict.clone(),
        report => {
            let when = if report.is_some() { "after" } else { "before" };
            let mut text = format!("{}, {when} the check was done", ended.end);
            if !ended.said.is_empty() {
                text += &format!("; it said: {:?}", ended.said);
            }
            Verdict::failed(format!("{text}. {}", check.advice))
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::Outcome;

    const LONG: Duration = Duration::from_secs(60);

    fn shell(script: &str, limit: Duration) -> Ended {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("report");
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(&file);
        run(command, &file, limit).expect("a shell")
    }

    fn judged(name: &str, script: &str) -> Verdict {
        verdict(Check::named(name).expect("a check"), &shell(script, LONG))
    }

    const REPORT: &str =
        r#"printf '{"verdict":{"outcome":"passed","evidence":"fine"},"library":null}' >"$1";"#;

    #[test]
    fn a_crash_is_named_with_what_was_said() {
        let verdict = judged("batch", "echo about to die >&2; kill -SEGV $$");
        assert_eq!(verdict.outcome, Outcome::Failed);
        for part in ["SIGSEGV", "before the check was done", "about to die"] {
            assert!(verdict.evidence.contains(part), "{}", verdict.evidence);
        }
    }

    #[test]
    fn of_a_long_speech_beginning_and_end_are_kept() {
        let ended = shell("echo first; seq 1 2000; echo last", LONG);
        assert!(
            ended.said.starts_with("first\n1\n2\n") && ended.said.ends_with("2000\nlast"),
            "{}",
            ended.said
        );
        assert!(ended.said.len() < 1500, "{}", ended.said.len());
    }

    #[test]
    fn what_never_ends_is_stopped() {
        let ended = shell("exec sleep 60", Duration::from_millis(300));
        let verdict = verdict(Check::named("batch").expect("a check"), &ended);
        assert!(verdict.evidence.contains("did not end within 0.3 s"), "{}", verdict.evidence);
    }

    #[test]
    fn an_exit_without_a_report_is_no_pass() {
        let verdict = judged("batch", "exit 0");
        assert!(verdict.outcome == Outcome::Failed && verdict.evidence.contains("exit code 0"));
    }

    #[test]
    fn a_crash_after_the_report_counts_for_the_exit_check_only() {
        assert_eq!(judged("batch", &format!("{REPORT} kill -ABRT $$")).outcome, Outcome::Passed);
        let verdict = judged(EXIT, &format!("{REPORT} kill -ABRT $$"));
        assert!(verdict.outcome == Outcome::Failed && verdict.evidence.contains("SIGABRT"));
        assert_eq!(judged(EXIT, REPORT).outcome, Outcome::Passed);
    }
}
