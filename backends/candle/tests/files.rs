//! Files as people have them: other layouts, number formats and shards; and what is said of damaged or foreign ones.

#![allow(clippy::print_stdout)] // Largest errors, shown by `--nocapture`.

mod support;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use bheval_abi::{Dtype, LanguageModel, Status};
use bheval_candle::Hgrn2;
use bheval_candle::models::hgrn2::{Form, Hgrn2Weights};
use candle_core::{D, DType, Device, Tensor};
use serde_json::{Value, json};
use support::{OwnedForest, golden, open, options, refused, score, sentences};
use tempfile::TempDir;

/// A copy of a golden checkpoint that a test may change.
struct Copy {
    folder: TempDir,
    config: Value,
    tensors: HashMap<String, Tensor>,
}

impl Copy {
    fn of(model: &str) -> Self {
        let config = fs::read_to_string(golden(model).join("config.json")).expect("config.json");
        Self {
            folder: TempDir::new().expect("a folder"),
            config: serde_json::from_str(&config).expect("JSON"),
            tensors: candle_core::safetensors::load(golden(model).join("model.safetensors"), &Device::Cpu)
                .expect("weights"),
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write_config(&self) {
        fs::write(self.path().join("config.json"), self.config.to_string()).expect("config.json");
    }

    fn write(&self) -> &Path {
        self.write_config();
        candle_core::safetensors::save(&self.tensors, self.path().join("model.safetensors"))
            .expect("weights");
        self.path()
    }

    fn map(&mut self, change: impl Fn(&Tensor) -> candle_core::Result<Tensor>) {
        for tensor in self.tensors.values_mut() {
            *tensor = change(tensor).expect("a tensor");
        }
    }
}

/// The scores of a few sentences.
fn scores(path: &Path) -> Vec<f32> {
    let mut forest = OwnedForest::default();
    for sentence in &sentences("hgrn2")[..6] {
        forest.chain(&sentence.ids);
    }
    score(&mut open(path, 1), &forest).into_iter().filter(|s| !s.is_nan()).collect()
}

#[test]
fn the_fused_layout_of_2024_scores_the_same() {
    let mut copy = Copy::of("hgrn2");
    for l in 0..3 {
        let name = |part: &str| format!("model.layers.{l}.mlp.{part}_proj.weight");
        let up = copy.tensors.remove(&name("up")).expect("up");
        let both = Tensor::cat(&[&copy.tensors[&name("gate")], &up], 0).expect("both");
        copy.tensors.insert(name("gate"), both);
    }
    copy.config["intermediate_size"] = Value::Null;
    copy.config["g_norm_eps"] = json!(1e-5);
    assert_eq!(scores(copy.write()), scores(&golden("hgrn2")));
    // Without a key of its own, g_norm takes the ε of the config, as the code of that time did.
    copy.config.as_object_mut().expect("an object").remove("g_norm_eps");
    let weights = Hgrn2Weights::load(copy.write(), DType::F32).expect("loads");
    assert_eq!((weights.g_norm_eps, weights.parameters), (1e-6, 240_448));
    assert_ne!(scores(copy.path()), scores(&golden("hgrn2")));
    assert_eq!(Hgrn2Weights::load(&golden("hgrn2"), DType::F32).expect("loads").g_norm_eps, 1e-5);
}

#[test]
fn sharded_files_score_the_same_and_shards_stay_in_their_folder() {
    let copy = Copy::of("hgrn2");
    copy.write_config();
    let mut map = serde_json::Map::new();
    let mut shards = [HashMap::new(), HashMap::new()];
    for (i, (name, tensor)) in copy.tensors.iter().enumerate() {
        map.insert(name.clone(), json!(format!("part{}.safetensors", i % 2)));
        shards[i % 2].insert(name.as_str(), tensor.clone());
    }
    for (i, shard) in shards.iter().enumerate() {
        candle_core::safetensors::save(shard, copy.path().join(format!("part{i}.safetensors")))
            .expect("a shard");
    }
    let index = |map: &serde_json::Map<String, Value>| {
        let text = json!({"metadata": {}, "weight_map": map}).to_string();
        fs::write(copy.path().join("model.safetensors.index.json"), text).expect("the index");
    };
    index(&map);
    assert_eq!(scores(copy.path()), scores(&golden("hgrn2")));
    for bad in ["../part0.safetensors", "/etc/passwd", "sub/part0.safetensors"] {
        let mut map = map.clone();
        map.insert("model.norm.weight".into(), json!(bad));
        index(&map);
        refused(copy.path(), &["index.json", bad, "plain file name"]);
    }
    let right = map.clone();
    let moved = if map["model.norm.weight"] == "part0.safetensors" {
        "part1.safetensors"
    } else {
        "part0.safetensors"
    };
    map.insert("model.norm.weight".into(), json!(moved));
    index(&map);
    refused(copy.path(), &[moved, "model.norm.weight", "index"]);
    index(&right);
    fs::remove_file(copy.path().join("part1.safetensors")).expect("removed");
    refused(copy.path(), &["part1.safetensors"]);
    fs::write(copy.path().join("model.safetensors.index.json"), "{}").expect("the index");
    refused(copy.path(), &["weight_map"]);
}

#[test]
fn half_precision_files_are_read_as_their_rounded_weights() {
    for dtype in [DType::BF16, DType::F16, DType::F64] {
        let mut copy = Copy::of("hgrn2");
        copy.map(|t| t.to_dtype(dtype));
        let got = scores(copy.write());
        let mut rounded = Copy::of("hgrn2");
        rounded.map(|t| t.to_dtype(dtype)?.to_dtype(DType::F32));
        assert_eq!(got, scores(rounded.write()), "{dtype:?}");
        // The same rounded weights through the definition.
        let weights = Hgrn2Weights::load(copy.path(), DType::F64).expect("loads");
        let mut exact = vec![];
        for sentence in &sentences("hgrn2")[..6] {
            let logits = weights.forward(&sentence.ids, Form::Recurrent).expect("a forward pass").logits;
            let sums = logits.log_sum_exp(D::Minus1).and_then(|s| s.to_vec1::<f64>()).expect("sums");
            let rows = logits.to_vec2::<f64>().expect("rows");
            let pairs = sentence.ids[1..].iter().zip(rows.iter().zip(sums));
            exact.extend(pairs.map(|(&id, (row, sum))| row[id as usize] - sum));
        }
        let worst = got.iter().zip(&exact).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
        println!("{dtype:?}: forest scorer against the definition in f64 {worst:.1e}");
        assert!(got.len() == exact.len() && worst <= 5e-5);
    }
}

#[test]
fn a_head_may_be_tied_or_not_but_not_both() {
    let mut copy = Copy::of("hgrn2");
    let head = copy.tensors.remove("lm_head.weight").expect("a head");
    refused(copy.write(), &["lm_head.weight", "missing", "model.safetensors"]);
    copy.config["tie_word_embeddings"] = json!(true);
    let tied = scores(copy.write());
    assert_eq!(open(copy.path(), 1).info().parameters, 240_448 - 768 * 64);
    copy.tensors.insert("lm_head.weight".into(), copy.tensors["model.embeddings.weight"].clone());
    assert_eq!(scores(copy.write()), tied);
    copy.config["tie_word_embeddings"] = json!(false);
    assert_eq!(scores(copy.write()), tied);
    copy.config["tie_word_embeddings"] = json!(true);
    copy.tensors.insert("lm_head.weight".into(), head);
    refused(copy.write(), &["tie_word_embeddings", "lm_head.weight", "differs"]);
}

#[test]
fn missing_and_foreign_keys_are_named() {
    for key in ["hidden_size", "vocab_size", "num_hidden_layers", "model_type"] {
        let mut copy = Copy::of("hgrn2");
        copy.config.as_object_mut().expect("an object").remove(key);
        refused(copy.write(), &[key, "config.json"]);
    }
    let mut copy = Copy::of("hgrn2");
    copy.config["attn"] = json!({"layers": [0]});
    assert_eq!(refused(copy.write(), &["`attn`"]).status, Status::UNSUPPORTED);
    fs::write(copy.path().join("config.json"), "{").expect("config.json");
    refused(copy.path(), &["config.json", "JSON"]);
    fs::remove_file(copy.path().join("config.json")).expect("removed");
    refused(copy.path(), &["config.json"]);
}

#[test]
fn missing_and_misshapen_tensors_are_named() {
    let mut copy = Copy::of("hgrn2");
    let norm = copy.tensors.remove("model.norm.weight").expect("a norm");
    refused(copy.write(), &["model.norm.weight", "missing", "nearest", "model.safetensors"]);
    copy.tensors.insert("model.norms.weight".into(), norm.clone());
    refused(copy.write(), &["the nearest is `model.norms.weight`"]);
    copy.tensors.remove("model.norms.weight");
    copy.tensors.insert("model.norm.weight".into(), norm.narrow(0, 0, 63).expect("63"));
    refused(copy.write(), &["model.norm.weight", "[63]", "[64]", "model.safetensors"]);
    copy.tensors.insert("model.norm.weight".into(), norm.to_dtype(DType::U8).expect("u8"));
    refused(copy.write(), &["model.norm.weight", "U8", "f32"]);
    let mut copy = Copy::of("hgrn2");
    copy.config["intermediate_size"] = json!(128);
    refused(copy.write(), &["down_proj", "[64, 160]", "[64, 128]"]);
}

#[test]
fn weights_that_are_not_finite_are_counted() {
    for bad in [f32::NAN, f32::INFINITY] {
        let mut copy = Copy::of("hgrn2");
        let mut norm = copy.tensors["model.norm.weight"].to_vec1::<f32>().expect("a norm");
        norm[3..5].fill(bad);
        copy.tensors.insert("model.norm.weight".into(), Tensor::new(norm, &Device::Cpu).expect("a norm"));
        refused(copy.write(), &["model.norm.weight", "2 values of 64", "NaN"]);
    }
}

#[test]
fn activations_that_overflow_are_an_error_and_no_score() {
    let mut copy = Copy::of("hgrn2");
    copy.map(|t| t * 1e30);
    let mut opened = open(copy.write(), 2);
    let mut forest = OwnedForest::default();
    forest.chain(&[1, 5, 6]);
    let failure = opened.score(forest.view(), &mut [0.0; 3]).expect_err("overflow");
    assert_eq!(failure.status, Status::NOT_FINITE);
    assert!(failure.text.contains("node 1") && failure.text.contains("token id 5"), "{failure}");
    let failure = opened.logits(forest.view(), &mut [0.0; 2 * 768]).expect_err("overflow");
    assert_eq!(failure.status, Status::NOT_FINITE);
}

#[test]
fn truncated_files_are_refused_at_any_length() {
    let copy = Copy::of("hgrn2");
    let bytes = fs::read(copy.write().join("model.safetensors")).expect("weights");
    for len in [0, 1, 7, 8, 9, 100, 1000, 5000, bytes.len() / 2, bytes.len() - 1] {
        fs::write(copy.path().join("model.safetensors"), &bytes[..len]).expect("weights");
        refused(copy.path(), &["model.safetensors", "download it again"]);
    }
    let mut damaged = bytes;
    damaged[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    fs::write(copy.path().join("model.safetensors"), damaged).expect("weights");
    refused(copy.path(), &["model.safetensors", "safetensors"]);
}

#[test]
fn a_pickle_alone_is_refused_with_the_way_out() {
    let copy = Copy::of("hgrn2");
    copy.write_config();
    refused(copy.path(), &["model.safetensors", "neither"]);
    fs::write(copy.path().join("pytorch_model.bin"), "x").expect("a pickle");
    refused(copy.path(), &["pytorch_model.bin", "safe_serialization"]);
}

#[test]
fn tensors_without_a_place_are_refused_only_if_they_belong_to_the_model() {
    let mut copy = Copy::of("hgrn2");
    let norm = copy.tensors["model.norm.weight"].clone();
    copy.tensors.insert("optimizer.step".into(), norm.clone());
    let weights = Hgrn2Weights::load(copy.write(), DType::F32).expect("loads");
    assert_eq!(weights.unused, ["optimizer.step"]);
    for name in ["model.layers.0.attn.q_proj.bias", "model.layers.3.attn_norm.weight", "lm_head.bias"] {
        let mut copy = Copy::of("hgrn2");
        copy.tensors.insert(name.into(), norm.clone());
        refused(copy.write(), &[name, "config.json"]);
    }
    let mut copy = Copy::of("hgrn2");
    copy.config["use_lower_bound"] = json!(false);
    refused(copy.write(), &["model.lower_bounds"]);
}

#[test]
fn a_norm_without_weights_is_a_norm_of_ones() {
    let mut copy = Copy::of("hgrn2");
    for l in 0..3 {
        let name = format!("model.layers.{l}.attn.g_norm.weight");
        copy.tensors.insert(name, Tensor::ones(64, DType::F32, &Device::Cpu).expect("ones"));
    }
    let ones = scores(copy.write());
    copy.tensors.retain(|name, _| !name.contains("g_norm"));
    copy.config["elementwise_affine"] = json!(false);
    assert_eq!(scores(copy.write()), ones);
}

#[test]
fn the_weights_file_itself_opens_too() {
    assert_eq!(scores(&golden("hgrn2").join("model.safetensors")), scores(&golden("hgrn2")));
}

#[test]
fn other_number_formats_are_refused_with_the_one_that_works() {
    let mut wanted = options(&golden("hgrn2"), 1);
    wanted.dtype = Dtype::BF16;
    let failure = Hgrn2::open(&wanted).err().expect("bf16 is not there yet");
    assert!(failure.status == Status::UNSUPPORTED && failure.text.contains("f32"), "{failure}");
}

#[test]
fn the_memory_given_bounds_the_nodes_of_a_call() {
    let nodes = |memory| {
        let opened =
            Hgrn2::open(&bheval_abi::Opening { memory, ..options(&golden("hgrn2"), 1) }).expect("opens");
        opened.info().nodes
    };
    assert_eq!((nodes(0), nodes(u64::MAX)), (256, 65_536));
    assert!(nodes(16 << 20) > 5_000 && nodes(16 << 20) < 11_000);
}
