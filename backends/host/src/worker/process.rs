//! A worker process: how it is started, asked, and what is told of its end.

use std::ffi::OsString;
use std::io::{self, BufWriter, PipeReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::message::{Reply, Request};
use super::wire::Fault;
use crate::Error;

/// How often a silent worker is looked at: a process that it forked may hold its end of the socket open after its death.
const LOOK: Duration = Duration::from_millis(500);
/// How long a worker may take to close its model and end.
const FAREWELL: Duration = Duration::from_secs(2);
/// Bytes that are kept of what a worker printed.
const TAIL: usize = 2048;
/// Lines of them that are shown, and characters of a line.
const LINES: usize = 3;
const COLUMNS: usize = 200;

/// How a worker is started: a program that calls [`crate::serve`] at once.
#[derive(Clone, Debug)]
pub struct Launch {
    program: PathBuf,
    args: Vec<OsString>,
}

impl Launch {
    /// This program with these arguments.
    #[must_use]
    pub fn new(program: PathBuf, args: &[&str]) -> Self {
        Self { program, args: args.iter().map(OsString::from).collect() }
    }

    /// The program that is running, with these arguments.
    ///
    /// # Errors
    /// A system that can't tell where it is.
    pub fn this_program(args: &[&str]) -> Result<Self, Error> {
        // On Linux this stays the same program when its file is replaced while it runs.
        let same = Path::new("/proc/self/exe");
        let program = if same.exists() { Ok(same.to_path_buf()) } else { std::env::current_exe() };
        let program = program.map_err(|e| not_started(&e))?;
        Ok(Self::new(program, args))
    }
}

fn not_started(error: &io::Error) -> Error {
    Error::Worker {
        text: format!("no worker process could be started ({error}); leave --isolate out to run without one"),
    }
}

/// How a worker ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Death {
    /// `was killed by SIGSEGV`.
    pub(super) how: String,
    /// The last lines that it printed.
    pub(super) said: String,
}

/// A worker process. Killed when dropped.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    stream: UnixStream,
    log: Log,
}

impl Process {
    /// Starts a worker.
    pub(super) fn start(launch: &Launch) -> Result<Self, Error> {
        Self::spawn(launch).map_err(|e| not_started(&e))
    }

    fn spawn(launch: &Launch) -> io::Result<Self> {
        let (stream, theirs) = UnixStream::pair()?;
        stream.set_read_timeout(Some(LOOK))?;
        stream.set_write_timeout(Some(LOOK))?;
        let (printed, log) = io::pipe()?;
        let child = {
            // Dropped with its ends of the socket and the pipe: they must be open in the worker only.
            let mut command = Command::new(&launch.program);
            command.args(&launch.args).stdin(OwnedFd::from(theirs)).stdout(log.try_clone()?).stderr(log);
            if let Some(name) = std::env::args_os().next() {
                command.arg0(name);
            }
            command.spawn()?
        };
        Ok(Self { child, stream, log: Log::follow(printed)? })
    }

    /// Sends a request and waits for the answer, of `expected` values.
    pub(super) fn ask(&mut self, request: &Request<'_>, expected: usize) -> Result<Reply, Fault> {
        request.send(&mut BufWriter::with_capacity(1 << 16, &mut *self)).map_err(Fault::Gone)?;
        Reply::read(self, expected)
    }

    /// Ends a worker that did not answer, or not as it should, and tells what became of it.
    pub(super) fn end(mut self, fault: &Fault) -> Death {
        let how = match fault {
            Fault::Gone(_) => match self.wait(FAREWELL) {
                Some(status) => how(status),
                None => "left its connection and was ended".to_owned(),
            },
            Fault::Malformed(text) => format!("sent {text} and was ended"),
        };
        self.kill();
        Death { how, said: self.log.last_lines() }
    }

    /// Lets a worker close its model and end in order; what it does instead changes no score any more.
    pub(super) fn close(mut self) {
        if self.stream.set_read_timeout(Some(FAREWELL)).is_err() || Request::Close.send(&mut self).is_err() {
            return;
        }
        let closed = Reply::read(&mut &self.stream, 0);
        if closed.is_ok() {
            self.wait(FAREWELL);
            self.log.await_end();
        }
    }

    /// How the worker ended, where it does within a while.
    fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let start = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(None) if start.elapsed() < patience => thread::sleep(Duration::from_millis(1)),
                Ok(status) => return status,
                Err(_) => return None,
            }
        }
    }

    fn kill(&mut self) {
        // Both fail where it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Makes a call that gives up now and then, until it is done or the worker is gone.
    fn patiently<T>(&mut self, mut call: impl FnMut(&UnixStream) -> io::Result<T>) -> io::Result<T> {
        loop {
            match call(&self.stream) {
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    if self.child.try_wait()?.is_some() {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                other => return other,
            }
        }
    }
}

impl Read for Process {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.patiently(|mut stream| stream.read(buffer))
    }
}

