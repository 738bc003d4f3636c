//! Corpora that were damaged, cut short or made up are refused when they are opened or read.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};

use bheval_corpus::Corpus;
use bheval_corpus::mixture::Mixture;
use proptest::prelude::*;
use support::{Folder, bpe_options, built, options, sources, tokenizer};

fn corpus(folder: &Folder) -> PathBuf {
    let text: String = (0..300).map(|i| format!("word{} and {}\n\n", i % 17, i * i)).collect();
    let path = folder.write("a.txt", text);
    let tokenizer = tokenizer(&folder.path("tokenizer"), &[&path], &bpe_options(300));
    let out = folder.path("corpus");
    let mut options = options(Mixture::Natural);
    options.dev_share = 0.1;
    built(&sources(&[("a", &path)]), &tokenizer, &options, 1, &out).expect("built");
    out
}

fn told(out: &Path) -> String {
    Corpus::open(out).expect_err("it is refused").to_string()
}

#[test]
fn files_of_another_size_are_refused() {
    let folder = Folder::new();
    let out = corpus(&folder);
    for name in ["train-00001.bin", "train-documents.bin", "dev.bin", "dev-documents.bin"] {
        let path = out.join(name);
        let bytes = std::fs::read(&path).unwrap();
        for other in [&bytes[..bytes.len() - 1], &[], &[&bytes[..], b"x"].concat()] {
            std::fs::write(&path, other).unwrap();
            let told = told(&out);
            assert!(told.contains(name) && told.contains("corpus.json says"), "{told}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(told(&out).contains(name));
        std::fs::write(&path, &bytes).unwrap();
    }
    Corpus::open(&out).unwrap().verify().unwrap();
}

#[test]
fn a_changed_byte_is_found_by_its_hash_and_a_wild_token_by_reading() {
    let folder = Folder::new();
    let out = corpus(&folder);
    let path = out.join("train-00001.bin");
    let bytes = std::fs::read(&path).unwrap();
    let mut other = bytes.clone();
    other[10] ^= 1;
    std::fs::write(&path, &other).unwrap();
    let told = Corpus::open(&out).unwrap().verify().unwrap_err().to_string();
    assert!(told.contains("train-00001.bin") && told.contains("SHA-256"), "{told}");
    other[10..12].copy_from_slice(&[0xff, 0xff]);
    std::fs::write(&path, &other).unwrap();
    let corpus = Corpus::open(&out).unwrap();
    let told = corpus.train().tokens(900..1100).unwrap_err().to_string();
    assert!(told.contains("train-00001.bin: token 5 is 65535, beyond the vocabulary"), "{told}");
    assert!(corpus.train().tokens(0..1000).is_ok());
}

#[test]
fn an_index_that_makes_no_sense_is_refused() {
    let folder = Folder::new();
    let out = corpus(&folder);
    let path = out.join("train-documents.bin");
    let bytes = std::fs::read(&path).unwrap();
    let refused = |at: usize, value: &[u8], part: &str| {
        let mut other = bytes.clone();
        other[at..at + value.len()].copy_from_slice(value);
        std::fs::write(&path, other).unwrap();
        let told = told(&out);
        assert!(told.contains("train-documents.bin") && told.contains(part), "{told}");
    };
    refused(0, &1_u64.to_le_bytes(), "do not follow each other");
    refused(16, &0_u64.to_le_bytes(), "do not follow each other");
    refused(32, &u64::MAX.to_le_bytes(), "do not follow each other");
    refused(bytes.len() - 16, &u64::MAX.to_le_bytes(), "do not follow each other");
    refused(8, &u32::MAX.to_le_bytes(), "its words are not those");
    refused(12, &1_u32.to_le_bytes(), "of domain 1, and corpus.json has 1");
}

#[test]
fn records_that_are_none_are_refused() {
    let folder = Folder::new();
    let out = corpus(&folder);
    let path = out.join("corpus.json");
    let record = std::fs::read_to_string(&path).unwrap();
    let refused = |from: &str, to: &str, part: &str| {
        assert!(record.contains(from), "{from}");
        std::fs::write(&path, record.replacen(from, to, 1)).unwrap();
        let told = told(&out);
        assert!(told.contains(part), "{told}");
    };
    refused("\"version\": 1", "\"version\": 2", "version 2; this program reads");
    refused("bheval-corpus", "other", "\"other\"");
    refused("\"seed\": 7", "\"seed\": 7, \"more\": 1", "unknown field `more`");
    refused("\"seed\": 7", "\"seed\": -1", "not a record");
    refused("\"token_bytes\": 2", "\"token_bytes\": 0", "tokens of 0 bytes");
    refused("\"vocab\": 300", "\"vocab\": 70000", "needs 4");
    refused("\"train-00000.bin\"", "\"../train-00000.bin\"", "not the plain name");
    refused("\"train-00000.bin\"", "\"/etc/passwd\"", "not the plain name");
    refused("\"tokens\": 1000", "\"tokens\": 18446744073709551615", "more than there can be");
    refused("\"tokens\": 1000", "\"tokens\": 1001", "corpus.json says");
    std::fs::write(&path, &record[..record.len() / 2]).unwrap();
    assert!(told(&out).contains("not a record"));
    std::fs::remove_file(&path).unwrap();
    assert!(
        told(&out).contains("this is no corpus") && told(&folder.path("none")).contains("this is no corpus")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Any digit, letter or mark of the record changed: refused, or a corpus all of whose tokens can be read or are refused.
    #[test]
    fn a_changed_record_is_survived(at in 0_usize..20_000, to in "[0-9a-z\\[\\]{}\",:]") {
        use std::sync::OnceLock;
        static MADE: OnceLock<(Folder, PathBuf, String)> = OnceLock::new();
        let (_, out, record) = MADE.get_or_init(|| {
            let folder = Folder::new();
            let out = corpus(&folder);
            let record = std::fs::read_to_string(out.join("corpus.json")).unwrap();
            (folder, out, record)
        });
        let mut bytes = record.clone().into_bytes();
        let at = at % bytes.len();
        bytes[at] = to.as_bytes()[0];
        std::fs::write(out.join("corpus.json"), bytes).unwrap();
        if let Ok(corpus) = Corpus::open(out) {
            let train = corpus.train();
            let _ = train.tokens(0..train.len());
            let _ = (corpus.verify(), train.words_before(train.len() / 2));
        }
    }
}
