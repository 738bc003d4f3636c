//! The harness's side: a model that another process holds, and that process's successors.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bheval_abi::{HeadValues, Status};

use super::message::{Loaded, Reply, Request};
use super::process::{Death, Launch, Process};
use super::refusal::Refusal;
use super::wire::Fault;
use crate::model::{Opened, refused};
use crate::{Error, Forest, Library, MaskedBatch, ModelInfo, ModelOptions, Scored, Source};

/// So many calls in a row may end in a worker's death before asking again makes no sense: 18 of them single out one of
/// 65,536 requests, and each neighbour in the batch that is as bad takes three more.
const FIRST_PATIENCE: u32 = 128;
/// The same for a backend that has scored something: it works, so a block of bad neighbours is the likelier reason.
const PATIENCE: u32 = 4096;
/// Attempts to open the model again after a death.
const ATTEMPTS: u32 = 3;

/// Starts workers that have a backend loaded.
#[derive(Debug)]
pub(crate) struct Workers {
    launch: Launch,
    source: Source,
    loaded: Loaded,
    /// The first one, until a model is opened in it.
    idle: Mutex<Option<Process>>,
}

impl Workers {
    /// Starts the first worker and has it load the backend.
    pub(crate) fn start(launch: &Launch, source: Source) -> Result<(Self, Loaded), Error> {
        let (process, loaded) = load(launch, &source)?;
        let idle = Mutex::new(Some(process));
        Ok((Self { launch: launch.clone(), source, loaded: loaded.clone(), idle }, loaded))
    }

    /// A worker that has loaded the backend.
    fn worker(&self) -> Result<Process, Error> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(process) = idle {
            return Ok(process);
        }
        let (process, loaded) = load(&self.launch, &self.source)?;
        if loaded != self.loaded {
            return Err(changed(&self.loaded.name));
        }
        Ok(process)
    }

    /// Opens a model in a worker.
    fn open(&self, options: &ModelOptions) -> Result<(Process, ModelInfo), Error> {
        let mut process = self.worker()?;
        let name = &self.loaded.name;
        match process.ask(&Request::Open(Cow::Borrowed(options)), 0) {
            Ok(Reply::Opened(info)) => Ok((process, info)),
            Ok(Reply::Refused(refusal)) => Err(self.error(refusal)),
            Ok(other) => Err(dead(name, "open the model", process.end(&unexpected(&other)))),
            Err(fault) => Err(dead(name, "open the model", process.end(&fault))),
        }
    }

    fn error(&self, refusal: Refusal) -> Error {
        let (path, pin) = place(&self.source);
        refusal.into_error(&self.loaded.name, &path, pin)
    }
}

fn load(launch: &Launch, source: &Source) -> Result<(Process, Loaded), Error> {
    let (path, pin) = place(source);
    let name = path.display().to_string();
    let mut process = Process::start(launch)?;
    match process.ask(&Request::Load(Cow::Borrowed(source)), 0) {
        Ok(Reply::Loaded(loaded)) => Ok((process, loaded)),
        Ok(Reply::Refused(refusal)) => Err(refusal.into_error(&name, &path, pin)),
        Ok(other) => Err(dead(&name, "load the backend", process.end(&unexpected(&other)))),
        Err(fault) => Err(dead(&name, "load the backend", process.end(&fault))),
    }
}

/// Where a backend is, for people, and its pin.
fn place(source: &Source) -> (PathBuf, Option<&str>) {
    match source {
        Source::Linked(name) => (Path::new(name).to_path_buf(), None),
        Source::File { path, pin } => (path.clone(), pin.as_deref()),
    }
}

/// The end of a worker before its model was open: another one would end so, too.
fn dead(backend: &str, action: &'static str, Death { how, said }: Death) -> Error {
    Error::Crashed { backend: backend.to_owned(), action, how, said, in_a_row: 1, again: false }
}

fn unexpected(reply: &Reply) -> Fault {
    let what = match reply {
        Reply::Loaded(_) => "that it loaded a backend",
        Reply::Opened(_) => "that it opened a model",
        Reply::Scores(_) => "scores",
        Reply::Logits(_) => "logits",
        Reply::Closed => "that it closed the model",
        Reply::Refused(_) => "a refusal",
    };
    Fault::malformed(format!("{what}, which was not asked for,"))
}

fn changed(backend: &str) -> Error {
    Error::Worker {
        text: format!(
            "after its worker was started anew, {backend} describes itself or the model otherwise than before; the \
             files were changed while they were in use. Start a new run"
        ),
    }
}

/// A model that a worker holds.
#[derive(Debug)]
pub(crate) struct Remote {
    library: Library,
    options: ModelOptions,
    info: ModelInfo,
    /// None after its death, until the next call.
    process: Option<Process>,
    crashes: u64,
    reopened: u64,
    in_a_row: u32,
    patience: u32,
}