impl Write for Process {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.patiently(|mut stream| stream.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An exit status in words.
fn how(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("was killed by {}", signal_name(signal)),
        (None, Some(code)) => format!("ended by itself with exit code {code}"),
        (None, None) => format!("ended ({status})"),
    }
}

fn signal_name(signal: i32) -> String {
    let name = match signal {
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGILL => "SIGILL",
        libc::SIGFPE => "SIGFPE",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGSYS => "SIGSYS",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGTERM => "SIGTERM",
        libc::SIGINT => "SIGINT",
        libc::SIGHUP => "SIGHUP",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGKILL => "SIGKILL (from outside: by hand, or by the system for want of memory)",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

/// What a worker prints: passed on to stderr as it comes, its end kept.
#[derive(Debug)]
struct Log {
    tail: Arc<Mutex<Vec<u8>>>,
    /// Disconnected when everything was read.
    over: mpsc::Receiver<()>,
}

impl Log {
    fn follow(printed: PipeReader) -> io::Result<Self> {
        let tail = Arc::new(Mutex::new(Vec::new()));
        let (reading, over) = mpsc::channel();
        let kept = Arc::clone(&tail);
        let follow = move || {
            pass_on(printed, &kept);
            drop(reading);
        };
        thread::Builder::new().name("bheval-log".to_owned()).spawn(follow)?;
        Ok(Self { tail, over })
    }

    /// Waits a moment for what is still on its way. A process that the worker forked may keep it from ever ending.
    fn await_end(&self) {
        // Either way it is over, or what came until now is what there is to show.
        let _ = self.over.recv_timeout(LOOK);
    }

    fn last_lines(&self) -> String {
        self.await_end();
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        lines_of(&tail)
    }
}

fn pass_on(mut printed: PipeReader, kept: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 4096];
    loop {
        let bytes = match printed.read(&mut buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Ok(0) | Err(_) => return,
            Ok(n) => &buffer[..n],
        };
        // Nobody is left to be told if stderr is gone.
        let _ = io::stderr().write_all(bytes);
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(bytes);
        let surplus = kept.len().saturating_sub(TAIL);
        kept.drain(..surplus);
    }
}

/// The last lines of what was printed, on one line and without control characters.
fn lines_of(tail: &[u8]) -> String {
    let text = String::from_utf8_lossy(tail);
    let plain = |line: &str| line.chars().filter(|c| !c.is_control()).take(COLUMNS).collect::<String>();
    let lines: Vec<String> = text.lines().map(plain).filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LINES)..].join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(script: &str) -> String {
        how(Command::new("sh").args(["-c", script]).status().expect("a shell"))
    }

    #[test]
    fn an_end_is_told_in_words() {
        assert_eq!(ended("kill -SEGV $$"), "was killed by SIGSEGV");
        assert_eq!(ended("kill -ABRT $$"), "was killed by SIGABRT");
        assert_eq!(ended("kill -BUS $$"), "was killed by SIGBUS");
        assert_eq!(ended("exit 3"), "ended by itself with exit code 3");
        assert!(ended("kill -KILL $$").contains("SIGKILL (from outside"));
        assert!(ended("kill -USR1 $$").contains("signal "));
    }

    #[test]
    fn of_what_was_printed_the_last_lines_are_shown() {
        assert_eq!(lines_of(b"one\ntwo\n\nthree\n\x1b[31mfour\x07\n"), "two | three | [31mfour");
        assert_eq!(lines_of(b""), "");
        assert_eq!(lines_of(&[0xff, b'a', b'\n', b'b']), "\u{fffd}a | b");
        assert_eq!(lines_of(&[b'x'; 5000]).len(), COLUMNS);
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let error = Process::start(&Launch::new("/no/such/program".into(), &[])).expect_err("there is none");
        assert!(error.to_string().contains("no worker process could be started"), "{error}");
    }

    #[test]
    fn a_program_that_is_no_worker_is_ended_and_quoted() {
        let launch = Launch::new("sh".into(), &["-c", "echo who are you >&2; echo what >&1; exit 4"]);
        let mut process = Process::start(&launch).expect("a shell");
        let fault = process.ask(&Request::Close, 0).expect_err("no answer");
        let death = process.end(&fault);
        assert_eq!(death.how, "ended by itself with exit code 4");
        assert_eq!(death.said, "who are you | what");
    }

    #[test]
    fn an_answer_that_is_no_frame_ends_the_worker() {
        // The shell writes to the socket that is its stdin, and would then wait for ever.
        let launch = Launch::new("sh".into(), &["-c", "echo this is no answer at all >&0; sleep 1000"]);
        let mut process = Process::start(&launch).expect("a shell");
        let pid = process.child.id();
        let fault = process.ask(&Request::Close, 0).expect_err("no answer");
        let death = process.end(&fault);
        assert_eq!(death.how, "sent bytes that lead no frame: [74, 68, 69, 73] and was ended");
        // SAFETY: signal 0 only asks whether the process is there.
        assert_ne!(unsafe { libc::kill(pid.cast_signed(), 0) }, 0, "it is still there");
    }

    #[test]
    fn a_child_of_the_worker_that_holds_the_socket_does_not_hold_us() {
        let launch = Launch::new("sh".into(), &["-c", "sleep 3 & kill -SEGV $$"]);
        let mut process = Process::start(&launch).expect("a shell");
        let fault = process.ask(&Request::Close, 0).expect_err("no answer");
        assert_eq!(process.end(&fault).how, "was killed by SIGSEGV");
    }
}
