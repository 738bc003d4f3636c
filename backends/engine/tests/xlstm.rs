//! Both designs of xLSTM against their peers in float64 (tests/golden/recurrent_gradients.py), and what their keys do.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use std::path::{Path, PathBuf};

use bheval_abi::{Dtype, Kept, Start, TrainView, Trainable};
use bheval_engine::models;
use bheval_engine::trainer::Trainer;
use safetensors::tensor::TensorView;
use safetensors::{Dtype as Stored, SafeTensors};
use serde_json::{Value, json};
use support::rates;
use tempfile::TempDir;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn whole(bytes: &[u8]) -> Vec<i64> {
    bytes.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect()
}

fn config(folder: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(folder.join("config.json")).unwrap()).unwrap()
}

/// Opens a model; with a seed its weights are drawn.
fn open(path: &Path, seed: Option<u64>) -> Trainer {
    let start = Start { path: path.to_owned(), seed, threads: 2, dtype: Dtype::F32 };
    Trainer::create(&start).unwrap_or_else(|e| panic!("{}: {e:?}", path.display()))
}

struct Batch {
    shape: (usize, usize),
    tokens: Vec<u32>,
    targets: Vec<i32>,
}

impl Batch {
    fn view(&self, pass: u64) -> TrainView<'_> {
        let count = self.targets.iter().filter(|&&t| t >= 0).count();
        TrainView {
            batch: self.shape.0,
            steps: self.shape.1,
            tokens: &self.tokens,
            targets: &self.targets,
            weight: 1.0 / count as f32,
            pass,
            teacher: None,
        }
    }

    /// Sequences that count upwards, each from a place of its own.
    fn counting(vocab: u32, batch: usize, steps: usize) -> Self {
        let token = |row: usize, t: usize| (7 * row as u32 + t as u32) % vocab;
        let rows = |shift: usize| (0..batch * steps).map(move |i| token(i / steps, i % steps + shift));
        Self {
            shape: (batch, steps),
            tokens: rows(0).collect(),
            targets: rows(1).map(|t| t as i32).collect(),
        }
    }
}

/// The gradient of every tensor.
fn gradients(trainer: &mut Trainer) -> Vec<(String, Vec<f32>)> {
    let names: Vec<String> = trainer.tensors().iter().map(|t| t.name.clone()).collect();
    let gradient = |(i, name): (usize, String)| (name, trainer.kept(i, Kept::GRADIENT).unwrap().to_vec());
    names.into_iter().enumerate().map(gradient).collect()
}

