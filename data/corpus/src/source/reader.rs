//! One file, read document by document.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bheval_data::digest::Digesting;
use bheval_data::lines::{LineErrorKind, Lines, lines};

use super::documents::{Gather, TooLong};
use super::row::field;
use super::unpack::{Packing, start_of, strip};
use super::{DOCUMENT_LIMIT, Fault, ROW_LIMIT, SourceError};

/// A file of text, and how it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// The file. The end of its name says what it is: `.jsonl` or `.ndjson` rows, all else text; `.zst`, `.xz` or `.gz` behind
    /// that, packed.
    pub path: PathBuf,
    /// The field of a row's text; for a field within a field, with a full stop: `a.b`.
    pub field: String,
    /// The field of a row's domain, where rows name their own.
    pub label_field: Option<String>,
    /// Words after which a document of text is cut at the line's end.
    pub cut: Option<u64>,
}

/// A document as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawDocument {
    /// The line that it begins at, from 1.
    pub line: u64,
    /// Its text, with at least one character that is no white space.
    pub text: String,
    /// The domain that its row names.
    pub label: Option<String>,
}

/// What a file held, once it was read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Its size as stored.
    pub bytes: u64,
    /// SHA-256 as stored, in hex.
    pub sha256: String,
}

/// The documents of a file.
pub struct DocumentReader {
    source: SourceFile,
    packing: Packing,
    lines: Lines<Box<dyn BufRead + Send>>,
    stored: Stored,
    form: Form,
    line: u64,
}

enum Form {
    Text(Gather),
    Rows { waiting: Vec<RawDocument> },
}

impl DocumentReader {
    /// Opens a file. `watch` is called with the number of stored bytes that were read, as they are.
    ///
    /// # Errors
    /// What is no file or can't be opened, or a packed file of no bytes.
    pub fn open(source: &SourceFile, watch: Option<Watch>) -> Result<Self, SourceError> {
        let failed = |fault| SourceError { file: source.path.clone(), line: 0, fault };
        let file = File::open(&source.path).map_err(|e| failed(Fault::Closed(e)))?;
        let about = file.metadata().map_err(|e| failed(Fault::Closed(e)))?;
        if !about.is_file() {
            return Err(failed(Fault::NoFile));
        }
        let name = source.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let (packing, inner) = Packing::of(&name);
        if packing != Packing::Plain && about.len() == 0 {
            return Err(failed(Fault::EmptyPacked));
        }
        let rows = [".jsonl", ".ndjson"].iter().any(|end| strip(inner, end).is_some());
        let (form, limit) = if rows {
            (Form::Rows { waiting: Vec::new() }, ROW_LIMIT)
        } else {
            (Form::Text(Gather::new(source.cut, DOCUMENT_LIMIT)), DOCUMENT_LIMIT)
        };
        let stored = Stored::new(file, watch);
        let text = packing.unpack(stored.clone()).map_err(|e| failed(Fault::Closed(e)))?;
        Ok(Self { source: source.clone(), packing, lines: lines(text, limit), stored, form, line: 0 })
    }

    /// Size and SHA-256 of the file, once all documents were read.
    ///
    /// # Errors
    /// What is left of the file can't be read.
    pub fn finish(self) -> Result<Finished, SourceError> {
        let Self { source, stored, lines, .. } = self;
        drop(lines);
        let failed = |e| SourceError { file: source.path.clone(), line: 0, fault: Fault::Closed(e) };
        // Unpackers stop at the end of their data; what stands behind it belongs to the digest all the same.
        io::copy(&mut stored.clone(), &mut io::sink()).map_err(failed)?;
        let (bytes, sha256) = stored.digest();
        Ok(Finished { bytes, sha256 })
    }

    /// The next document, or `None` at the end.
    ///
    /// # Errors
    /// The first fault of the file. Nothing is to be read behind it.
    pub fn read(&mut self) -> Result<Option<RawDocument>, SourceError> {
        loop {
            if let Form::Rows { waiting } = &mut self.form
                && let Some(document) = waiting.pop()
            {
                return Ok(Some(document));
            }
            let Some(line) = self.lines.next() else { return Ok(self.last()) };
            let line = line.map_err(|e| self.unreadable(e.number, e.kind))?;
            self.line = line.number;
            if let Some(document) = self.take_line(&line.text)? {
                return Ok(Some(document));
            }
        }
    }

    fn last(&mut self) -> Option<RawDocument> {
        let Form::Text(gather) = &mut self.form else { return None };
        gather.take().map(|(line, text)| RawDocument { line, text, label: None })
    }

