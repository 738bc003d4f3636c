//! Files of recurrent models as people have them: other names, dialects and layouts; and what is said of settings that are
//! not implemented, and of damaged files.

#![allow(clippy::print_stdout)] // Nodes, shown by `--nocapture`.

mod support;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bheval_abi::Status;
use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use support::{OwnedForest, golden, open, options, score, try_open};
use tempfile::TempDir;

/// A copy of a checkpoint that a test may change.
struct Copy {
    folder: TempDir,
    config: Value,
    tensors: HashMap<String, Tensor>,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

impl Copy {
    fn of(folder: &Path) -> Self {
        let config = std::fs::read_to_string(folder.join("config.json")).expect("config.json");
        let weights = folder.join("model.safetensors");
        Self {
            folder: TempDir::new().expect("a folder"),
            config: serde_json::from_str(&config.replace("Infinity", "null")).expect("JSON"),
            tensors: candle_core::safetensors::load(weights, &Device::Cpu).expect("weights"),
        }
    }

    fn write(&self) -> &Path {
        let folder = self.folder.path();
        std::fs::write(folder.join("config.json"), self.config.to_string()).expect("config.json");
        candle_core::safetensors::save(&self.tensors, folder.join("model.safetensors")).expect("weights");
        folder
    }

    fn rename(&mut self, from: &str, to: &str) {
        let tensor = self.tensors.remove(from).expect("a tensor");
        self.tensors.insert(to.to_owned(), tensor);
    }

