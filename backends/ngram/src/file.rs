//! A model as one file: a header, then arrays of 32-bit values, each with its CRC-32 behind it; all little-endian.
//!
//! ```text
//! header   magic (16 bytes); version, order, vocabulary V, 0 (u32 each); n-grams of orders 1 to 5 (u64 each); CRC-32
//! order 1  prob f32 [V];                 below the highest order also backoff f32 [V], child u32 [V+1]
//! order n  word u32 [c], prob f32 [c];   below the highest order also backoff f32 [c], suffix u32 [c], child u32 [c+1]
//! ```
//!
//! A reader compares the file's length with its header before it takes memory, and checks every index and every
//! probability before it uses one. The file is read and not mapped, so that nobody can change it under a model.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use bheval_abi::{Failure, Status};
use crc32fast::Hasher;

use crate::model::{Level, NgramModel};
use crate::{MAX_ORDER, MAX_VOCAB};

/// Line break and end-of-file mark are in it because a transfer as text changes them.
const MAGIC: [u8; 16] = *b"bheval-ngram\r\n\x1a\n";
const VERSION: u32 = 1;
const HEADER: usize = 16 + 4 * 4 + 8 * MAX_ORDER as usize + 4;
/// Values that are read or written at once.
const CHUNK: usize = 1 << 16;

/// What a file holds.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The model.
    pub model: NgramModel,
    /// A checksum over all of it, in hex.
    pub checksum: String,
}

/// Reads a model.
///
/// # Errors
/// A file that is missing, no model, cut short, damaged, or that contradicts itself.
pub fn read(path: &Path) -> Result<Stored, Failure> {
    let wrong = |what: String| Failure::model(format!("{}: {what}", path.display()));
    let open = || Ok((File::open(path)?, fs::metadata(path)?.len()));
    let (file, len) = open().map_err(|e: io::Error| {
        wrong(format!("{e}; --model takes the folder that `bheval train-ngram` wrote, or its model.ngram"))
    })?;
    read_from(file, len).map_err(|fault| match fault {
        Fault::Damaged(what) => wrong(format!("{what}; copy the file again, or train again")),
        Fault::Other(what) => wrong(what),
        Fault::Memory(bytes) => Failure::new(
            Status::EXHAUSTED,
            format!("{}: {bytes} bytes of memory are not to be had; the model needs them", path.display()),
        ),
    })
}

/// Writes a model beside `path`, syncs it and renames it into place; returns its checksum.
///
/// # Errors
/// What the file system refuses. Nothing is left behind then.
pub fn write(model: &NgramModel, path: &Path) -> Result<String, Failure> {
    let beside = name_beside(path);
    let done = write_synced(model, &beside).and_then(|checksum| {
        fs::rename(&beside, path)?;
        // The rename has happened; a file system that can't sync a folder only makes it last later.
        let folder = path.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
        Ok(checksum)
    });
    done.map_err(|e| {
        // The first error is the one to report; a leftover that cannot be removed adds nothing to it.
        let _ = fs::remove_file(&beside);
        Failure::new(Status::EXHAUSTED, format!("could not write {}: {e}", path.display()))
    })
}

fn name_beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let free = |n: &u32| {
        let beside = path.with_file_name(format!(".{name}.{}-{n}.tmp", std::process::id()));
        (!beside.exists()).then_some(beside)
    };
    (0..).find_map(|n| free(&n)).expect("one of four thousand million names is free")
}

fn write_synced(model: &NgramModel, path: &Path) -> io::Result<String> {
    let file = OpenOptions::new().write(true).create_new(true).open(path)?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let checksum = write_to(model, &mut out)?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    Ok(checksum)
}

/// Writes a model's bytes; returns the checksum.
///
/// # Errors
/// What the writer refuses.
pub fn write_to(model: &NgramModel, out: &mut impl Write) -> io::Result<String> {
    let header = Header { vocab: model.vocab, counts: model.ngrams() }.bytes();
    out.write_all(&header)?;
    let mut whole = Hasher::new();
    whole.update(&header);
    for (n, level) in model.levels.iter().enumerate() {
        let top = n + 1 == model.levels.len();
        if n > 0 {
            write_array(out, &mut whole, level.word.iter().copied())?;
        }
        write_array(out, &mut whole, level.prob.iter().map(|p| p.to_bits()))?;
        if !top {
            write_array(out, &mut whole, level.backoff.iter().map(|b| b.to_bits()))?;
            if n > 0 {
                write_array(out, &mut whole, level.suffix.iter().copied())?;
            }
            write_array(out, &mut whole, level.child.iter().copied())?;
        }
    }
    Ok(hex(whole))
}

