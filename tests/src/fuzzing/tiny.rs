//! A tiny HGRN2 model as the two files of a saved one, written here so that nothing but code is needed.

use serde_json::{Map, Value, json};

use super::mutate::Numbers;

/// Size of the vocabulary.
pub(super) const VOCAB: u32 = 12;
const HIDDEN: usize = 8;
const INNER: usize = 6;
const LAYERS: usize = 2;

/// A tensor of the file: name, shape and values.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) dtype: &'static str,
    pub(super) shape: Vec<usize>,
    pub(super) data: Vec<u8>,
}

/// `config.json` of the model.
pub(super) fn config() -> Map<String, Value> {
    let config = json!({"model_type": "hgrn2", "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "vocab_size": VOCAB,
        "expand_ratio": 4, "intermediate_size": INNER, "use_lower_bound": true, "hidden_act": "swish"});
    config.as_object().cloned().unwrap_or_default()
}

/// Its tensors, the same each time.
pub(super) fn tensors() -> Vec<Named> {
    let mut numbers = Numbers(7);
    let mut named = |name: String, shape: &[usize]| Named {
        name,
        dtype: "F32",
        shape: shape.to_vec(),
        data: (0..shape.iter().product()).flat_map(|_| number(&mut numbers).to_le_bytes()).collect(),
    };
    let vocab = VOCAB as usize;
    let mut all = vec![
        named("model.embeddings.weight".into(), &[vocab, HIDDEN]),
        named("model.lower_bounds".into(), &[LAYERS, HIDDEN]),
        named("model.norm.weight".into(), &[HIDDEN]),
        named("lm_head.weight".into(), &[vocab, HIDDEN]),
    ];
    for layer in 0..LAYERS {
        let parts: [(&str, &[usize]); 10] = [
            ("attn_norm", &[HIDDEN]),
            ("attn.q_proj", &[HIDDEN, HIDDEN]),
            ("attn.f_proj", &[HIDDEN, HIDDEN]),
            ("attn.i_proj", &[HIDDEN, HIDDEN]),
            ("attn.g_norm", &[HIDDEN]),
            ("attn.o_proj", &[HIDDEN, HIDDEN]),
            ("mlp_norm", &[HIDDEN]),
            ("mlp.gate_proj", &[INNER, HIDDEN]),
            ("mlp.up_proj", &[INNER, HIDDEN]),
            ("mlp.down_proj", &[HIDDEN, INNER]),
        ];
        all.extend(parts.map(|(part, shape)| named(format!("model.layers.{layer}.{part}.weight"), shape)));
    }
    all
}

/// From -0.5 to 0.5.
fn number(numbers: &mut Numbers) -> f32 {
    numbers.below(1 << 16) as f32 / (1 << 16) as f32 - 0.5
}

/// The bytes of a safetensors file. Shapes are written as they are, whether or not they fit the data.
pub(super) fn file(tensors: &[Named]) -> Vec<u8> {
    let mut header = Map::new();
    let mut data = Vec::new();
    for tensor in tensors {
        let begin = data.len();
        data.extend_from_slice(&tensor.data);
        let entry =
            json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [begin, data.len()]});
        header.insert(tensor.name.clone(), entry);
    }
    with_header(&Value::Object(header).to_string(), &data)
}

/// A header, its length before it and data after it.
pub(super) fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}
