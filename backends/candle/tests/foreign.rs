//! Files as other tools leave them: keys of another package, one matrix under another name, two names for one thing that
//! disagree, and what would change scores unseen.

mod support;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use support::{OwnedForest, golden, open, refused, score, sentences};
use tempfile::TempDir;

/// A copy of a golden checkpoint that a test may change.
struct Copy {
    folder: TempDir,
    config: Value,
    tensors: HashMap<String, Tensor>,
}

impl Copy {
    fn of(model: &str) -> Self {
        let files =
            fs::read_dir(golden(model)).expect("the golden folder").map(|f| f.expect("a file").path());
        let is_weights = |f: &std::path::PathBuf| {
            let name = f.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            name.starts_with("model") && name.ends_with(".safetensors")
        };
        let tensors = files.filter(is_weights);
        let config = fs::read_to_string(golden(model).join("config.json")).expect("config.json");
        Self {
            folder: TempDir::new().expect("a folder"),
            config: serde_json::from_str(&config.replace("Infinity", "null")).expect("JSON"),
            tensors: tensors
                .flat_map(|f| candle_core::safetensors::load(f, &Device::Cpu).expect("weights"))
                .collect(),
        }
    }

    fn with(model: &str, change: Value) -> Self {
        let mut copy = Self::of(model);
        for (key, value) in change.as_object().expect("an object") {
            copy.config[key] = value.clone();
        }
        copy
    }

    fn write(&self) -> &Path {
        fs::write(self.folder.path().join("config.json"), self.config.to_string()).expect("config.json");
        candle_core::safetensors::save(&self.tensors, self.folder.path().join("model.safetensors"))
            .expect("weights");
        self.folder.path()
    }

    fn rename(&mut self, from: &str, to: &str) {
        let tensor = self.tensors.remove(from).expect(from);
        self.tensors.insert(to.to_owned(), tensor);
    }
}

/// Scores of the golden sentences.
fn scores(model: &str, folder: &Path) -> Vec<u32> {
    let mut forest = OwnedForest::default();
    for sentence in &sentences(model)[..8] {
        forest.chain(&sentence.ids);
    }
    score(&mut open(folder, 2), &forest).into_iter().map(f32::to_bits).collect()
}

#[test]
fn mamba_files_that_keep_the_original_packages_keys_are_read_by_their_own() {
    let stale = json!({"d_model": 768, "n_layer": 24, "ssm_cfg": {}, "rms_norm": true, "fused_add_norm": true,
        "pad_vocab_size_multiple": 8, "layer_norm_epsilon": 0.5});
    let own = Copy::with("mamba", json!({"layer_norm_epsilon": 0.5}));
    let copy = Copy::with("mamba", stale);
    assert_eq!(scores("mamba", copy.write()), scores("mamba", own.write()));
    assert_ne!(scores("mamba", copy.write()), scores("mamba", &golden("mamba")));
}

#[test]
fn a_tied_matrix_may_lie_under_the_heads_name() {
    for (model, embedding) in
        [("gpt2", "transformer.wte.weight"), ("opt", "model.decoder.embed_tokens.weight")]
    {
        let mut copy = Copy::of(model);
        copy.rename(embedding, "lm_head.weight");
        assert_eq!(scores(model, copy.write()), scores(model, &golden(model)));
    }
    let mut copy = Copy::of("roberta");
    copy.rename("roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight");
    assert_eq!(open(copy.write(), 1).info().parameters, open(&golden("roberta"), 1).info().parameters);
    // An untied head is no embedding.
    let mut copy = Copy::of("llama");
    copy.tensors.remove("model.embed_tokens.weight");
    refused(copy.write(), &["model.embed_tokens.weight", "missing"]);
}

#[test]
fn a_bias_under_two_names_must_be_one() {
    for (model, name, own) in [
        ("roberta", "lm_head.decoder.bias", "lm_head.bias"),
        ("bert", "cls.predictions.decoder.bias", "cls.predictions.bias"),
    ] {
        let mut copy = Copy::of(model);
        copy.tensors.insert(name.into(), copy.tensors[own].clone());
        open(copy.write(), 1);
        let other = (&copy.tensors[own] + 1.0).expect("a tensor");
        copy.tensors.insert(name.into(), other);
        refused(copy.write(), &[name, own, "differ"]);
    }
}

#[test]
fn names_that_disagree_are_refused() {
    for (model, change, essential) in [
        ("gpt_neox", json!({"rotary_emb_base": 500}), "rotary_emb_base"),
        ("gpt_neox", json!({"rotary_pct": 0.5}), "rotary_pct"),
        ("gpt2", json!({"num_attention_heads": 2}), "num_attention_heads"),
        ("llama", json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor"),
        ("llama", json!({"rope_scaling": {"factor": 8.0}}), "rope_type"),
    ] {
        refused(Copy::with(model, change).write(), &[essential, "config.json"]);
    }
    assert_eq!(
        scores("gpt2", Copy::with("gpt2", json!({"num_attention_heads": 4})).write()),
        scores("gpt2", &golden("gpt2"))
    );
}

#[test]
fn what_changes_scores_unseen_is_refused() {
    for model in ["llama", "hgrn2", "mamba", "lstm", "xlstm", "bert"] {
        let quantised = json!({"quantization_config": {"quant_method": "bitnet"}});
        refused(Copy::with(model, quantised).write(), &["quantization_config", "dequantised"]);
        let code = json!({"auto_map": {"AutoModelForCausalLM": "modeling.Mine"}});
        refused(Copy::with(model, code).write(), &["auto_map", "code of its own"]);
        let copy = Copy::of(model);
        fs::write(copy.write().join("adapter_config.json"), "{}").expect("written");
        refused(copy.folder.path(), &["adapter_config.json", "merge_and_unload"]);
    }
}

#[test]
fn a_shard_is_a_safetensors_file_beside_its_index() {
    let copy = Copy::of("llama");
    copy.write();
    let file = copy.folder.path().join("model.safetensors");
    fs::rename(&file, copy.folder.path().join("weights.bin")).expect("renamed");
    let map: serde_json::Map<String, Value> =
        copy.tensors.keys().map(|name| (name.clone(), json!("weights.bin"))).collect();
    fs::write(
        copy.folder.path().join("model.safetensors.index.json"),
        json!({"weight_map": map}).to_string(),
    )
    .expect("the index");
    refused(copy.folder.path(), &["weights.bin", ".safetensors"]);
}