    fn take_line(&mut self, line: &str) -> Result<Option<RawDocument>, SourceError> {
        let number = self.line;
        let failed = |fault| SourceError { file: self.source.path.clone(), line: number, fault };
        match &mut self.form {
            Form::Text(gather) => {
                let document = gather.push(line, number).map_err(|TooLong| failed(Fault::LongDocument))?;
                Ok(document.map(|(line, text)| RawDocument { line, text, label: None }))
            }
            Form::Rows { waiting } => {
                *waiting = row(&self.source, line, number).map_err(failed)?;
                waiting.reverse();
                Ok(None)
            }
        }
    }

    fn unreadable(&self, line: u64, kind: LineErrorKind) -> SourceError {
        let unpacked = self.packing == Packing::Plain;
        let start = unpacked.then(|| start_of(&self.source.path).ok()).flatten();
        let looks_like = start.and_then(|start| Packing::marked(&start));
        let packed = self.packing.name().map(|name| (name, self.stored.count()));
        let fault = Fault::Line { kind, packed, looks_like };
        SourceError { file: self.source.path.clone(), line, fault }
    }
}

/// The documents of a row: one, or the pieces that it is cut into, or none where its text is blank.
fn row(source: &SourceFile, line: &str, number: u64) -> Result<Vec<RawDocument>, Fault> {
    if line.trim().is_empty() {
        return Ok(Vec::new());
    }
    let text = field(line, &source.field)?;
    let label = source.label_field.as_deref().map(|name| field(line, name)).transpose()?;
    let whole = |text: String| RawDocument { line: number, text, label: label.clone() };
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    if source.cut.is_some() {
        return Ok(pieces(&text, source.cut)?.into_iter().map(whole).collect());
    }
    if text.len() > DOCUMENT_LIMIT {
        return Err(Fault::LongDocument);
    }
    Ok(vec![whole(text)])
}

/// A long text cut at line ends; its own empty lines stay within the pieces.
fn pieces(text: &str, cut: Option<u64>) -> Result<Vec<String>, Fault> {
    let mut pieces = vec![String::new()];
    let (mut words, cut) = (0, cut.unwrap_or(u64::MAX));
    for line in text.split_inclusive('\n') {
        if words >= cut {
            pieces.push(String::new());
            words = 0;
        }
        words += line.split_whitespace().count() as u64;
        let piece = pieces.last_mut().expect("it begins with one");
        piece.push_str(line);
        if piece.len() > DOCUMENT_LIMIT {
            return Err(Fault::LongDocument);
        }
    }
    pieces.retain(|piece| !piece.trim().is_empty());
    Ok(pieces)
}

/// Called with the number of stored bytes that were just read.
pub type Watch = Arc<dyn Fn(u64) + Send + Sync>;

/// The stored bytes of a file on their way to an unpacker, digested and counted. Shared, since the unpacker keeps its reader.
#[derive(Clone)]
struct Stored {
    file: Arc<Mutex<Option<Digesting<File>>>>,
    count: Arc<AtomicU64>,
    watch: Option<Watch>,
}

impl Stored {
    fn new(file: File, watch: Option<Watch>) -> Self {
        Self { file: Arc::new(Mutex::new(Some(Digesting::new(file)))), count: Arc::default(), watch }
    }

    /// Bytes that were read.
    fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn digest(&self) -> (u64, String) {
        let taken = self.file.lock().unwrap_or_else(PoisonError::into_inner).take();
        taken.map(Digesting::finish).expect("a digest is taken once")
    }
}

impl Read for Stored {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let count = file.as_mut().map_or(Ok(0), |file| file.read(buffer))?;
        drop(file);
        self.count.fetch_add(count as u64, Ordering::Relaxed);
        if let Some(watch) = &self.watch {
            watch(count as u64);
        }
        Ok(count)
    }
}

/// Whether a file name ends in a way that says it is text.
pub(crate) fn is_text_name(name: &str) -> bool {
    let (packing, inner) = Packing::of(name);
    packing != Packing::Plain
        || [".txt", ".jsonl", ".ndjson", ".text"].iter().any(|end| strip(inner, end).is_some())
}

/// The error of a file that is another than when it was read first.
pub(crate) fn changed(path: &Path) -> SourceError {
    SourceError { file: path.to_owned(), line: 0, fault: Fault::Changed }
}

/// The digest of a whole source that was read before must be the one found now.
pub(crate) fn unchanged(path: &Path, before: &Finished, now: &Finished) -> Result<(), SourceError> {
    if before == now { Ok(()) } else { Err(changed(path)) }
}
