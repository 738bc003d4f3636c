//! A finished corpus, opened.

use std::path::{Component, Path, PathBuf};

use bheval_data::digest::sha256_hex;

use crate::Error;
use crate::record::{FORMAT, RECORD_FILE, Record, SplitRecord, TOKENIZER_FOLDER, VERSION};
use crate::split::Split;

/// The longest record that is read.
const RECORD_LIMIT: u64 = 64 << 20;

/// A corpus that `bheval corpus build` wrote: its record, checked, and its files, mapped.
#[derive(Debug)]
pub struct Corpus {
    folder: PathBuf,
    record: Record,
    sha256: String,
    train: Split,
    dev: Option<Split>,
}

impl Corpus {
    /// Opens the corpus in a folder. Sizes of all files and the index of documents are held against the record; contents are
    /// held against its SHA-256 by [`Corpus::verify`].
    ///
    /// # Errors
    /// A folder without a record, a record of another version, files that are missing, cut short or do not fit together.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(RECORD_FILE);
        let bytes = read_record(&path)?;
        let record = parse(&path, &bytes)?;
        check(&path, &record)?;
        let train = Split::open(folder, &record, &record.train)?;
        let dev = record.dev.as_ref().map(|dev| Split::open(folder, &record, dev)).transpose()?;
        Ok(Self { folder: folder.to_owned(), sha256: sha256_hex(&bytes), record, train, dev })
    }

    /// Compares every file with its SHA-256, which takes a second for each GB or so.
    ///
    /// # Errors
    /// The first file that is not what the record says.
    pub fn verify(&self) -> Result<(), Error> {
        self.train.verify(&self.folder, &self.record.train)?;
        match (&self.dev, &self.record.dev) {
            (Some(dev), Some(record)) => dev.verify(&self.folder, record),
            _ => Ok(()),
        }
    }

    /// The record.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// SHA-256 of the record, which names the digest of every file: of the whole corpus, so to speak.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// What is trained on.
    #[must_use]
    pub fn train(&self) -> &Split {
        &self.train
    }

    /// What is held out, where the corpus has that.
    #[must_use]
    pub fn dev(&self) -> Option<&Split> {
        self.dev.as_ref()
    }

    /// The folder that it was opened from.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder of the tokenizer that cut it: a copy within the corpus.
    #[must_use]
    pub fn tokenizer_folder(&self) -> PathBuf {
        self.folder.join(TOKENIZER_FOLDER)
    }
}

fn read_record(path: &Path) -> Result<Vec<u8>, Error> {
    let size = match std::fs::metadata(path) {
        Ok(found) => found.len(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::corpus(
                path,
                "not there, so this is no corpus; `bheval corpus build -o DIR` makes one",
            ));
        }
        Err(e) => return Err(Error::io("read", path)(e)),
    };
    if size > RECORD_LIMIT {
        return Err(Error::corpus(path, format!("{size} bytes are no record of a corpus")));
    }
    std::fs::read(path).map_err(Error::io("read", path))
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Record, Error> {
    let broken = |e: serde_json::Error| {
        Error::corpus(path, format!("not a record of a corpus: {e}; copy or build the corpus again"))
    };
    // The version first: a later one may have fields of another kind.
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(broken)?;
    let (format, version) = (&value["format"], &value["version"]);
    if format != FORMAT || version != VERSION {
        return Err(Error::corpus(
            path,
            format!("format {format}, version {version}; this program reads \"{FORMAT}\", version {VERSION}"),
        ));
    }
    serde_json::from_value(value).map_err(broken)
}

fn check(path: &Path, record: &Record) -> Result<(), Error> {
    let wrong = |reason: String| Err(Error::corpus(path, reason + "; copy or build the corpus again"));
    let width = token_bytes(record.tokenizer.vocab);
    if record.token_bytes != width {
        return wrong(format!(
            "tokens of {} bytes, where a vocabulary of {} needs {width}",
            record.token_bytes, record.tokenizer.vocab
        ));
    }
    let files = |split: &SplitRecord| {
        let shards = split.shards.iter().map(|s| s.file.clone());
        shards.chain([split.index.file.clone()]).collect::<Vec<_>>()
    };
    let splits = [Some(&record.train), record.dev.as_ref()];
    for file in splits.into_iter().flatten().flat_map(files) {
        let mut parts = Path::new(&file).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            return wrong(format!("{file:?} is not the plain name of a file beside it"));
        }
    }
    Ok(())
}

/// Bytes of a token: 2 where all ids fit, else 4.
pub(crate) fn token_bytes(vocab: u32) -> u32 {
    if vocab <= 1 << 16 { 2 } else { 4 }
}