fn write_array(
    out: &mut impl Write,
    whole: &mut Hasher,
    values: impl ExactSizeIterator<Item = u32>,
) -> io::Result<()> {
    let mut own = Hasher::new();
    let mut bytes = Vec::with_capacity(4 * CHUNK);
    let mut values = values.peekable();
    while values.peek().is_some() {
        bytes.clear();
        bytes.extend(values.by_ref().take(CHUNK).flat_map(u32::to_le_bytes));
        own.update(&bytes);
        out.write_all(&bytes)?;
    }
    let crc = own.finalize().to_le_bytes();
    whole.update(&crc);
    out.write_all(&crc)
}

/// The arrays' checksums stand for the arrays.
fn hex(whole: Hasher) -> String {
    format!("{:08x}", whole.finalize())
}

/// Why a file is no model.
enum Fault {
    /// It was one once.
    Damaged(String),
    /// What it says of itself rules it out.
    Other(String),
    /// Bytes that there was no room for.
    Memory(usize),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Fault::Damaged("it became shorter while it was read".into()),
            _ => Fault::Other(format!("can't be read: {error}")),
        }
    }
}

fn damaged<T>(what: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Damaged(what.into()))
}

struct Header {
    vocab: u32,
    /// As many as the order.
    counts: Vec<u64>,
}

impl Header {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for value in [VERSION, self.counts.len() as u32, self.vocab, 0] {
            bytes.extend(value.to_le_bytes());
        }
        for n in 0..MAX_ORDER as usize {
            bytes.extend(self.counts.get(n).copied().unwrap_or(0).to_le_bytes());
        }
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    fn parse(bytes: &[u8; HEADER]) -> Result<Self, Fault> {
        let value = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        if bytes[..16] != MAGIC {
            return Err(Fault::Other(
                "this is no n-gram model: `bheval train-ngram` writes them, and other formats (ARPA, KenLM) are not read"
                    .into(),
            ));
        }
        if value(HEADER - 4) != crc32fast::hash(&bytes[..HEADER - 4]) {
            return damaged("the header fails its checksum");
        }
        if value(16) != VERSION {
            return Err(Fault::Other(format!(
                "it is of format version {}, and this bheval reads version {VERSION}; train again, or use the bheval that wrote it",
                value(16)
            )));
        }
        let (order, vocab) = (value(20), value(24));
        let count = |n: usize| u64::from_le_bytes(bytes[32 + 8 * n..][..8].try_into().expect("eight bytes"));
        let all: Vec<u64> = (0..MAX_ORDER as usize).map(count).collect();
        let (counts, beyond) = all.split_at(order.min(MAX_ORDER) as usize);
        let sound = (1..=MAX_ORDER).contains(&order)
            && (1..=MAX_VOCAB).contains(&vocab)
            && counts[0] == u64::from(vocab)
            && counts.iter().all(|&c| c < u64::from(u32::MAX))
            && beyond.iter().all(|&c| c == 0)
            && value(28) == 0;
        if !sound {
            return damaged(format!(
                "the header contradicts itself (order {order}, vocabulary {vocab}, n-grams {all:?})"
            ));
        }
        Ok(Self { vocab, counts: counts.to_vec() })
    }

    /// Bytes of the whole file.
    fn file_len(&self) -> u64 {
        let level = |(n, &c): (usize, &u64)| {
            let (top, lowest) = (n + 1 == self.counts.len(), n == 0);
            let arrays = match (lowest, top) {
                (true, true) => 1,
                (false, true) => 2,
                (true, false) => 3,
                (false, false) => 5,
            };
            4 * (arrays * c + u64::from(!top) + arrays)
        };
        HEADER as u64 + self.counts.iter().enumerate().map(level).sum::<u64>()
    }
}

