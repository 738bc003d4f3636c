//! One file over HTTP: ask for what is missing, take no more than that, check, try again where that may help.

use std::io::Read;
use std::path::Path;
use std::thread;
use std::time::Duration;

use ureq::http::Response;
use ureq::http::header::{ACCEPT_ENCODING, CONTENT_RANGE, RANGE};
use ureq::{Agent, Body};

use super::part::Part;
use super::{FetchFault, Patience};
use crate::Error;
use crate::manifest::FileEntry;

/// Fetches single files.
pub(crate) struct Transfer<'a> {
    agent: Agent,
    patience: Patience,
    how_to_get: &'a str,
}

/// How one attempt ended, other than well.
enum Failure {
    /// Another attempt may help.
    Passing(FetchFault),
    /// The server will not do better, and what came is useless.
    Useless(FetchFault),
    /// The server will not do better.
    Lasting(FetchFault),
    /// It is not about the server.
    Here(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Here(error)
    }
}

impl<'a> Transfer<'a> {
    pub(crate) fn new(patience: Patience, how_to_get: &'a str) -> Transfer<'a> {
        let config = Agent::config_builder()
            .user_agent(concat!("bheval/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .timeout_connect(Some(patience.connect))
            .timeout_recv_response(Some(patience.silence))
            .timeout_per_read(Some(patience.silence));
        Transfer { agent: config.build().into(), patience, how_to_get }
    }

    /// Fetches a file to its place, going on from a part that is there.
    pub(crate) fn fetch(
        &self,
        url: &str,
        pinned: &FileEntry,
        target: &Path,
        tell: &mut dyn FnMut(u64),
    ) -> Result<(), Error> {
        let mut part = Part::of(target)?;
        let mut attempts = 1;
        let fault = loop {
            match self.attempt(url, pinned, &mut part, tell) {
                Ok(()) => return part.publish(target),
                Err(Failure::Passing(_)) if attempts < self.patience.attempts => self.wait(attempts),
                Err(Failure::Passing(fault) | Failure::Lasting(fault)) => break fault,
                Err(Failure::Useless(fault)) => {
                    part.delete()?;
                    break fault;
                }
                Err(Failure::Here(error)) => return Err(error),
            }
            attempts += 1;
        };
        Err(Error::Fetch { url: url.to_owned(), attempts, fault, how_to_get: self.how_to_get.to_owned() })
    }

    fn wait(&self, attempts: u32) {
        const LONGEST: Duration = Duration::from_secs(10);
        thread::sleep(self.patience.pause.saturating_mul(1 << (attempts - 1).min(10)).min(LONGEST));
    }

    /// Asks once for what is missing. Well means: the part is whole and right.
    fn attempt(
        &self,
        url: &str,
        pinned: &FileEntry,
        part: &mut Part,
        tell: &mut dyn FnMut(u64),
    ) -> Result<(), Failure> {
        if part.length() >= pinned.size {
            match wrong_with(part, pinned)? {
                None => return Ok(()),
                Some(_) => part.clear()?,
            }
        }
        let response = self.ask(url, part.length())?;
        make_room(&response, part, pinned.size)?;
        let resumed = part.length() > 0;
        take_body(response, part, pinned.size, tell)?;
        match wrong_with(part, pinned)? {
            None => Ok(()),
            // The old piece may be the bad one: once more, from the start.
            Some(fault) if resumed => {
                part.clear()?;
                Err(Failure::Passing(fault))
            }
            Some(fault) => Err(Failure::Useless(fault)),
        }
    }

    fn ask(&self, url: &str, from: u64) -> Result<Response<Body>, Failure> {
        // Unpacked on the way, neither the size nor a range would mean the file's bytes.
        let mut request = self.agent.get(url).header(ACCEPT_ENCODING, "identity");
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        request.call().map_err(|error| connection(&error))
    }
}

/// What is wrong with a part that should be whole.
fn wrong_with(part: &Part, pinned: &FileEntry) -> Result<Option<FetchFault>, Error> {
    if part.length() > pinned.size {
        return Ok(Some(FetchFault::TooManyBytes { expected: pinned.size }));
    }
    let found = part.wrong_hash(pinned)?;
    Ok(found.map(|found| FetchFault::WrongHash { expected: pinned.sha256.clone(), found }))
}

/// Brings the part in line with what the server is about to send: the rest, or the whole.
fn make_room(response: &Response<Body>, part: &mut Part, size: u64) -> Result<(), Failure> {
    let fault = FetchFault::Status { code: response.status().as_u16() };
    match response.status().as_u16() {
        200 => Ok(part.clear()?),
        206 if continues(response, part.length(), size) => Ok(()),
        206 => {
            part.clear()?;
            Err(Failure::Passing(FetchFault::WrongRange))
        }
        416 => {
            part.clear()?;
            Err(Failure::Passing(fault))
        }
        408 | 429 | 500 | 502 | 503 | 504 => Err(Failure::Passing(fault)),
        _ => Err(Failure::Lasting(fault)),
    }
}

/// Whether the `Content-Range` is the rest of this file: `bytes FROM-(SIZE-1)/SIZE`, the total possibly `*`.
fn continues(response: &Response<Body>, from: u64, size: u64) -> bool {
    let header = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let Some((range, total)) = header.and_then(|text| text.strip_prefix("bytes ")?.split_once('/')) else {
        return false;
    };
    let start = range.split_once('-').and_then(|(start, _)| start.parse().ok());
    start == Some(from) && (total == "*" || total.parse() == Ok(size))
}

/// Appends the body to the part until the file is whole.
fn take_body(
    response: Response<Body>,
    part: &mut Part,
    size: u64,
    tell: &mut dyn FnMut(u64),
) -> Result<(), Failure> {
    let too_many = || Failure::Useless(FetchFault::TooManyBytes { expected: size });
    let claimed = response.body().content_length().unwrap_or(0);
    if claimed > size - part.length() {
        return Err(too_many());
    }
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = body.read(&mut buffer).map_err(|error| passing(error.to_string()))?;
        if count == 0 {
            break;
        }
        if count as u64 > size - part.length() {
            return Err(too_many());
        }
        part.append(&buffer[..count])?;
        tell(part.length());
    }
    match part.length() {
        found if found < size => Err(Failure::Passing(FetchFault::Short { found, expected: size })),
        _ => Ok(()),
    }
}

fn passing(reason: String) -> Failure {
    Failure::Passing(FetchFault::Connection { reason })
}

/// Whether a failed connection is worth another try: not where the address or the certificate is at fault.
fn connection(error: &ureq::Error) -> Failure {
    let reason = error.to_string();
    match error {
        ureq::Error::Io(_)
        | ureq::Error::Timeout(_)
        | ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::Protocol(_) => passing(reason),
        _ => Failure::Lasting(FetchFault::Connection { reason }),
    }
}
