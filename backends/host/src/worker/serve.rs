//! The worker's side: read a request, ask the backend, answer.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;

use bheval_abi::Backend;

use super::message::{Loaded, Reply, Request};
use super::refusal::Refusal;
use super::wire::Fault;
use crate::local::Local;
use crate::model::Opened;
use crate::{Error, Library, ModelOptions, Source};

/// Makes this process a worker: it answers the requests that come over its stdin, which [`crate::Launch`] makes a
/// socket, until it is told to end. `linked` are the backends that are part of this program.
///
/// The process ends at once, whatever the backend is doing, when the other end is gone. A backend that reads stdin finds
/// nothing there, and what it prints to stdout or stderr never mixes with an answer.
///
/// # Errors
/// A stdin that is no such socket.
pub fn serve(linked: &[&'static Backend]) -> Result<(), Error> {
    let failed = |error: io::Error| Error::Worker {
        text: format!(
            "a worker is started by bheval itself, with a socket as its stdin ({error}); ask for one with --isolate"
        ),
    };
    let stream = take_stdin().map_err(failed)?;
    let source = stream.try_clone().map_err(failed)?;
    let (sender, requests) = mpsc::channel();
    let listener = thread::Builder::new().name("bheval-requests".to_owned());
    listener.spawn(move || listen(source, &sender)).map_err(failed)?;
    let mut out = BufWriter::new(stream);
    let mut serving = Serving::new(linked);
    for request in requests {
        let reply = serving.answer(request);
        if let Err(error) = reply.send(&mut out) {
            leave(&Fault::Gone(error));
        }
        if matches!(reply, Reply::Closed) {
            break;
        }
    }
    Ok(())
}

/// Stdin as a socket of our own, and an empty one in its place.
fn take_stdin() -> io::Result<UnixStream> {
    let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    stream.peer_addr()?;
    let empty = File::open("/dev/null")?;
    // SAFETY: both are descriptors of this process, and nothing reads stdin yet.
    if unsafe { libc::dup2(empty.as_raw_fd(), libc::STDIN_FILENO) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(stream)
}

/// Reads requests on a thread of its own, so that the end of the harness is seen while the backend computes, or hangs.
fn listen(stream: UnixStream, requests: &mpsc::Sender<Request<'static>>) {
    let mut source = BufReader::new(stream);
    loop {
        match Request::read(&mut source) {
            Ok(request) => {
                if requests.send(request).is_err() {
                    // The worker has come to its end.
                    return;
                }
            }
            Err(fault) => leave(&fault),
        }
    }
}

/// Ends the process without asking the backend, which may be in the middle of a call.
fn leave(fault: &Fault) -> ! {
    let code = match fault {
        Fault::Gone(_) => 0,
        Fault::Malformed(text) => {
            // Nobody is left to be told if stderr is gone.
            let _ = writeln!(io::stderr(), "error: the worker was sent {text}");
            2
        }
    };
    // SAFETY: ends the process at once; nothing of ours waits to be written.
    unsafe { libc::_exit(code) }
}

/// What a worker has loaded and opened.
pub(super) struct Serving<'a> {
    linked: &'a [&'static Backend],
    library: Option<Library>,
    model: Option<Local>,
    vocab: usize,
}

impl<'a> Serving<'a> {
    pub(super) fn new(linked: &'a [&'static Backend]) -> Self {
        Self { linked, library: None, model: None, vocab: 0 }
    }

    /// The answer to a request.
    pub(super) fn answer(&mut self, request: Request<'_>) -> Reply {
        let reply = match request {
            Request::Load(source) => self.load(&source),
            Request::Open(options) => self.open(&options),
            Request::Score(forest) => self.model().and_then(|m| m.score(&forest)).map(Reply::Scores),
            Request::Masked(batch) => self.model().and_then(|m| m.score_masked(&batch)).map(Reply::Scores),
            Request::Logits(forest) => {
                let len = forest.wanted().count() * self.vocab;
                self.model().and_then(|m| m.logits(&forest, len)).map(Reply::Logits)
            }
            Request::Close => {
                self.model = None;
                Ok(Reply::Closed)
            }
        };
        reply.unwrap_or_else(|error| Reply::Refused(Refusal::new(&error)))
    }

    fn load(&mut self, source: &Source) -> Result<Reply, Error> {
        let library = match source {
            Source::Linked(name) => self.linked(name)?,
            Source::File { path, pin } => Library::open(path, pin.as_deref())?,
        };
        let loaded = Loaded {
            name: library.name().to_owned(),
            version: library.version().to_owned(),
            features: library.features(),
            masked: library.reads_masked(),
        };
        self.library = Some(library);
        Ok(Reply::Loaded(loaded))
    }

    fn linked(&self, name: &str) -> Result<Library, Error> {
        for table in self.linked {
            let library = Library::linked(table)?;
            if library.name() == name {
                return Ok(library);
            }
        }
        Err(Error::Worker { text: format!("`{name}` is not linked into the worker's program") })
    }

    fn open(&mut self, options: &ModelOptions) -> Result<Reply, Error> {
        let none =
            || Error::Worker { text: "a model was to be opened before a backend was loaded".to_owned() };
        let (model, info) = Local::open(self.library.as_ref().ok_or_else(none)?, options)?;
        self.model = Some(model);
        self.vocab = info.vocab as usize;
        Ok(Reply::Opened(info))
    }

    fn model(&mut self) -> Result<&mut Local, Error> {
        let none = || Error::Worker { text: "a model was asked before it was opened".to_owned() };
        self.model.as_mut().ok_or_else(none)
    }
}
