//! In place of workers where the system has no Unix sockets that a process can be given as its stdin.

use std::convert::Infallible;
use std::path::PathBuf;

use bheval_abi::{Backend, HeadValues};

use crate::model::Opened;
use crate::{Error, Forest, Library, MaskedBatch, ModelInfo, ModelOptions, Scored, Source};

fn none() -> Error {
    Error::Worker { text: "a backend can be isolated on Unix systems only; leave --isolate out".to_owned() }
}

/// How a worker would be started.
#[derive(Clone, Debug)]
pub struct Launch(());

impl Launch {
    /// A program with arguments, which is never started.
    #[must_use]
    pub fn new(_: PathBuf, _: &[&str]) -> Self {
        Self(())
    }

    /// # Errors
    /// Always: this system has no workers.
    pub fn this_program(_: &[&str]) -> Result<Self, Error> {
        Err(none())
    }
}

/// Would make this process a worker.
///
/// # Errors
/// Always: this system has no workers.
pub fn serve(_: &[&'static Backend]) -> Result<(), Error> {
    Err(none())
}

pub(crate) struct Loaded {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) features: u64,
    pub(crate) masked: bool,
}

#[derive(Debug)]
pub(crate) struct Workers(Infallible);

impl Workers {
    pub(crate) fn start(_: &Launch, _: Source) -> Result<(Self, Loaded), Error> {
        Err(none())
    }
}

#[derive(Debug)]
pub(crate) struct Remote(Infallible);

impl Remote {
    pub(crate) fn open(_: &Library, _: &ModelOptions) -> Result<(Self, ModelInfo), Error> {
        Err(none())
    }
}

impl Opened for Remote {
    fn score(&mut self, _: &Forest) -> Result<Scored, Error> {
        match self.0 {}
    }

    fn score_masked(&mut self, _: &MaskedBatch) -> Result<Scored, Error> {
        match self.0 {}
    }

    fn head(&mut self, _vocab: usize) -> Result<HeadValues, Error> {
        match self.0 {}
    }

    fn hidden(&mut self, _forest: &Forest, _len: usize) -> Result<Vec<f32>, Error> {
        match self.0 {}
    }

    fn logits(&mut self, _: &Forest, _: usize) -> Result<Vec<f32>, Error> {
        match self.0 {}
    }
}
