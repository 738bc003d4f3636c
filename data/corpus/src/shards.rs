//! Writing tokens: documents are cut in the order they are read in, spooled, and put into shards in their final order.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bheval_data::digest::hex;
use sha2::{Digest, Sha256};

use crate::Error;
use crate::index::Document;
use crate::record::{Amount, FileRecord, ShardRecord, SplitRecord};

/// Tokens in the bytes that a corpus stores them in.
pub(crate) fn push_token(bytes: &mut Vec<u8>, id: u32, width: u32) -> Result<(), u32> {
    if width == 2 {
        bytes.extend_from_slice(&u16::try_from(id).map_err(|_| id)?.to_le_bytes());
    } else {
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    Ok(())
}

/// Cut documents, one after the other, until their place is known.
pub(crate) struct Spool {
    path: PathBuf,
    file: BufWriter<File>,
    end: u64,
}

impl Spool {
    pub(crate) fn new(path: PathBuf) -> Result<Self, Error> {
        let file = File::create_new(&path).map_err(Error::io("write", &path))?;
        Ok(Self { file: BufWriter::with_capacity(1 << 20, file), path, end: 0 })
    }

    /// Adds a document; gives where it begins.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<u64, Error> {
        self.file.write_all(bytes).map_err(Error::io("write", &self.path))?;
        let start = self.end;
        self.end += bytes.len() as u64;
        Ok(start)
    }

    /// From writing to reading.
    pub(crate) fn reader(self) -> Result<SpoolReader, Error> {
        let failed = |e: std::io::IntoInnerError<_>| Error::io("write", &self.path)(e.into_error());
        drop(self.file.into_inner().map_err(failed)?);
        let file = File::open(&self.path).map_err(Error::io("read", &self.path))?;
        Ok(SpoolReader { path: self.path, file })
    }
}

/// Reads spooled documents.
pub(crate) struct SpoolReader {
    path: PathBuf,
    file: File,
}

impl SpoolReader {
    pub(crate) fn read(&mut self, start: u64, bytes: &mut [u8]) -> Result<(), Error> {
        self.file.seek(SeekFrom::Start(start)).map_err(Error::io("read", &self.path))?;
        self.file.read_exact(bytes).map_err(Error::io("read", &self.path))
    }

    /// Removes the file.
    pub(crate) fn remove(self) -> Result<(), Error> {
        drop(self.file);
        std::fs::remove_file(&self.path).map_err(Error::io("remove", &self.path))
    }
}

/// A file that is digested while it is written.
struct Digested {
    path: PathBuf,
    name: String,
    file: BufWriter<File>,
    hasher: Sha256,
}

impl Digested {
    fn new(folder: &Path, name: String) -> Result<Self, Error> {
        let path = folder.join(&name);
        let file = File::create_new(&path).map_err(Error::io("write", &path))?;
        Ok(Self { file: BufWriter::with_capacity(1 << 20, file), path, name, hasher: Sha256::new() })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(Error::io("write", &self.path))
    }

    fn finish(self) -> Result<FileRecord, Error> {
        let failed = |e: std::io::IntoInnerError<_>| Error::io("write", &self.path)(e.into_error());
        self.file.into_inner().map_err(failed)?.sync_all().map_err(Error::io("sync", &self.path))?;
        Ok(FileRecord { file: self.name, sha256: hex(&self.hasher.finalize()) })
    }
}

/// Writes the files of one split.
pub(crate) struct SplitWriter {
    folder: PathBuf,
    /// How shards are called: `train-` and a number, or `dev` alone.
    name: &'static str,
    numbered: bool,
    width: u32,
    /// Most tokens of a shard.
    room: u64,
    open: Option<(Digested, u64)>,
    shards: Vec<ShardRecord>,
    index: Digested,
    total: Amount,
}

impl SplitWriter {
    /// Shards of at most `room` tokens, or, without, one file.
    pub(crate) fn new(
        folder: &Path,
        name: &'static str,
        width: u32,
        room: Option<u64>,
    ) -> Result<Self, Error> {
        let index = Digested::new(folder, format!("{name}-documents.bin"))?;
        Ok(Self {
            folder: folder.to_owned(),
            name,
            numbered: room.is_some(),
            width,
            room: room.unwrap_or(u64::MAX),
            open: None,
            shards: Vec::new(),
            index,
            total: Amount::default(),
        })
    }

    /// Adds a document's tokens.
    pub(crate) fn push(&mut self, bytes: &[u8], words: u32, domain: u32) -> Result<(), Error> {
        self.index.write(&Document { start: self.total.tokens, words, domain }.to_bytes())?;
        self.total.documents += 1;
        self.total.words += u64::from(words);
        self.total.tokens += bytes.len() as u64 / u64::from(self.width);
        let mut rest = bytes;
        while !rest.is_empty() {
            let left = self.room - self.open.as_ref().map_or(self.room, |(_, tokens)| *tokens);
            if left == 0 {
                self.next_shard()?;
                continue;
            }
            let (file, tokens) = self.open.as_mut().expect("there is room in it");
            let fits = (left.saturating_mul(u64::from(self.width))).min(rest.len() as u64) as usize;
            file.write(&rest[..fits])?;
            *tokens += fits as u64 / u64::from(self.width);
            rest = &rest[fits..];
        }
        Ok(())
    }

    fn next_shard(&mut self) -> Result<(), Error> {
        self.close()?;
        let number = self.shards.len();
        let name = if self.numbered {
            format!("{}-{number:05}.bin", self.name)
        } else {
            format!("{}.bin", self.name)
        };
        self.open = Some((Digested::new(&self.folder, name)?, 0));
        Ok(())
    }

    fn close(&mut self) -> Result<(), Error> {
        if let Some((file, tokens)) = self.open.take() {
            let FileRecord { file, sha256 } = file.finish()?;
            self.shards.push(ShardRecord { file, tokens, sha256 });
        }
        Ok(())
    }

    /// Closes all files.
    pub(crate) fn finish(mut self) -> Result<SplitRecord, Error> {
        self.close()?;
        Ok(SplitRecord { total: self.total, shards: self.shards, index: self.index.finish()? })
    }
}