fn read_from(mut file: impl Read, len: u64) -> Result<Stored, Fault> {
    if len < HEADER as u64 {
        return damaged(format!("{len} bytes are fewer than a model's header has"));
    }
    let mut bytes = [0; HEADER];
    file.read_exact(&mut bytes)?;
    let header = Header::parse(&bytes)?;
    if len != header.file_len() {
        return damaged(format!("it has {len} bytes, and its header promises {}", header.file_len()));
    }
    let mut whole = Hasher::new();
    whole.update(&bytes);
    let mut arrays = Arrays { file, whole };
    let order = header.counts.len();
    let mut levels = Vec::with_capacity(order);
    for (n, &count) in header.counts.iter().enumerate() {
        levels.push(arrays.level(n, count as usize, n + 1 == order)?);
    }
    for n in 0..order {
        check(&levels, n)?;
    }
    Ok(Stored { model: NgramModel { vocab: header.vocab, levels }, checksum: hex(arrays.whole) })
}

/// The arrays behind the header.
struct Arrays<R> {
    file: R,
    whole: Hasher,
}

impl<R: Read> Arrays<R> {
    fn level(&mut self, n: usize, count: usize, top: bool) -> Result<Level, Fault> {
        let order = n + 1;
        let mut array = |what, len| self.array(&format!("{what} of order {order}"), len);
        Ok(Level {
            word: if n > 0 { array("words", count)? } else { vec![] },
            prob: floats(array("probabilities", count)?),
            backoff: if top { vec![] } else { floats(array("back-off weights", count)?) },
            suffix: if top || n == 0 { vec![] } else { array("suffixes", count)? },
            child: if top { vec![] } else { array("children", count + 1)? },
        })
    }

    fn array(&mut self, what: &str, len: usize) -> Result<Vec<u32>, Fault> {
        let mut values = Vec::new();
        values.try_reserve_exact(len).map_err(|_| Fault::Memory(4 * len))?;
        let mut own = Hasher::new();
        let mut bytes = vec![0; 4 * CHUNK.min(len)];
        while values.len() < len {
            let part = &mut bytes[..4 * CHUNK.min(len - values.len())];
            self.file.read_exact(part)?;
            own.update(part);
            let (fours, _) = part.as_chunks::<4>();
            values.extend(fours.iter().map(|&four| u32::from_le_bytes(four)));
        }
        let mut crc = [0; 4];
        self.file.read_exact(&mut crc)?;
        self.whole.update(&crc);
        if u32::from_le_bytes(crc) != own.finalize() {
            return damaged(format!("the {what} fail their checksum"));
        }
        Ok(values)
    }
}

fn floats(bits: Vec<u32>) -> Vec<f32> {
    bits.into_iter().map(f32::from_bits).collect()
}

/// Whether the n-grams of order `n + 1` are such that no lookup can leave the arrays or give what is no probability.
fn check(levels: &[Level], n: usize) -> Result<(), Fault> {
    let (level, order) = (&levels[n], n + 1);
    // Neither holds for NaN.
    let fair = |p: &f32| *p > 0.0 && *p <= 1.0;
    if !level.prob.iter().all(fair) || !level.backoff.iter().all(fair) {
        return damaged(format!("a value of order {order} is no probability above 0"));
    }
    if n > 0 && level.suffix.iter().any(|&s| s as usize >= levels[n - 1].prob.len()) {
        return damaged(format!("an n-gram of order {order} has a suffix that does not exist"));
    }
    let Some(above) = levels.get(n + 1) else { return Ok(()) };
    let ends = (level.child.first(), level.child.last());
    if ends != (Some(&0), Some(&(above.word.len() as u32))) || !level.child.is_sorted() {
        return damaged(format!("the children of order {order} are out of order"));
    }
    let vocab = levels[0].prob.len();
    let siblings = level.child.windows(2).map(|pair| &above.word[pair[0] as usize..pair[1] as usize]);
    for words in siblings {
        if words.last().is_some_and(|&w| w as usize >= vocab) || !words.is_sorted_by(|a, b| a < b) {
            return damaged(format!(
                "words of order {} are out of order or beyond the vocabulary",
                order + 1
            ));
        }
    }
    Ok(())
}