    /// Puts the rows of some tensors below each other, under a new name.
    fn stack(&mut self, from: &[String], to: String) {
        let parts: Vec<Tensor> = from.iter().map(|n| self.tensors.remove(n).expect("a tensor")).collect();
        self.tensors.insert(to, Tensor::cat(&parts, 0).expect("stacked"));
    }
}

fn bits(folder: &Path) -> Vec<u32> {
    let mut forest = OwnedForest::default();
    forest.chain(&[3, 7, 1, 30, 12, 12, 5, 0, 39, 22]);
    score(&mut open(folder, 1), &forest)[1..].iter().map(|s| s.to_bits()).collect()
}

/// Changes one key and expects a refusal that says all of this.
fn refused(folder: &Path, key: &str, value: Value, essentials: &[&str]) -> Status {
    let mut copy = Copy::of(folder);
    let mut keys = &mut copy.config;
    for part in key.split('.') {
        keys = &mut keys[part];
    }
    *keys = value;
    let failure = try_open(&options(copy.write(), 1)).err().expect("should be refused");
    for part in essentials {
        assert!(failure.text.contains(part), "{:?} does not say {part:?}", failure.text);
    }
    failure.status
}

#[test]
fn mamba_of_the_original_package_scores_the_same() {
    let expected = bits(&golden("mamba"));
    let mut copy = Copy::of(&golden("mamba"));
    copy.rename("backbone.embeddings.weight", "backbone.embedding.weight");
    copy.config = json!({"model_type": "mamba", "d_model": 64, "n_layer": 2, "vocab_size": 633, "ssm_cfg": {},
        "rms_norm": true, "residual_in_fp32": true, "fused_add_norm": true, "pad_vocab_size_multiple": 8});
    assert_eq!(bits(copy.write()), expected);
    copy.config["ssm_cfg"] =
        json!({"layer": "Mamba1", "d_state": 16, "d_conv": 4, "expand": 2, "dt_rank": "auto"});
    assert_eq!(bits(copy.write()), expected);
    // The head that the package stores beside the embedding is the same one.
    copy.tensors.insert("lm_head.weight".into(), copy.tensors["backbone.embedding.weight"].clone());
    assert_eq!(bits(copy.write()), expected);
    assert_eq!(open(copy.write(), 1).info().parameters, open(&golden("mamba"), 1).info().parameters);
    copy.tensors.insert("lm_head.weight".into(), (&copy.tensors["lm_head.weight"] * 2.0).expect("doubled"));
    let failure = try_open(&options(copy.write(), 1)).err().expect("differs");
    assert!(
        failure.text.contains("`tie_embeddings`") && failure.text.contains("lm_head.weight"),
        "{failure}"
    );
    copy.config["tie_embeddings"] = json!(false);
    assert_ne!(bits(copy.write()), expected);
}

#[test]
fn mamba_of_flash_linear_attention_scores_the_same() {
    let mut copy = Copy::of(&golden("mamba"));
    let keys = copy.config.as_object_mut().expect("an object");
    let eps = keys.remove("layer_norm_epsilon").expect("an epsilon");
    keys.insert("norm_eps".into(), eps);
    keys.insert("hidden_act".into(), json!("swish"));
    keys.insert("time_step_rank".into(), json!("auto"));
    assert_eq!(bits(copy.write()), bits(&golden("mamba")));
    copy.config["layer_norm_epsilon"] = json!(1e-3);
    let failure = try_open(&options(copy.write(), 1)).err().expect("two epsilons");
    assert!(failure.text.contains("norm_eps") && failure.text.contains("layer_norm_epsilon"), "{failure}");
}

#[test]
fn fused_weights_of_xlstm_score_the_same() {
    let mut copy = Copy::of(&fixture("xlstm_options"));
    let expected = bits(copy.write());
    for l in 0..2 {
        for part in ["weight", "bias"] {
            let block = format!("backbone.blocks.{l}");
            let names = |layer: &str, parts: &[&str]| -> Vec<String> {
                parts.iter().map(|p| format!("{block}.{layer}.{p}.{part}")).collect()
            };
            let qkvo = names("mlstm_layer", &["q", "k", "v", "ogate_preact"]);
            copy.stack(&qkvo, format!("{block}.mlstm_layer.qkv_opreact.{part}"));
            let gates = names("mlstm_layer", &["igate_preact", "fgate_preact"]);
            copy.stack(&gates, format!("{block}.mlstm_layer.ifgate_preact.{part}"));
            let gate_up = names("ffn", &["proj_up_gate", "proj_up"]);
            copy.stack(&gate_up, format!("{block}.ffn.proj_up_gate_z.{part}"));
        }
    }
    copy.config["weight_mode"] = json!("fused");
    assert_eq!(bits(copy.write()), expected);
}

#[test]
fn both_layouts_of_the_slstm_score_the_same() {
    let mut copy = Copy::of(&fixture("xlstm_block"));
    let expected = bits(copy.write());
    let cuda = candle_core::safetensors::load(fixture("xlstm_block").join("cuda.safetensors"), &Device::Cpu);
    copy.tensors.extend(cuda.expect("the package's own conversion"));
    assert_eq!(bits(copy.write()), expected);
}

#[test]
fn the_golden_lstm_may_lack_biases() {
    let mut copy = Copy::of(&golden("lstm"));
    let zero = |t: &Tensor| t.zeros_like().expect("zeros");
    for (name, tensor) in &mut copy.tensors {
        if name.contains("bias") {
            *tensor = zero(tensor);
        }
    }
    let expected = bits(copy.write());
    copy.tensors.retain(|name, _| !name.contains("bias"));
    copy.config["bias"] = json!(false);
    assert_eq!(bits(copy.write()), expected);
}

#[test]
fn what_is_not_implemented_is_refused_by_name() {
    let [mamba, mamba2, xlstm, lstm] = ["mamba", "mamba2", "xlstm", "lstm"].map(golden);
    let block = fixture("xlstm_block");
    for (folder, key, value, essential) in [
        (&lstm, "bidirectional", json!(true), "bidirectional"),
        (&lstm, "proj_size", json!(8), "proj_size"),
        (&mamba, "hidden_act", json!("gelu"), "hidden_act"),
        (&mamba, "bidirectional", json!(true), "bidirectional"),
        (&mamba2, "rms_norm", json!(false), "rms_norm"),
        (&mamba2, "norm_before_gate", json!(true), "norm_before_gate"),
        (&mamba2, "D_has_hdim", json!(true), "D_has_hdim"),
        (&xlstm, "add_out_norm", json!(false), "add_out_norm"),
        (&xlstm, "weight_mode", json!("tied"), "weight_mode"),
        (&block, "slstm_block.slstm.function", json!("lstm"), "function"),
        (&block, "slstm_block.slstm.forward_clipval", json!(1.0), "forward_clipval"),
        (&block, "slstm_block.feedforward.act_fn", json!("selu"), "act_fn"),
        (&block, "slstm_block.feedforward.ff_type", json!("ffn"), "ff_type"),
    ] {
        assert_eq!(refused(folder, key, value, &[essential, "config.json"]), Status::UNSUPPORTED, "{key}");
    }
}

#[test]
fn numbers_that_do_not_fit_are_refused_with_what_was_found() {
    let [mamba, mamba2, xlstm, lstm] = ["mamba", "mamba2", "xlstm", "lstm"].map(golden);
    let block = fixture("xlstm_block");
    let huge = 2_147_483_647u32;
    for (folder, key, value, essentials) in [
        (&lstm, "hidden_size", json!(huge), ["weight_ih_l0", "expected"]),
        (&lstm, "num_layers", json!(huge), ["weight_ih_l2", "missing"]),
        (&lstm, "num_layers", json!(1), ["_l1", "no place"]),
        (&mamba, "vocab_size", json!(huge), ["embeddings", "expected"]),
        (&mamba, "state_size", json!(huge), ["A_log", "expected"]),
        (&mamba, "time_step_rank", json!("many"), ["time_step_rank", "many"]),
        (&mamba, "num_hidden_layers", json!(1), ["backbone.layers.1", "no place"]),
        (&mamba2, "n_groups", json!(3), ["n_groups", "8 heads"]),
        (&mamba2, "num_heads", json!(huge), ["num_heads", "inner width"]),
        (&mamba2, "time_step_limit", json!([2.0, 1.0]), ["time_step_limit", "[2.0,1.0]"]),
        (&mamba2, "time_step_limit", json!(["a", 1.0]), ["time_step_limit", "\"a\""]),
        (&xlstm, "num_heads", json!(5), ["qk_dim_factor", "5 heads"]),
        (&xlstm, "num_blocks", json!(3), ["num_blocks", "num_hidden_layers"]),
        (&xlstm, "gate_soft_cap", json!(0.0), ["gate_soft_cap", "0.0"]),
        (&xlstm, "qk_dim_factor", json!(-1.0), ["qk_dim_factor", "-1"]),
        (&xlstm, "ffn_proj_factor", json!(1e300), ["ffn_proj_factor", "1"]),
        (&block, "slstm_at", json!([3]), ["slstm_at", "[3]"]),
        (&block, "slstm_block", Value::Null, ["slstm_at", "slstm_block"]),
        (&block, "mlstm_block.mlstm.num_heads", json!(7), ["num_heads", "7"]),
        (&block, "mlstm_block.mlstm.qkv_proj_blocksize", json!(huge), ["qkv_proj_blocksize", "64"]),
        (&block, "embedding_dim", json!(huge), ["proj_factor", "2147483647"]),
        (&block, "embedding_dim", json!(1 << 28), ["token_embedding", "expected"]),
    ] {
        refused(folder, key, value, &essentials);
    }
}

#[test]
fn missing_misshapen_and_foreign_tensors_are_named() {
    for (folder, name) in [
        (golden("lstm"), "lstm.weight_hh_l1"),
        (golden("mamba"), "backbone.layers.1.mixer.A_log"),
        (golden("mamba2"), "backbone.layers.0.mixer.dt_bias"),
        (golden("xlstm"), "backbone.blocks.1.mlstm_layer.multihead_norm.weight"),
        (fixture("xlstm_block"), "xlstm_block_stack.blocks.1.xlstm.slstm_cell._recurrent_kernel_"),
    ] {
        let says = |copy: &Copy, essentials: &[&str]| {
            let failure = try_open(&options(copy.write(), 1)).err().expect("should be refused");
            for part in essentials {
                assert!(failure.text.contains(part), "{:?} does not say {part:?}", failure.text);
            }
        };
        let mut copy = Copy::of(&folder);
        let whole = copy.tensors[name].clone();
        let flat = whole.flatten_all().expect("flat");
        copy.tensors.insert(name.to_owned(), flat.narrow(0, 0, flat.elem_count() - 1).expect("shorter"));
        says(&copy, &[name, "has shape", "expected"]);
        copy.tensors.insert(name.to_owned(), (&whole / 0.0).expect("infinite"));
        says(&copy, &[name, "NaN or infinite"]);
        copy.tensors.remove(name);
        says(&copy, &[name, "missing"]);
        let mut copy = Copy::of(&folder);
        copy.tensors.insert(format!("{name}_more"), whole);
        says(&copy, &[&format!("{name}_more"), "no place"]);
    }
}

#[test]
fn overflow_is_an_error_and_no_score() {
    for (folder, name) in [
        (golden("lstm"), "decoder.weight"),
        (golden("mamba"), "backbone.layers.0.mixer.D"),
        (golden("mamba2"), "backbone.layers.0.mixer.D"),
        (golden("xlstm"), "backbone.blocks.0.mlstm_layer.v.weight"),
        (fixture("xlstm_block"), "xlstm_block_stack.blocks.0.xlstm.proj_up.weight"),
        (fixture("xlstm_block"), "xlstm_block_stack.blocks.1.ffn.proj_up.weight"),
    ] {
        let mut copy = Copy::of(&folder);
        let tensor = copy.tensors.get_mut(name).expect("a tensor");
        *tensor = (tensor.zeros_like().expect("zeros") + 3e38).expect("large");
        let mut opened = open(copy.write(), 1);
        let mut forest = OwnedForest::default();
        forest.chain(&[1, 5, 6]);
        let failure = opened.score(forest.view(), &mut [0.0; 3]).expect_err(name);
        assert_eq!(failure.status, Status::NOT_FINITE, "{failure}");
    }
}

#[test]
fn the_memory_given_bounds_the_nodes_of_a_call() {
    for folder in [golden("lstm"), golden("mamba"), golden("mamba2"), golden("xlstm"), fixture("xlstm_block")]
    {
        let nodes = |memory| {
            let options = bheval_abi::Opening { memory, ..options(&folder, 1) };
            try_open(&options).expect("opens").info().nodes
        };
        assert_eq!((nodes(0), nodes(u64::MAX)), (256, 65_536));
        let (some, more) = (nodes(8 << 20), nodes(12 << 20));
        println!("{}: {some} nodes in 8 MiB, {more} in 12", folder.display());
        assert!(some < more && some > 1000, "{}", folder.display());
    }
}
