//! Saved models: whatever the two files hold, a model that scores or a refusal with a reason.

use std::fs;

use bheval_host::{Dtype, Error, Forest, Library, Model, ModelOptions, Route, Status};
use serde_json::{Value, json};

use super::scratch::folder;
use super::tiny::{self, Named};

/// The configuration of the golden checkpoint `hgrn2_conv`.
const GOLDEN: &str = include_str!("../../fuzz/seeds/golden_config.json");
/// The most bytes of tensors that are put behind a header that came from outside.
const DATA: usize = 1 << 16;

/// Opens a model. The first byte says what the others are: both files, the header of the weights, or changes to a model
/// that is whole.
///
/// # Panics
/// Where the backend panics, gives no reason, or a score that can't be right.
pub fn safetensors(bytes: &[u8]) {
    let (config, weights) = match bytes {
        [] => return,
        [0, files @ ..] => as_they_are(files),
        [1, header @ ..] => (GOLDEN.to_owned().into_bytes(), headed(header)),
        [_, changes @ ..] => changed(changes),
    };
    let folder = folder("model");
    fs::write(folder.join("config.json"), config).expect("the temporary folder can be written");
    fs::write(folder.join("model.safetensors"), weights).expect("the temporary folder can be written");
    let library = Library::linked(&bheval_candle::HGRN2).expect("the linked table is whole");
    let options = ModelOptions { path: folder, threads: 1, dtype: Dtype::F32, memory: 1 << 20 };
    match Model::open(&library, &options) {
        Ok(mut model) => scores(&mut model),
        Err(error) => refused(&error),
    }
}

/// The length of the first file in two bytes, then both.
fn as_they_are(files: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let Some((length, files)) = files.split_first_chunk::<2>() else { return (vec![], vec![]) };
    let (config, weights) = files.split_at(usize::from(u16::from_le_bytes(*length)).min(files.len()));
    (config.to_vec(), weights.to_vec())
}

/// A header that came from outside, with its right length and as much data as it claims, within bounds.
fn headed(header: &[u8]) -> Vec<u8> {
    let header = String::from_utf8_lossy(header);
    let claimed = serde_json::from_str::<Value>(&header).ok().and_then(|header| {
        let end = |tensor: &Value| tensor["data_offsets"][1].as_u64();
        header.as_object()?.values().filter_map(end).max()
    });
    tiny::with_header(&header, &vec![0; claimed.unwrap_or(0).min(DATA as u64) as usize])
}

/// The tiny model with changes of three bytes each: what, which one, and how.
fn changed(changes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut config = tiny::config();
    let mut tensors = tiny::tensors();
    for &[what, which, how] in changes.as_chunks::<3>().0.iter().take(6) {
        if what % 2 == 0 {
            let key = KEYS[usize::from(which) % KEYS.len()];
            let values = values();
            config.insert(key.to_owned(), values[usize::from(how) % values.len()].clone());
        } else {
            let at = usize::from(which) % tensors.len();
            change_tensor(&mut tensors, at, how);
        }
    }
    (Value::Object(config).to_string().into_bytes(), tiny::file(&tensors))
}

const KEYS: [&str; 16] = [
    "hidden_size",
    "num_hidden_layers",
    "vocab_size",
    "expand_ratio",
    "num_heads",
    "intermediate_size",
    "use_lower_bound",
    "use_short_conv",
    "conv_size",
    "elementwise_affine",
    "norm_eps",
    "g_norm_eps",
    "tie_word_embeddings",
    "hidden_act",
    "model_type",
    "attn",
];

fn values() -> [Value; 16] {
    [
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(1),
        json!(2),
        json!(3),
        json!(8),
        json!(2_147_483_647),
        json!(u64::MAX),
        json!(-1),
        json!(0.5),
        json!(1e-300),
        json!("silu"),
        json!([]),
        json!({}),
    ]
}

fn change_tensor(tensors: &mut Vec<Named>, at: usize, how: u8) {
    let tensor = &mut tensors[at];
    let amount = usize::from(how >> 4);
    match how % 12 {
        0 => drop(tensors.remove(at)),
        1 => tensor.shape.reverse(),
        2 => tensor.shape.push(1),
        3 => {
            // An axis of any small length, 0 among them, with the data that fits.
            tensor.shape[0] = amount;
            fit(tensor);
        }
        4 => {
            let last = tensor.shape.len() - 1;
            tensor.shape[last] = amount;
            fit(tensor);
        }
        5 => tensor.shape[0] = usize::MAX,
        6 => tensor.dtype = ["F16", "BF16", "F64", "I64", "F8_E4M3", "F4", "BOOL", "C64"][amount % 8],
        7 => {
            let special = [f32::NAN, f32::INFINITY, f32::MAX, -f32::MAX, 1e-45, 0.0, -0.0, 1e20];
            if let Some(first) = tensor.data.first_chunk_mut() {
                *first = special[amount % 8].to_le_bytes();
            }
        }
        8 => tensor.data.iter_mut().for_each(|byte| *byte = 0),
        9 => tensor.data.truncate(amount),
        10 => {
            let size = if amount % 2 == 0 { 1e18_f32 } else { -3e38 };
            tensor.data.chunks_exact_mut(4).for_each(|x| x.copy_from_slice(&size.to_le_bytes()));
        }
        _ => {
            // Half as wide a number, with the data that fits: files of bf16 are common.
            tensor.dtype = if amount % 2 == 0 { "F16" } else { "BF16" };
            tensor.data.truncate(tensor.data.len() / 2);
        }
    }
}

/// Gives a tensor as much data as its shape needs, within bounds.
fn fit(tensor: &mut Named) {
    let count = tensor.shape.iter().fold(1, |product: usize, &axis| product.saturating_mul(axis));
    tensor.data.resize(count.saturating_mul(4).min(DATA), 0);
}

fn refused(error: &Error) {
    match error {
        Error::Refused { status, text, .. } => {
            assert!(![Status::PANIC, Status::INTERNAL].contains(status), "{text}");
            assert!(!text.is_empty());
        }
        other => panic!("the backend broke its contract: {other}"),
    }
}

/// A model that opened scores, unless its weights are too large for f32.
fn scores(model: &mut Model) {
    let last = model.info().vocab - 1;
    let mut forest = Forest::new();
    forest.insert(&[0, last, 0, last], &[false, true, true, true]);
    forest.insert(&[0, last, last], &[false, true, true]);
    match model.score(&forest, Route::Forest) {
        Ok(scored) => assert!(forest.wanted().all(|node| scored.log_prob[node].is_finite())),
        Err(Error::Refused { status, text, .. }) => assert_eq!(status, Status::NOT_FINITE, "{text}"),
        Err(other) => panic!("{other}"),
    }
}
