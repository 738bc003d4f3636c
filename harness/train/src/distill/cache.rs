//! The teachers' word on disk, one record a window of the training text.
//!
//! ```text
//! "bhvlkd01"                      8 bytes
//! length of the header            u64
//! header                          JSON: the key, windows, form of a record
//! CRC-32 of all before            u32
//! head, if states are kept        [vocab, width] f32, [vocab] f32 where there is a bias, CRC-32 of both
//! records, in the order of windows: values, then CRC-32 of the window's number (u64) and the values
//! ```
//! All numbers have the low byte first. A record belongs to the window that begins at `number * steps`, whatever the
//! order in which training comes to it.

mod form;
mod head;
mod key;
mod make;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::records::Records;
use super::{Error, Head};
use form::RecordForm;

pub use key::{Key, Text};
pub use make::{Event, Maker, cache_bytes, make};

const MAGIC: &[u8; 8] = b"bhvlkd01";
/// The longest header that is read.
const HEADER_LIMIT: u64 = 1 << 20;

/// What a cache's header says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    key: Value,
    windows: u64,
    steps: usize,
    /// Rows of the student's embedding.
    vocab: usize,
    form: RecordForm,
}

impl Header {
    /// Magic, length, text and checksum.
    fn bytes(&self) -> Vec<u8> {
        let text = serde_json::to_vec(self).expect("a header is plain data and always JSON");
        let mut bytes = MAGIC.to_vec();
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text);
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    /// Reads a header from the start of a file.
    fn read(path: &Path, file: &mut File) -> Result<(Self, u64), Error> {
        let wrong = |reason: &str| Error::cache(path, reason);
        let mut lead = [0; 16];
        file.read_exact(&mut lead).map_err(|_| wrong("it is too short for a cache"))?;
        let (magic, length) = lead.split_at(8);
        if magic != MAGIC {
            return Err(wrong("it is no cache of this program's, or of another version"));
        }
        let length = u64::from_le_bytes(length.try_into().expect("16 bytes less 8"));
        if length > HEADER_LIMIT {
            return Err(wrong(&format!("it claims a header of {length} bytes")));
        }
        let mut rest = vec![0; length as usize + 4];
        file.read_exact(&mut rest).map_err(|_| wrong("it is cut short within its header"))?;
        let (text, sum) = rest.split_at(length as usize);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&lead);
        hasher.update(text);
        if hasher.finalize().to_le_bytes() != *sum {
            return Err(wrong("its header is damaged"));
        }
        let header: Self =
            serde_json::from_slice(text).map_err(|e| wrong(&format!("its header is none: {e}")))?;
        Ok((header, 16 + length + 4))
    }

    /// Bytes of a record with its checksum.
    fn record(&self) -> Option<u64> {
        (self.form.bytes()? as u64).checked_mul(self.steps as u64)?.checked_add(4)
    }
}

/// A finished cache, opened.
#[derive(Debug)]
pub struct Cache {
    path: PathBuf,
    file: File,
    header: Header,
    head: Option<Head>,
    /// Where the first record begins.
    start: u64,
    bytes: Vec<u8>,
}

impl Cache {
    /// Opens the cache of this key in a folder, or tells that there is none.
    ///
    /// # Errors
    /// One that is damaged, cut short, or holds something else than its name says.
    pub fn find(folder: &Path, key: &Key) -> Result<Option<Self>, Error> {
        let path = folder.join(key.file_name());
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("open", &path)(e)),
        };
        let wrong = |reason: String| Error::cache(&path, reason);
        let (header, start) = Header::read(&path, &mut file)?;
        key.check(&header.key).map_err(&wrong)?;
        if (header.windows, header.steps, header.vocab) != key.sizes()
            || !header.form.is_plausible(header.vocab)
        {
            return Err(wrong("its header contradicts itself".to_owned()));
        }
        let total = file.metadata().map_err(Error::io("read", &path))?.len();
        let head_bytes = head::bytes(&header).unwrap_or(u64::MAX);
        let records =
            header.record().and_then(|record| record.checked_mul(header.windows)).unwrap_or(u64::MAX);
        let expected = start.saturating_add(head_bytes).saturating_add(records);
        if total != expected {
            return Err(wrong(format!("it has {total} bytes and should have {expected}")));
        }
        let head = head::read(&path, &mut file, &header)?;
        Ok(Some(Self { path, file, head, start: start + head_bytes, header, bytes: vec![] }))
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.start + self.header.windows * self.header.record().unwrap_or(0)
    }

    /// Holds every record against its checksum, which takes a second for each GB or so.
    ///
    /// # Errors
    /// The first record that is damaged.
    pub fn verify(&mut self) -> Result<(), Error> {
        let mut records = Records::default();
        (0..self.header.windows).try_for_each(|window| {
            records.clear(self.header.form.kind());
            self.read_window(window, &mut records)
        })
    }

    pub(super) fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    /// Reads the records of the windows that begin at some tokens.
    pub(super) fn read(&mut self, starts: &[u64], records: &mut Records) -> Result<(), Error> {
        records.clear(self.header.form.kind());
        let steps = self.header.steps as u64;
        for &start in starts {
            if !start.is_multiple_of(steps) || start / steps >= self.header.windows {
                return Err(Error::cache(
                    &self.path,
                    format!(
                        "it has no window that begins at token {start}: it holds one at every {steps} tokens"
                    ),
                ));
            }
            self.read_window(start / steps, records)?;
        }
        Ok(())
    }

    fn read_window(&mut self, window: u64, records: &mut Records) -> Result<(), Error> {
        let record = self.header.record().unwrap_or(4);
        self.bytes.resize(record as usize, 0);
        let place = SeekFrom::Start(self.start + window * record);
        let read = self.file.seek(place).and_then(|_| self.file.read_exact(&mut self.bytes));
        read.map_err(Error::io("read", &self.path))?;
        let (values, sum) = self.bytes.split_at(record as usize - 4);
        if checksum(window, values) != *sum {
            return Err(Error::cache(&self.path, format!("the record of window {window} is damaged")));
        }
        let wrong =
            |reason: &str| Error::cache(&self.path, format!("the record of window {window} {reason}"));
        self.header.form.decode(values, self.header.vocab, records).map_err(wrong)
    }
}

/// The checksum of a record, which holds for its place only.
fn checksum(window: u64, values: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&window.to_le_bytes());
    hasher.update(values);
    hasher.finalize().to_le_bytes()
}