impl Remote {
    /// Opens a model in a worker.
    pub(crate) fn open(library: &Library, options: &ModelOptions) -> Result<(Self, ModelInfo), Error> {
        let (process, info) = workers(library)?.open(options)?;
        let (library, options) = (library.clone(), options.clone());
        let (process, patience) = (Some(process), FIRST_PATIENCE);
        let (crashes, reopened, in_a_row) = (0, 0, 0);
        let described = info.clone();
        Ok((Self { library, options, info, process, crashes, reopened, in_a_row, patience }, described))
    }

    /// Asks the worker, or a new one where the last one died. `pick` takes what was asked for out of the answer.
    fn ask<T>(
        &mut self,
        action: &'static str,
        request: &Request<'_>,
        expected: usize,
        pick: impl FnOnce(Reply) -> Result<T, Reply>,
    ) -> Result<T, Error> {
        let mut process = match self.process.take() {
            Some(process) => process,
            None => self.restarted()?,
        };
        let answer = match process.ask(request, expected) {
            Ok(Reply::Refused(refusal)) => Ok(Err(workers(&self.library)?.error(refusal))),
            Ok(reply) => pick(reply).map(Ok).map_err(|other| unexpected(&other)),
            Err(fault) => Err(fault),
        };
        match answer {
            Ok(answer) => {
                self.process = Some(process);
                self.in_a_row = 0;
                if answer.is_ok() {
                    self.trust();
                }
                answer
            }
            Err(fault) => Err(self.died(action, process.end(&fault))),
        }
    }

    fn died(&mut self, action: &'static str, Death { how, said }: Death) -> Error {
        self.crashes += 1;
        self.in_a_row += 1;
        let (backend, in_a_row) = (self.library.name().to_owned(), self.in_a_row);
        Error::Crashed { backend, action, how, said, in_a_row, again: in_a_row < self.patience }
    }

    /// A new worker with the model open, which must be the one that it was.
    fn restarted(&mut self) -> Result<Process, Error> {
        let workers = workers(&self.library)?;
        let mut attempt = 1;
        let (process, info) = loop {
            match workers.open(&self.options) {
                Ok(opened) => break opened,
                Err(error) => {
                    let died = matches!(error, Error::Crashed { .. });
                    self.crashes += u64::from(died);
                    if !died || attempt == ATTEMPTS {
                        return Err(Error::Worker {
                            text: format!("its worker died and could not be started anew: {error}"),
                        });
                    }
                    attempt += 1;
                }
            }
        };
        self.reopened += 1;
        if info != self.info {
            return Err(changed(self.library.name()));
        }
        Ok(process)
    }
}

fn scores(reply: Reply) -> Result<Scored, Reply> {
    match reply {
        Reply::Scores(scored) => Ok(scored),
        other => Err(other),
    }
}

impl Opened for Remote {
    fn score(&mut self, forest: &Forest) -> Result<Scored, Error> {
        self.ask("score", &Request::Score(Cow::Borrowed(forest)), forest.len(), scores)
    }

    fn score_masked(&mut self, batch: &MaskedBatch) -> Result<Scored, Error> {
        let request = Request::Masked(Cow::Borrowed(batch));
        self.ask("score masked tokens", &request, batch.questions(), scores)
    }

    fn logits(&mut self, forest: &Forest, len: usize) -> Result<Vec<f32>, Error> {
        self.ask("give logits", &Request::Logits(Cow::Borrowed(forest)), len, |reply| match reply {
            Reply::Logits(data) => Ok(data),
            other => Err(other),
        })
    }

    fn head(&mut self, _vocab: usize) -> Result<HeadValues, Error> {
        Err(no_hidden(&self.library))
    }

    fn hidden(&mut self, _forest: &Forest, _len: usize) -> Result<Vec<f32>, Error> {
        Err(no_hidden(&self.library))
    }

    fn crashes(&self) -> u64 {
        self.crashes
    }

    fn reopened(&self) -> u64 {
        self.reopened
    }

    fn trust(&mut self) {
        self.patience = PATIENCE;
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            process.close();
        }
    }
}

/// Hidden states do not cross the socket: they are for teachers, whose logits are at hand all the same.
fn no_hidden(library: &Library) -> Error {
    let text = "hidden states are not handed out by a backend in a process of its own; use logits, or leave --isolate out";
    refused(library, "give hidden states", Status::UNSUPPORTED, text.to_owned())
}

fn workers(library: &Library) -> Result<&Workers, Error> {
    let none = || Error::Worker { text: format!("{} is no isolated backend", library.name()) };
    library.workers().ok_or_else(none)
}
