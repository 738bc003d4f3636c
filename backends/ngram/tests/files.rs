//! The model's file: what is written is read back, and everything else is refused, never a panic.

mod support;

use std::path::Path;

use bheval_abi::{Dtype, Failure, LanguageModel, Opening, Status};
use bheval_ngram::config::{CONFIG_FILE, Config, MODEL_FILE};
use bheval_ngram::file::{read, write, write_to};
use bheval_ngram::model::{NgramModel, State};
use bheval_ngram::{MAX_ORDER, Ngram};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use support::{Gram, train};

const HEADER: usize = 76;

fn model(order: u32) -> NgramModel {
    let sequences: Vec<Gram> =
        (0..30_u32).map(|i| (0..9).map(|k| (i * k + i / 3 + k * k) % 7).collect()).collect();
    train(8, order, &sequences, 1).model
}

fn bytes(model: &NgramModel) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_to(model, &mut bytes).expect("memory takes everything");
    bytes
}

fn read_bytes(bytes: &[u8]) -> Result<NgramModel, Failure> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(MODEL_FILE);
    std::fs::write(&path, bytes).expect("written");
    read(&path).map(|stored| stored.model)
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Failure>, parts: &[&str]) {
    let text = result.expect_err("should be refused").text;
    for part in parts {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}

/// Where the arrays lie: begin and length in bytes, by the layout that the module's documentation gives.
fn arrays(bytes: &[u8]) -> Vec<(usize, usize)> {
    let value = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize;
    let order = value(20);
    let mut all = Vec::new();
    let mut at = HEADER;
    for n in 0..order {
        let count = value(32 + 8 * n);
        let lens = match (n == 0, n + 1 == order) {
            (true, true) => vec![count],
            (true, false) => vec![count, count, count + 1],
            (false, true) => vec![count, count],
            (false, false) => vec![count, count, count, count, count + 1],
        };
        for len in lens {
            all.push((at, 4 * len));
            at += 4 * len + 4;
        }
    }
    assert_eq!(at, bytes.len(), "the layout is as documented");
    all
}

/// Makes every checksum right again.
fn seal(bytes: &mut [u8], arrays: &[(usize, usize)]) {
    let crc = crc32fast::hash(&bytes[..HEADER - 4]);
    bytes[HEADER - 4..HEADER].copy_from_slice(&crc.to_le_bytes());
    for &(at, len) in arrays {
        let crc = crc32fast::hash(&bytes[at..at + len]);
        bytes[at + len..at + len + 4].copy_from_slice(&crc.to_le_bytes());
    }
}

#[test]
fn what_is_written_is_read_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(MODEL_FILE);
    for order in 1..=MAX_ORDER {
        let model = model(order);
        let checksum = write(&model, &path).expect("written");
        let stored = read(&path).expect("read");
        assert_eq!((&stored.model, &stored.checksum), (&model, &checksum));
        assert_eq!(arrays(&bytes(&model)).len(), [1, 5, 10, 15, 20][order as usize - 1]);
    }
    let names: Vec<_> = std::fs::read_dir(folder.path()).expect("a folder").collect();
    assert_eq!(names.len(), 1, "nothing is left beside: {names:?}");
}

#[test]
fn every_flipped_byte_is_noticed() {
    let whole = bytes(&model(3));
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        refused(read_bytes(&damaged), &[MODEL_FILE]);
    }
}

#[test]
fn every_missing_end_is_noticed_and_every_surplus() {
    let whole = bytes(&model(2));
    for len in 0..whole.len() {
        refused(read_bytes(&whole[..len]), &[MODEL_FILE, "copy the file again"]);
    }
    refused(read_bytes(&[&whole[..], &[0]].concat()), &["bytes, and its header promises"]);
}

#[test]
fn a_header_that_promises_much_takes_no_memory() {
    let mut bytes = bytes(&model(5));
    for n in 1..5 {
        bytes[32 + 8 * n..40 + 8 * n].copy_from_slice(&u64::from(u32::MAX - 1).to_le_bytes());
    }
    seal(&mut bytes, &[]);
    // With c = 2^32 - 2: 4 (3·8 + 1 + 3  +  3 (5 c + 1 + 5)  +  2 c + 2) + 76.
    refused(read_bytes(&bytes), &["its header promises 292057776260"]);
    bytes[40..48].copy_from_slice(&u64::MAX.to_le_bytes());
    seal(&mut bytes, &[]);
    refused(read_bytes(&bytes), &["contradicts itself"]);
}

