//! The fast recurrent models against the naive ones: made-up checkpoints of other sizes, options and extremes, over chains of
//! 300 tokens.

#![allow(clippy::print_stdout)] // Largest errors, shown by `--nocapture`.

use bheval_abi::LanguageModel;
use bheval_candle::{Lstm, Mamba, Xlstm};
use bheval_tests::recurrent::{Checkpoint, logits, open};
use bheval_tests::reference::{self, Architecture, Reference};
use serde_json::{Value, json};

const VOCAB: usize = 70;

/// Compares log-probabilities of every token after every prefix of one long chain, and of a short one.
fn agree<M: LanguageModel, A: Architecture>(what: &str, checkpoint: &Checkpoint, limit: f64) {
    let folder = tempfile::tempdir().expect("a folder");
    checkpoint.write(folder.path());
    let (mut fast, mut naive) = (open::<M>(folder.path()), open::<Reference<A>>(folder.path()));
    assert_eq!(fast.info().parameters, naive.info().parameters, "{what}");
    for steps in [1, 2, 300] {
        let ids: Vec<u32> = (0..steps).map(|t: u32| (t * t + 7 * t + 3) % VOCAB as u32).collect();
        let (ours, exact) = (logits(&mut fast, &ids), logits(&mut naive, &ids));
        let mut worst = 0.0f64;
        for (ours, exact) in ours.chunks_exact(VOCAB).zip(exact.chunks_exact(VOCAB)) {
            let (sum, exact_sum) = (log_sum(ours), log_sum(exact));
            for (a, b) in ours.iter().zip(exact) {
                let error = (f64::from(*a) - sum) - (f64::from(*b) - exact_sum);
                worst = if error.abs() <= worst { worst } else { error.abs() };
            }
        }
        println!("{what}, {steps} tokens: {worst:.1e}");
        assert!(worst <= limit, "{what}: {worst:e}");
    }
}

fn log_sum(row: &[f32]) -> f64 {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    f64::from(largest) + row.iter().map(|x| f64::from(x - largest).exp()).sum::<f64>().ln()
}

fn lstm(embedding: usize, hidden: usize, layers: usize, tied: bool) -> Checkpoint {
    let config = json!({"model_type": "lstm_lm", "vocab_size": VOCAB, "embedding_size": embedding, "hidden_size": hidden,
        "num_layers": layers, "tie_word_embeddings": tied});
    let mut c = Checkpoint::new(config, hidden as u64);
    c.put("embedding.weight", &[VOCAB, embedding], 0.0, 1.5);
    for l in 0..layers {
        c.matrix(&format!("lstm.weight_ih_l{l}"), 4 * hidden, if l == 0 { embedding } else { hidden });
        c.put(&format!("lstm.weight_hh_l{l}"), &[4 * hidden, hidden], 0.0, (6.0 / hidden as f64).sqrt());
        c.put(&format!("lstm.bias_ih_l{l}"), &[4 * hidden], 0.0, 1.0);
        c.put(&format!("lstm.bias_hh_l{l}"), &[4 * hidden], 0.3, 1.0);
    }
    if tied && embedding != hidden {
        c.matrix("proj.weight", embedding, hidden);
    }
    if !tied {
        c.matrix("decoder.weight", VOCAB, hidden);
    }
    c.put("decoder.bias", &[VOCAB], 0.0, 1.0);
    c
}

#[test]
fn lstms_of_other_sizes() {
    for (embedding, hidden, layers, tied) in
        [(40, 70, 3, false), (24, 50, 1, true), (33, 33, 2, true), (64, 300, 1, false)]
    {
        let what = format!("lstm {embedding} {hidden} x{layers} tied {tied}");
        agree::<Lstm, reference::Lstm>(&what, &lstm(embedding, hidden, layers, tied), 5e-5);
    }
}

/// The sizes of one Mamba.
struct MambaSizes {
    width: usize,
    inner: usize,
    states: usize,
    rank: usize,
    taps: usize,
    conv_bias: bool,
    /// How far the steps' bias reaches: Δ from e^-reach to reach.
    reach: f64,
}

