//! safetensors files, written and read tensor by tensor: no more than the largest one is in memory.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bheval_data::digest::hex;
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::FileRecord;
use crate::Error;

/// The longest header that is read: that of the safetensors crate.
const HEADER_LIMIT: u64 = 100_000_000;

/// A tensor that is to be written, and where its values come from.
pub(super) struct Entry<S> {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) source: S,
}

impl<S> Entry<S> {
    fn len(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Writes a safetensors file of f32 tensors by name, and syncs it.
///
/// # Errors
/// What the system refuses, or `read`.
pub(super) fn write_tensors<S: Copy>(
    path: &Path,
    mut entries: Vec<Entry<S>>,
    mut read: impl FnMut(S, &mut [f32]) -> Result<(), Error>,
) -> Result<FileRecord, Error> {
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let file = File::create_new(path).map_err(Error::file(path, "write"))?;
    let mut out = Hashing { out: BufWriter::with_capacity(1 << 20, file), hash: Sha256::new(), bytes: 0 };
    out.write(&header(&entries)).map_err(Error::file(path, "write"))?;
    let (mut values, mut bytes) = (Vec::new(), Vec::new());
    for entry in &entries {
        values.clear();
        values.resize(entry.len(), 0.0_f32);
        read(entry.source, &mut values)?;
        for piece in values.chunks(1 << 16) {
            bytes.clear();
            bytes.extend(piece.iter().flat_map(|value| value.to_le_bytes()));
            out.write(&bytes).map_err(Error::file(path, "write"))?;
        }
    }
    out.finish().map_err(Error::file(path, "write"))
}

/// The length of the header in 8 bytes, and the header, filled up with blanks to a multiple of 8.
fn header<S>(entries: &[Entry<S>]) -> Vec<u8> {
    let mut all = Map::new();
    all.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut start = 0;
    for entry in entries {
        let end = start + 4 * entry.len();
        all.insert(
            entry.name.clone(),
            json!({"dtype": "F32", "shape": entry.shape, "data_offsets": [start, end]}),
        );
        start = end;
    }
    let mut text = Value::Object(all).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text);
    bytes
}

struct Hashing {
    out: BufWriter<File>,
    hash: Sha256,
    bytes: u64,
}

impl Hashing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn finish(self) -> std::io::Result<FileRecord> {
        self.out.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
        Ok(FileRecord { bytes: self.bytes, sha256: hex(&self.hash.finalize()) })
    }
}

/// How many bytes an element has, and how it becomes f32.
#[derive(Clone, Copy)]
enum Element {
    F32,
    Bf16,
    F16,
}

impl Element {
    fn read(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Self::Bf16 => {
                bytes.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect()
            }
            Self::F16 => bytes.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(),
        }
    }
}

/// An opened safetensors file.
pub(crate) struct Stored {
    path: PathBuf,
    file: File,
    /// Where the first tensor begins.
    start: u64,
    metadata: Metadata,
}

impl Stored {
    /// Opens a file and checks its header against its size, before any memory is taken for what it names.
    ///
    /// # Errors
    /// A file that is none of safetensors, or cut short.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let mut file = File::open(path).map_err(Error::file(path, "read"))?;
        let size = file.metadata().map_err(Error::file(path, "read"))?.len();
        let mut length = [0; 8];
        file.read_exact(&mut length)
            .map_err(|_| Error::damaged(path, "it is too short for a safetensors file"))?;
        let length = u64::from_le_bytes(length);
        if length > HEADER_LIMIT || length > size.saturating_sub(8) {
            return Err(Error::damaged(
                path,
                format!("it claims a header of {length} bytes and has {size} in all"),
            ));
        }
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header).map_err(Error::file(path, "read"))?;
        let wrong = |e: &dyn std::fmt::Display| {
            Error::damaged(path, format!("its header is not that of safetensors: {e}"))
        };
        let metadata: Metadata = serde_json::from_slice(&header).map_err(|e| wrong(&e))?;
        let data = metadata.data_len() as u64;
        if data != size - 8 - length {
            return Err(Error::damaged(
                path,
                format!("its tensors should have {data} bytes and have {}", size - 8 - length),
            ));
        }
        Ok(Self { path: path.to_owned(), file, start: 8 + length, metadata })
    }

    /// The names of its tensors, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.metadata.tensors().into_keys().collect();
        names.sort();
        names
    }

    /// The names and shapes of its tensors, sorted.
    pub(crate) fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let shape = |name: String| {
            let shape = self.metadata.info(&name).map(|info| info.shape.clone()).unwrap_or_default();
            (name, shape)
        };
        self.names().into_iter().map(shape).collect()
    }

    /// The values of a tensor that must have this shape.
    ///
    /// # Errors
    /// A tensor that is not there, of another shape, or of integers.
    pub(crate) fn read(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let wrong = |reason: String| Error::Unfit { path: self.path.clone(), reason };
        let info = self.metadata.info(name).ok_or_else(|| wrong(format!("it has no tensor {name}")))?;
        if info.shape != shape {
            return Err(wrong(format!("its {name} is {:?}, and the model's is {shape:?}", info.shape)));
        }
        let element = match info.dtype {
            Dtype::F32 => Element::F32,
            Dtype::BF16 => Element::Bf16,
            Dtype::F16 => Element::F16,
            other => return Err(wrong(format!("its {name} is of {other:?}; F32, BF16 and F16 are read"))),
        };
        let (from, to) = info.data_offsets;
        let mut bytes = vec![0; to - from];
        let read = self
            .file
            .seek(SeekFrom::Start(self.start + from as u64))
            .and_then(|_| self.file.read_exact(&mut bytes));
        read.map_err(Error::file(&self.path, "read"))?;
        let values = element.read(&bytes);
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(values),
            Some(at) => Err(Error::damaged(&self.path, format!("{name} holds {} at {at}", values[at]))),
        }
    }
}
