//! Texts, packings and a small tokenizer for tests.
#![allow(dead_code, reason = "each test binary uses some of it")]

use std::io::Write;
use std::path::{Path, PathBuf};

use bheval_corpus::bpe::{BpeOptions, Normalizer, Special, train_bpe};
use bheval_corpus::build::{BuildOptions, build, is_corpus_file};
use bheval_corpus::mixture::{Asked, Mixture};
use bheval_corpus::record::Record;
use bheval_corpus::source::{DocumentReader, RawDocument, SourceError, SourceFile};
use bheval_corpus::sources::{Reading, Source, Sources};
use bheval_corpus::{Corpus, Effort, Error, Target};
use tempfile::TempDir;

/// A folder, removed when dropped.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(TempDir::new().expect("a folder"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(&path, bytes).expect("written");
        path
    }
}

/// Bytes as a file of this ending holds them.
pub(crate) fn packed(end: &str, bytes: &[u8]) -> Vec<u8> {
    match end {
        ".zst" => zstd::encode_all(bytes, 3).expect("packed"),
        ".xz" => {
            let mut writer = liblzma::write::XzEncoder::new(Vec::new(), 1);
            writer.write_all(bytes).expect("packed");
            writer.finish().expect("packed")
        }
        ".gz" => {
            let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            writer.write_all(bytes).expect("packed");
            writer.finish().expect("packed")
        }
        _ => bytes.to_vec(),
    }
}

pub(crate) fn file(path: &Path) -> SourceFile {
    Reading::default().source(path.to_owned(), "any").file
}

pub(crate) fn documents(source: &SourceFile) -> Result<Vec<RawDocument>, SourceError> {
    let mut reader = DocumentReader::open(source, None)?;
    let mut all = Vec::new();
    while let Some(document) = reader.read()? {
        all.push(document);
    }
    reader.finish()?;
    Ok(all)
}

pub(crate) fn texts(path: &Path) -> Result<Vec<String>, SourceError> {
    Ok(documents(&file(path))?.into_iter().map(|d| d.text).collect())
}

pub(crate) fn effort(threads: usize) -> Effort {
    Effort { threads, watch: None }
}

pub(crate) fn bpe_options(vocab: u32) -> BpeOptions {
    BpeOptions {
        vocab,
        min_frequency: 2,
        normalizer: Normalizer::None,
        special: Special::default(),
        add_prefix_space: false,
        sample: 1.0,
    }
}

pub(crate) fn sources(files: &[(&str, &Path)]) -> Sources {
    let train =
        files.iter().map(|(name, path)| Reading::default().source(path.to_path_buf(), name)).collect();
    Sources { train, ..Sources::default() }
}

pub(crate) fn source(name: &str, path: &Path) -> Source {
    Reading::default().source(path.to_owned(), name)
}

/// Trains a tokenizer on files and saves it in a folder.
pub(crate) fn tokenizer(folder: &Path, files: &[&Path], options: &BpeOptions) -> PathBuf {
    let sources: Vec<_> = files.iter().map(|path| source("any", path)).collect();
    std::fs::create_dir_all(folder).expect("made");
    train_bpe(&sources, options, &effort(2), || {}).expect("trained").save(folder).expect("saved");
    folder.to_owned()
}

pub(crate) fn options(mixture: Mixture) -> BuildOptions {
    BuildOptions {
        mixture,
        asked: Asked::default(),
        allow_short: false,
        dev_share: 0.0,
        seed: 7,
        bos: true,
        shard_tokens: 1000,
        program: "test".into(),
    }
}

pub(crate) fn built(
    sources: &Sources,
    tokenizer: &Path,
    options: &BuildOptions,
    threads: usize,
    out: &Path,
) -> Result<Record, Error> {
    let target = Target::new(out, false, "corpus.json", is_corpus_file)?;
    build(sources, tokenizer, options, &effort(threads), &target, |_| {})
}

/// A split's documents as text, with their domains' names and words.
pub(crate) fn decoded(corpus: &Corpus, split: &bheval_corpus::Split) -> Vec<(String, String, u32)> {
    let tokenizer = bheval_data::tokenizer::Tokenizer::load(&corpus.tokenizer_folder()).expect("a tokenizer");
    let ends = split.documents().iter().skip(1).map(|d| d.start).chain([split.len()]);
    let one = |(document, end): (&bheval_corpus::Document, u64)| {
        let text = tokenizer.decode(&split.tokens(document.start..end).expect("tokens")).expect("text");
        (corpus.record().domains[document.domain as usize].name.clone(), text, document.words)
    };
    split.documents().iter().zip(ends).map(one).collect()
}

/// Every file below a folder with its bytes.
pub(crate) fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            all.extend(contents(&path));
        } else {
            let bytes = std::fs::read(&path).expect("read");
            all.push((path, bytes));
        }
    }
    all.sort();
    all
}

/// The folder of real data.
pub(crate) fn data(name: &str) -> PathBuf {
    let folder = std::env::var_os("BHEVAL_DATA").expect("BHEVAL_DATA names the folder of data sets");
    PathBuf::from(folder).join(name)
}