fn mamba(s: &MambaSizes) -> Checkpoint {
    let MambaSizes { width, inner, states, rank, taps, conv_bias, reach } = *s;
    let config = json!({"model_type": "mamba", "vocab_size": VOCAB, "hidden_size": width, "intermediate_size": inner,
        "state_size": states, "time_step_rank": rank, "conv_kernel": taps, "num_hidden_layers": 2, "use_bias": false,
        "use_conv_bias": conv_bias, "hidden_act": "silu", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": false});
    let mut c = Checkpoint::new(config, states as u64);
    c.put("backbone.embeddings.weight", &[VOCAB, width], 0.0, 1.0);
    for l in 0..2 {
        let named = |part: &str| format!("backbone.layers.{l}.{part}");
        c.put(&named("norm.weight"), &[width], 1.0, 0.4);
        c.matrix(&named("mixer.in_proj.weight"), 2 * inner, width);
        c.put(&named("mixer.conv1d.weight"), &[inner, 1, taps], 0.2, 0.8);
        if conv_bias {
            c.put(&named("mixer.conv1d.bias"), &[inner], 0.0, 0.5);
        }
        c.matrix(&named("mixer.x_proj.weight"), rank + 2 * states, inner);
        c.matrix(&named("mixer.dt_proj.weight"), inner, rank);
        c.put(&named("mixer.dt_proj.bias"), &[inner], 0.0, reach);
        c.put(&named("mixer.A_log"), &[inner, states], 0.0, 2.0);
        c.put(&named("mixer.D"), &[inner], 1.0, 0.5);
        c.matrix(&named("mixer.out_proj.weight"), width, inner);
    }
    c.put("backbone.norm_f.weight", &[width], 1.0, 0.4);
    c.matrix("lm_head.weight", VOCAB, width);
    c
}

#[test]
fn mambas_of_other_sizes() {
    let base = MambaSizes { width: 48, inner: 96, states: 16, rank: 3, taps: 4, conv_bias: true, reach: 3.0 };
    for (what, sizes) in [
        ("plain", MambaSizes { ..base }),
        ("few states, few taps", MambaSizes { states: 8, taps: 3, rank: 5, conv_bias: false, ..base }),
        ("expand 1, ragged groups", MambaSizes { width: 41, inner: 41, rank: 1, taps: 1, ..base }),
        ("extreme steps", MambaSizes { reach: 20.0, ..base }),
    ] {
        agree::<Mamba, reference::Mamba>(&format!("mamba, {what}"), &mamba(&sizes), 1e-4);
    }
}

/// Heads, channels of a head, states, groups; how far the steps' bias reaches, and the range that they are clamped to.
fn mamba2(
    (heads, head_dim, states, groups): (usize, usize, usize, usize),
    reach: f64,
    limit: Value,
) -> Checkpoint {
    let (width, inner, taps) = (40, heads * head_dim, 3);
    let convolved = inner + 2 * groups * states;
    let config = json!({"model_type": "mamba2", "vocab_size": VOCAB, "hidden_size": width, "num_hidden_layers": 2,
        "num_heads": heads, "head_dim": head_dim, "state_size": states, "n_groups": groups, "conv_kernel": taps,
        "intermediate_size": inner, "time_step_limit": limit, "use_bias": false, "use_conv_bias": false, "rms_norm": true,
        "hidden_act": "silu", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": true});
    let mut c = Checkpoint::new(config, groups as u64);
    c.put("backbone.embeddings.weight", &[VOCAB, width], 0.0, 1.0);
    for l in 0..2 {
        let named = |part: &str| format!("backbone.layers.{l}.{part}");
        c.put(&named("norm.weight"), &[width], 1.0, 0.4);
        c.matrix(&named("mixer.in_proj.weight"), inner + convolved + heads, width);
        c.put(&named("mixer.conv1d.weight"), &[convolved, 1, taps], 0.2, 0.8);
        c.put(&named("mixer.dt_bias"), &[heads], 0.0, reach);
        c.put(&named("mixer.A_log"), &[heads], 0.0, 2.0);
        c.put(&named("mixer.D"), &[heads], 1.0, 0.5);
        c.put(&named("mixer.norm.weight"), &[inner], 1.0, 0.4);
        c.matrix(&named("mixer.out_proj.weight"), width, inner);
    }
    c.put("backbone.norm_f.weight", &[width], 1.0, 0.4);
    c
}

#[test]
fn mamba2s_of_other_sizes() {
    let open = json!([0.0, null]);
    for (what, sizes, reach, limit) in [
        ("one group", (4, 20, 16, 1), 3.0, &open),
        ("two groups", (6, 16, 8, 2), 3.0, &open),
        ("four groups, clamped", (8, 7, 5, 4), 3.0, &json!([0.05, 1.25])),
        ("wide heads, extreme steps", (1, 80, 32, 1), 20.0, &open),
    ] {
        let checkpoint = mamba2(sizes, reach, limit.clone());
        agree::<Mamba, reference::Mamba2>(&format!("mamba2, {what}"), &checkpoint, 1e-4);
    }
}

/// The original package norms by groups and calls its keys otherwise; the naive model is told the first.
#[test]
fn mamba2_as_the_original_package_has_it() {
    let mut naive = mamba2((8, 7, 5, 4), 3.0, json!([0.05, 1.25]));
    naive.config["reference_norm_groups"] = json!(4);
    let mut fast = mamba2((8, 7, 5, 4), 3.0, json!([0.05, 1.25]));
    fast.config = json!({"d_model": 40, "n_layer": 2, "vocab_size": 67, "pad_vocab_size_multiple": 14, "rms_norm": true,
        "ssm_cfg": {"layer": "Mamba2", "d_state": 5, "d_conv": 3, "expand": 1.4, "headdim": 7, "ngroups": 4,
            "conv_bias": false, "dt_limit": [0.05, 1.25]}});
    let folders = [tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder")];
    naive.write(folders[0].path());
    fast.write(folders[1].path());
    let ids: Vec<u32> = (0..60).map(|t| t % VOCAB as u32).collect();
    let exact = logits(&mut open::<Reference<reference::Mamba2>>(folders[0].path()), &ids);
    let ours = logits(&mut open::<Mamba>(folders[1].path()), &ids);
    let error = bheval_tests::recurrent::difference(&ours, &exact);
    println!("mamba2 of the original package: {error:.1e}");
    assert!(error <= 1e-4, "{error:e}");
}

/// `reach`: how far the gates' biases go. Caps are null for none.
fn xlstm(width: usize, heads: usize, reach: f64, cap: &Value) -> Checkpoint {
    let (qk, v, inner) = (width / 2, width, width + 8);
    let config = json!({"model_type": "xlstm", "vocab_size": VOCAB, "hidden_size": width, "num_blocks": 2,
        "num_heads": heads, "use_bias": false, "norm_eps": 1e-6, "eps": 1e-6, "qk_dim_factor": 0.5, "v_dim_factor": 1.0,
        "ffn_proj_factor": inner as f64 / width as f64, "ffn_round_up_to_multiple_of": 1, "gate_soft_cap": cap,
        "output_logit_soft_cap": cap, "weight_mode": "single", "tie_word_embeddings": false});
    let mut c = Checkpoint::new(config, width as u64);
    c.put("backbone.embeddings.weight", &[VOCAB, width], 0.0, 1.0);
    for l in 0..2 {
        let named = |part: &str| format!("backbone.blocks.{l}.{part}");
        for norm in ["norm_mlstm", "norm_ffn", "mlstm_layer.multihead_norm"] {
            c.put(&named(&format!("{norm}.weight")), &[width], 1.0, 0.4);
        }
        for (part, out) in [("q", qk), ("k", qk), ("v", v), ("ogate_preact", v), ("out_proj", width)] {
            c.matrix(&named(&format!("mlstm_layer.{part}.weight")), out, width);
        }
        for part in ["igate_preact", "fgate_preact"] {
            c.put(&named(&format!("mlstm_layer.{part}.weight")), &[heads, width], 0.0, reach / 3.0);
            c.put(&named(&format!("mlstm_layer.{part}.bias")), &[heads], 0.0, reach);
        }
        c.matrix(&named("ffn.proj_up_gate.weight"), inner, width);
        c.matrix(&named("ffn.proj_up.weight"), inner, width);
        c.matrix(&named("ffn.proj_down.weight"), width, inner);
    }
    c.put("backbone.out_norm.weight", &[width], 1.0, 0.4);
    c.matrix("lm_head.weight", VOCAB, width);
    c
}

#[test]
fn xlstms_of_other_sizes_and_gates_up_to_fifty() {
    for (width, heads, reach, cap) in [
        (64, 4, 1.0, json!(15.0)),
        (48, 3, 3.0, json!(1.5)),
        (40, 1, 50.0, json!(15.0)),
        (32, 2, 50.0, Value::Null),
    ] {
        let what = format!("xlstm {width}/{heads}, gates to {reach}, cap {cap}");
        agree::<Xlstm, reference::Xlstm>(&what, &xlstm(width, heads, reach, &cap), 2e-4);
    }
}

/// A model of the package's design. `taps` is of the sLSTM's convolution.
fn xlstm_block(slstm_at: &[usize], reach: f64, taps: usize, bias: bool, mlp: Value) -> Checkpoint {
    let (width, heads, inner) = (48, 4, 128);
    let unit = width / heads;
    let mut config = json!({"model_type": "xlstm", "vocab_size": VOCAB, "embedding_dim": width, "num_blocks": 3,
        "bias": bias, "slstm_at": slstm_at, "tie_weights": true,
        "mlstm_block": {"mlstm": {"conv1d_kernel_size": 3, "qkv_proj_blocksize": 8, "num_heads": heads}},
        "slstm_block": {"slstm": {"backend": "vanilla", "num_heads": heads, "conv1d_kernel_size": taps},
            "feedforward": mlp}});
    if slstm_at.len() == 3 {
        config["mlstm_block"] = Value::Null;
    }
    let mut c = Checkpoint::new(config, 9 + slstm_at.len() as u64);
    c.put("token_embedding.weight", &[VOCAB, width], 0.0, 1.0);
    for l in 0..3 {
        let block = format!("xlstm_block_stack.blocks.{l}");
        let named = |part: &str| format!("{block}.xlstm.{part}");
        c.put(&format!("{block}.xlstm_norm.weight"), &[width], 0.0, 0.4);
        if slstm_at.contains(&l) {
            for gate in ["fgate", "igate", "zgate", "ogate"] {
                c.put(&named(&format!("{gate}.weight")), &[heads, unit, unit], 0.0, 0.8);
            }
            c.put(&named("slstm_cell._recurrent_kernel_"), &[heads, 4 * unit, unit], 0.0, 0.4);
            c.put(&named("slstm_cell._bias_"), &[4 * width], 0.0, reach);
            c.put(&named("group_norm.weight"), &[width], 0.0, 0.4);
            if taps > 0 {
                c.put(&named("conv1d.conv.weight"), &[width, 1, taps], 0.2, 0.8);
                c.put(&named("conv1d.conv.bias"), &[width], 0.0, 0.5);
            }
            if c.config["slstm_block"]["feedforward"].is_object() {
                c.put(&format!("{block}.ffn_norm.weight"), &[width], 0.0, 0.4);
                c.matrix(&format!("{block}.ffn.proj_up.weight"), 2 * 64, width);
                c.matrix(&format!("{block}.ffn.proj_down.weight"), width, 64);
            }
            continue;
        }
        for (part, out, into) in [("proj_up", 2 * inner, width), ("proj_down", width, inner)] {
            c.matrix(&named(&format!("{part}.weight")), out, into);
            if bias {
                c.put(&named(&format!("{part}.bias")), &[out], 0.0, 0.3);
            }
        }
        for part in ["q_proj", "k_proj", "v_proj"] {
            c.put(&named(&format!("{part}.weight")), &[inner / 8, 8, 8], 0.0, 0.6);
            if bias {
                c.put(&named(&format!("{part}.bias")), &[inner], 0.0, 0.3);
            }
        }
        for part in ["mlstm_cell.igate", "mlstm_cell.fgate"] {
            c.put(&named(&format!("{part}.weight")), &[heads, 3 * inner], 0.0, 0.1);
            c.put(&named(&format!("{part}.bias")), &[heads], 0.0, reach);
        }
        c.put(&named("conv1d.conv.weight"), &[inner, 1, 3], 0.2, 0.8);
        c.put(&named("conv1d.conv.bias"), &[inner], 0.0, 0.5);
        c.put(&named("mlstm_cell.outnorm.weight"), &[inner], 0.0, 0.4);
        c.put(&named("learnable_skip"), &[inner], 1.0, 0.4);
    }
    c.put("xlstm_block_stack.post_blocks_norm.weight", &[width], 0.0, 0.4);
    c
}

#[test]
fn xlstms_of_the_package_and_gates_up_to_fifty() {
    let gelu = json!({"proj_factor": 1.3, "act_fn": "gelu"});
    for (slstm_at, reach, taps, bias, mlp) in [
        (&[1][..], 2.0, 4, false, gelu.clone()),
        (&[0, 2], 2.0, 0, true, json!({"proj_factor": 1.1, "act_fn": "relu"})),
        (&[0, 1, 2], 5.0, 2, false, json!({"proj_factor": 1.3, "act_fn": "swish"})),
        (&[1], 50.0, 4, true, Value::Null),
        (&[], 50.0, 4, false, gelu),
    ] {
        let what = format!("xlstm_block with sLSTM at {slstm_at:?}, gates to {reach}, mlp {mlp}");
        let checkpoint = xlstm_block(slstm_at, reach, taps, bias, mlp);
        agree::<Xlstm, reference::XlstmBlock>(&what, &checkpoint, 2e-4);
    }
}