#[test]
fn a_forged_header_is_refused() {
    let model = model(3);
    let whole = bytes(&model);
    for at in (0..HEADER - 4).step_by(4) {
        for value in [0, 1, 2, 4, 5, 6, 9, 1 << 24, u32::MAX] {
            let mut forged = whole.clone();
            forged[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
            let unchanged = forged == whole;
            seal(&mut forged, &[]);
            assert_eq!(read_bytes(&forged).is_ok(), unchanged, "{value} at {at}");
        }
    }
}

#[test]
fn other_files_and_versions_are_named_as_such() {
    refused(read_bytes(&[b'x'; 500]), &["no n-gram model", "ARPA"]);
    let mut bytes = bytes(&model(2));
    bytes[16] = 2;
    seal(&mut bytes, &[]);
    refused(read_bytes(&bytes), &["format version 2"]);
    let folder = tempfile::tempdir().expect("a folder");
    refused(read(&folder.path().join("none.ngram")), &["none.ngram", "train-ngram"]);
}

#[test]
fn values_that_are_no_probabilities_are_refused() {
    for (value, array) in [(f32::NAN, 0), (0.0, 0), (-0.5, 1), (1.5, 4), (f32::INFINITY, 5)] {
        let mut bytes = bytes(&model(3));
        let arrays = arrays(&bytes);
        let at = arrays[array].0 + 8;
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        seal(&mut bytes, &arrays);
        refused(read_bytes(&bytes), &["no probability"]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// With right checksums: whatever is let in can be walked.
    #[test]
    fn a_forged_file_is_refused_or_harmless(
        order in 1_u32..=5,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0_u32..40), 1..4),
        walk in prop::collection::vec(0_u32..8, 60),
    ) {
        let mut bytes = bytes(&model(order));
        let arrays = arrays(&bytes);
        for (array, place, value) in edits {
            let (at, len) = *array.get(&arrays);
            let at = at + 4 * place.index(len / 4);
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        seal(&mut bytes, &arrays);
        if let Ok(model) = read_bytes(&bytes) {
            let mut state = State::EMPTY;
            let mut row = [0.0; 8];
            for token in walk {
                let (p, next) = model.step(state, token);
                prop_assert!(p > 0.0 && p <= 1.0);
                model.log_probs(state, &mut row);
                prop_assert!(row.iter().all(|l| l.is_finite() && *l <= 0.0));
                state = next;
            }
        }
    }
}

/// A model's folder, with a config that `edit` had its way with.
fn folder(edit: impl FnOnce(&mut Map<String, Value>)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let model = model(3);
    let checksum = write(&model, &folder.path().join(MODEL_FILE)).expect("written");
    let config = Config { vocab: model.vocab(), order: model.order(), checksum, more: Map::new() };
    let mut config = config.to_json();
    edit(config.as_object_mut().expect("an object"));
    std::fs::write(folder.path().join(CONFIG_FILE), config.to_string()).expect("written");
    folder
}

fn open(path: &Path, dtype: Dtype) -> Result<Ngram, Failure> {
    Ngram::open(&Opening { path: path.to_owned(), threads: 1, dtype, memory: 1 << 20 })
}

#[test]
fn a_folder_or_the_file_itself_is_opened() {
    let folder = folder(|_| ());
    for path in [folder.path().to_owned(), folder.path().join(MODEL_FILE)] {
        let opened = open(&path, Dtype::F32).expect("opened");
        let info = opened.info();
        assert_eq!((info.vocab, info.context, &*info.architecture), (8, 0, "ngram"));
        assert_eq!(info.parameters, model(3).ngrams().iter().sum::<u64>());
    }
    assert_eq!(open(folder.path(), Dtype::BF16).expect_err("refused").status, Status::UNSUPPORTED);
}

#[test]
fn a_config_that_does_not_fit_the_file_is_refused() {
    let with = |key: &str, value: Value| {
        let folder = folder(|c| {
            if value.is_null() {
                c.remove(key)
            } else {
                c.insert(key.into(), value)
            };
        });
        open(folder.path(), Dtype::F32)
    };
    refused(with("vocab_size", json!(9)), &["`vocab_size` is 9", "8"]);
    refused(with("order", json!(5)), &["`order` is 5"]);
    refused(with("checksum", json!("00000000")), &["`checksum` is 00000000", "different models"]);
    refused(with("model_type", json!("gpt2")), &["gpt2", "ngram"]);
    refused(with("order", json!(-1)), &["`order` is -1", "whole number"]);
    for key in ["vocab_size", "order", "checksum", "model_type"] {
        refused(with(key, Value::Null), &[key, "missing"]);
    }
    let empty = tempfile::tempdir().expect("a folder");
    refused(open(empty.path(), Dtype::F32), &["config.json", "train-ngram"]);
    std::fs::write(empty.path().join(CONFIG_FILE), "[1]").expect("written");
    refused(open(empty.path(), Dtype::F32), &["not a JSON object"]);
}