fn norm(x: impl Iterator<Item = f32>) -> f64 {
    x.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

/// Loss and gradients of the batch in `train.safetensors`, of the weights in `model`.
fn agrees(name: &str, model: &Path) {
    let bytes = std::fs::read(folder(name).join("train.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    let get = |name: &str| golden.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    let batch = Batch {
        shape: (get("ids").shape()[0], get("ids").shape()[1]),
        tokens: whole(get("ids").data()).into_iter().map(|x| x as u32).collect(),
        targets: whole(get("targets").data()).into_iter().map(|x| x as i32).collect(),
    };
    let mut trainer = open(model, None);
    let found = trainer.accumulate(&batch.view(0)).unwrap();
    let loss = f64::from_le_bytes(get("loss").data().try_into().unwrap());
    let error = (found.nats / found.targets as f64 - loss).abs();
    assert!(error <= 1e-5, "{name}: loss off by {error:e}");
    let mut worst = 0.0_f64;
    for (tensor, got) in gradients(&mut trainer) {
        let expected = floats(get(&format!("grad.{tensor}")).data());
        let size = norm(expected.iter().copied());
        let difference = norm(got.iter().zip(&expected).map(|(a, b)| a - b));
        assert_eq!(got.len(), expected.len(), "{tensor}");
        if size < 1e-4 {
            // An input gate's bias cancels but for ε; f32 leaves rounding.
            assert!(difference < 1e-7, "{name}: gradient of {tensor}: {difference:e} of {size:e}");
            continue;
        }
        assert!(difference <= 1e-4 * size, "{name}: gradient of {tensor}: {difference:e} of {size:e}");
        worst = worst.max(difference / size);
    }
    println!("{name}: loss within {error:.1e}, gradients {worst:.1e}");
}

#[test]
fn the_authors_package() {
    agrees("xlstm_block", &folder("xlstm_block"));
}

#[test]
fn options_of_transformers() {
    agrees("xlstm_options", &folder("xlstm_options"));
}

/// A tensor to be stored.
type Tensor = (String, Vec<usize>, Vec<f32>);

fn tensors(file: &Path) -> Vec<Tensor> {
    let bytes = std::fs::read(file).unwrap();
    let all = SafeTensors::deserialize(&bytes).unwrap();
    all.iter().map(|(name, t)| (name.to_owned(), t.shape().to_vec(), floats(t.data()))).collect()
}

fn save(config: &Value, tensors: &[Tensor]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|(_, _, x)| x.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        (name.clone(), TensorView::new(Stored::F32, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, &dir.path().join("model.safetensors")).unwrap();
    dir
}

/// The package's CUDA backend stores the recurrence the other way round; `cuda.safetensors` was converted by the package.
#[test]
fn either_layout_of_the_recurrence() {
    let from = folder("xlstm_block");
    let (mut config, mut all) = (config(&from), tensors(&from.join("model.safetensors")));
    let vanilla = save(&config, &all);
    config["slstm_block"]["slstm"]["backend"] = json!("cuda");
    let cuda = tensors(&from.join("cuda.safetensors"));
    let shape = cuda.iter().find(|t| t.0.ends_with("_recurrent_kernel_")).unwrap().1.clone();
    all.retain(|tensor| cuda.iter().all(|other| other.0 != tensor.0));
    let cuda = save(&config, &[all, cuda].concat());
    let batch = Batch::counting(40, 3, 21);
    let run = |dir: &TempDir| {
        let mut trainer = open(dir.path(), None);
        let found = trainer.accumulate(&batch.view(0)).unwrap();
        (found.nats, gradients(&mut trainer))
    };
    let ((a, vanilla), (b, cuda)) = (run(&vanilla), run(&cuda));
    assert!((a - b).abs() < 1e-5 * a);
    let (heads, unit) = (shape[0], shape[1]);
    for ((name, vanilla), (_, cuda)) in vanilla.iter().zip(&cuda) {
        let place = |i: usize| match name.rsplit('.').next().unwrap() {
            "_recurrent_kernel_" => {
                let (head, gate, out) = (i / (4 * unit * unit), i / unit % (4 * unit), i % unit);
                (head * unit + out) * 4 * unit + gate
            }
            "_bias_" => {
                let (gate, head, j) = (i / (heads * unit), i / unit % heads, i % unit);
                (head * 4 + gate) * unit + j
            }
            _ => i,
        };
        let error = norm(vanilla.iter().enumerate().map(|(i, x)| x - cuda[place(i)]));
        assert!(error <= 1e-5 * norm(vanilla.iter().copied()).max(1e-2), "{name}: {error:e}");
    }
}

/// `weight_mode` "fused" stores several matrices as one.
#[test]
fn fused_projections_are_the_same_model() {
    let from = folder("xlstm_options");
    let (mut config, all) = (config(&from), tensors(&from.join("model.safetensors")));
    config["weight_mode"] = json!("fused");
    let groups: [(&str, &[&str]); 3] = [
        ("mlstm_layer.qkv_opreact", &["q", "k", "v", "ogate_preact"]),
        ("mlstm_layer.ifgate_preact", &["igate_preact", "fgate_preact"]),
        ("ffn.proj_up_gate_z", &["proj_up_gate", "proj_up"]),
    ];
    let join = |all: &[Tensor]| -> Vec<Tensor> {
        let mut out = all.to_vec();
        for layer in ["backbone.blocks.0", "backbone.blocks.1"] {
            for (fused, parts) in groups {
                let module = fused.split('.').next().unwrap();
                for kind in ["weight", "bias"] {
                    let names = parts.iter().map(|part| format!("{layer}.{module}.{part}.{kind}"));
                    let found: Vec<Tensor> =
                        names.map(|name| out.iter().find(|t| t.0 == name).unwrap().clone()).collect();
                    out.retain(|t| found.iter().all(|f| f.0 != t.0));
                    let rows = found.iter().map(|t| t.1[0]).sum();
                    let shape = [&[rows], &found[0].1[1..]].concat();
                    let values = found.iter().flat_map(|t| t.2.clone()).collect();
                    out.push((format!("{layer}.{fused}.{kind}"), shape, values));
                }
            }
        }
        out
    };
    let fused = save(&config, &join(&all));
    let batch = Batch::counting(40, 2, 17);
    let (mut single, mut joined) = (open(&from, None), open(fused.path(), None));
    let found = [&mut single, &mut joined].map(|trainer| trainer.accumulate(&batch.view(0)).unwrap().nats);
    assert_eq!(found[0], found[1]);
    let shape = |name: &str| all.iter().find(|t| t.0 == name).unwrap().1.clone();
    let single: Vec<Tensor> =
        gradients(&mut single).into_iter().map(|(name, x)| (name.clone(), shape(&name), x)).collect();
    let expected = join(&single);
    for (name, got) in gradients(&mut joined) {
        let expected = &expected.iter().find(|t| t.0 == name).unwrap_or_else(|| panic!("{name}")).2;
        let error = norm(got.iter().zip(expected).map(|(a, b)| a - b));
        assert!(error <= 1e-6 * norm(expected.iter().copied()), "{name}: {error:e}");
    }
}

fn write(config: &Value) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    dir
}

fn block_config() -> Value {
    json!({
        "model_type": "xlstm", "vocab_size": 50, "embedding_dim": 32, "num_blocks": 3, "context_length": 64, "slstm_at": [1],
        "mlstm_block": { "mlstm": { "num_heads": 2 } },
        "slstm_block": { "slstm": { "num_heads": 2, "backend": "vanilla" }, "feedforward": {} },
    })
}

fn large_config() -> Value {
    json!({ "model_type": "xlstm", "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_heads": 2 })
}

/// architectures.md 7.3, verified there by construction.
#[test]
fn the_papers_configuration_has_its_number_of_parameters() {
    let mut config = block_config();
    for (key, value) in [
        ("vocab_size", json!(16000)),
        ("embedding_dim", json!(1024)),
        ("num_blocks", json!(48)),
        ("slstm_at", json!([3, 5, 7, 40, 42, 44])),
        ("mlstm_block", json!({ "mlstm": {} })),
        ("slstm_block", json!({ "slstm": {}, "feedforward": {} })),
    ] {
        config[key] = value;
    }
    let count = |config: &Value| models::build(write(config).path()).unwrap().parameters.count();
    let all = count(&config);
    assert_eq!(all, 338_181_456);
    config["num_blocks"] = json!(49);
    assert_eq!(count(&config) - all, 6_380_552);
    config["slstm_at"] = json!([3, 5, 7, 40, 42, 44, 48]);
    assert_eq!(count(&config) - all, 6_238_208);
}

#[test]
fn a_fresh_model_knows_nothing_and_learns() {
    let batch = Batch::counting(50, 4, 33);
    let mut with_options = block_config();
    with_options["dropout"] = json!(0.05);
    with_options["add_embedding_dropout"] = json!(true);
    with_options["tie_weights"] = json!(true);
    with_options["slstm_block"]["feedforward"]["dropout"] = json!(0.05);
    with_options["slstm_block"]["slstm"]["conv1d_kernel_size"] = json!(0);
    with_options["slstm_block"]["slstm"]["recurrent_weight_init"] = json!("standard");
    for config in [block_config(), large_config(), with_options] {
        let dir = write(&config);
        let mut trainer = open(dir.path(), Some(1));
        let start = trainer.evaluate(&batch.view(0)).unwrap();
        let start = start.nats / start.targets as f64;
        // Logits start with a variance of 2/5, whatever the width.
        assert!((start - 50f64.ln()).abs() < 0.5, "{start} nats at the start of {config}");
        for step in 1..=30 {
            trainer.accumulate(&batch.view(step)).unwrap();
            assert!(trainer.update(&rates(step, 3e-3, 0.99)).unwrap().is_finite());
        }
        let end = trainer.evaluate(&batch.view(0)).unwrap();
        let end = end.nats / end.targets as f64;
        assert!(end < 0.5 * start, "from {start} to {end} nats after 30 steps of {config}");
    }
}

/// How tensors start, by the tables of the peers' own initialisation (architectures.md 7.3; transformers' `_init_weights`).
#[test]
fn tensors_start_as_the_authors_have_them() {
    let mut config = block_config();
    config["embedding_dim"] = json!(256);
    config["num_blocks"] = json!(4);
    let small = (2.0f64 / (5.0 * 256.0)).sqrt();
    // Within five standard errors of the deviation of as many normal numbers.
    let is = |x: &[f32], deviation: f64| {
        let found = norm(x.iter().copied()) / (x.len() as f64).sqrt();
        (found / deviation - 1.0).abs() < 5.0 / (2.0 * x.len() as f64).sqrt()
    };
    let drawn = |config: &Value| {
        let mut trainer = open(write(config).path(), Some(3));
        let names: Vec<String> = trainer.tensors().iter().map(|t| t.name.clone()).collect();
        move |name: &str| {
            let i = names.iter().position(|n| n.ends_with(name)).unwrap_or_else(|| panic!("{name}"));
            trainer.kept(i, Kept::WEIGHT).unwrap().to_vec()
        }
    };
    let mut get = drawn(&config);
    for name in
        ["token_embedding.weight", "lm_head.weight", "0.xlstm.proj_up.weight", "0.xlstm.q_proj.weight"]
    {
        assert!(is(&get(name), small), "{name}");
    }
    for name in ["1.xlstm.igate.weight", "1.ffn.proj_up.weight"] {
        assert!(is(&get(name), small), "{name}");
    }
    for name in ["0.xlstm.proj_down.weight", "1.ffn.proj_down.weight"] {
        assert!(is(&get(name), 2.0 / 4.0 / 16.0), "{name}");
    }
    assert!(is(&get("0.xlstm.conv1d.conv.weight"), 0.5 / 3f64.sqrt()));
    assert_eq!(get("0.xlstm.mlstm_cell.fgate.bias"), [3.0, 6.0]);
    let zero = [
        "0.xlstm.mlstm_cell.igate.weight",
        "0.xlstm.mlstm_cell.outnorm.weight",
        "1.xlstm.slstm_cell._recurrent_kernel_",
    ];
    assert!(zero.iter().all(|name| get(name).iter().all(|&x| x == 0.0)));
    // The second of four blocks, heads of 128 cells: 5 - 12 (j / 127)^(0.3 + 1.3 / 3), the forget gates second.
    let bias = get("1.xlstm.slstm_cell._bias_");
    let expected = |j: usize| 5.0 - 12.0 * (j as f64 / 127.0).powf(0.3 + 1.3 / 3.0);
    for (i, x) in bias.iter().enumerate() {
        let expected = if i / 256 == 1 { expected(i % 128) } else { 0.0 };
        assert!((f64::from(*x) - expected).abs() < 1e-5, "{i}: {x} for {expected}");
    }
    let mut config = large_config();
    config["hidden_size"] = json!(256);
    let mut get = drawn(&config);
    let inner = get("0.ffn.proj_down.weight").len() as f64 / 256.0;
    assert!(is(&get("0.ffn.proj_down.weight"), 1.0 / inner.sqrt()));
    assert!(is(&get("0.mlstm_layer.out_proj.weight"), 1.0 / 16.0));
    assert!(is(&get("0.mlstm_layer.v.weight"), small));
    assert_eq!(get("0.mlstm_layer.igate_preact.bias"), [-10.0, -10.0]);
    assert_eq!(get("0.mlstm_layer.fgate_preact.bias"), [3.0, 6.0]);
    let zero = ["mlstm_layer.ogate_preact.weight", "igate_preact.weight", "ffn.proj_up_gate.weight"];
    assert!(zero.iter().all(|name| get(name).iter().all(|&x| x == 0.0)));
}

/// The package's rule: `weight` and no `norm` in the name, the embedding only where that is asked for.
#[test]
fn decay_applies_where_the_package_applies_it() {
    for asked in [false, true] {
        let mut config = block_config();
        config["weight_decay_on_embedding"] = json!(asked);
        config["bias"] = json!(true);
        let model = models::build(write(&config).path()).unwrap();
        for spec in model.parameters.specs() {
            let named = spec.name.contains("weight") && !spec.name.contains("norm");
            let expected = if spec.name == "token_embedding.weight" { asked } else { named };
            assert_eq!(spec.decay, expected, "{}", spec.name);
        }
    }
}

#[test]
fn dropout_differs_from_pass_to_pass_and_is_off_in_evaluation() {
    let batch = Batch::counting(50, 2, 9);
    let mut config = block_config();
    config["dropout"] = json!(0.5);
    let dir = write(&config);
    let mut trainer = open(dir.path(), Some(1));
    let mut loss = |pass| trainer.accumulate(&batch.view(pass)).unwrap().nats;
    let (first, again, other) = (loss(1), loss(1), loss(2));
    assert_eq!(first, again);
    assert!((first - other).abs() > 1e-6);
    let evaluated = [1, 2].map(|pass| trainer.evaluate(&batch.view(pass)).unwrap().nats);
    assert_eq!(evaluated[0], evaluated[1]);
}

#[test]
fn what_is_not_implemented_is_refused() {
    let cases: [(&[&str], Value, &str); 8] = [
        (&["slstm_block", "slstm", "gradient_recurrent_cut"], json!(true), "gradient_recurrent_cut"),
        (&["slstm_block", "slstm", "gradient_recurrent_clipval"], json!(1.0), "gradient_recurrent_clipval"),
        (&["slstm_block", "slstm", "backend"], json!("triton"), "`backend` is \"triton\""),
        (&["slstm_block", "slstm", "bias_init"], json!("wide"), "`bias_init` is \"wide\""),
        (&["slstm_block", "slstm", "recurrent_weight_init"], json!(1), "`recurrent_weight_init` is 1"),
        (&["slstm_block", "feedforward", "dropout"], json!(1.5), "`dropout` is 1.5"),
        (&["context_length"], json!(-2), "`context_length` is -2"),
        (&["num_blocks"], json!(1_000_000), "1000000"),
    ];
    for (path, value, expected) in cases {
        let mut config = block_config();
        let place = path.iter().fold(&mut config, |at, key| &mut at[*key]);
        *place = value;
        let failure = models::build(write(&config).path()).err().unwrap_or_else(|| panic!("{expected}"));
        assert!(failure.text.contains(expected), "{}", failure.text);
    }
}

#[test]
fn longer_sequences_than_the_package_takes_are_refused() {
    let dir = write(&block_config());
    let failure = open(dir.path(), Some(1)).evaluate(&Batch::counting(50, 1, 65).view(0)).unwrap_err();
    assert!(failure.text.contains("64"), "{}", failure.text);
}
