//! LSTM, Mamba and Mamba-2 in the variants that the goldens do not cover: they learn from nothing, and what they learn
//! scores the same in the backends that read their files.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use std::path::{Path, PathBuf};

use bheval_abi::{
    Dtype, Failure, ForestView, Kept, LanguageModel, NO_PARENT, Opening, Start, Status, TrainView, Trainable,
};
use bheval_engine::trainer::Trainer;
use bheval_kernels::random::Numbers;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use support::rates;

const VOCAB: usize = 96;
const BATCH: usize = 3;
const STEPS: usize = 37;

/// Every variant, by name.
fn variants() -> Vec<(&'static str, Value)> {
    let mamba = json!({"model_type": "mamba", "vocab_size": VOCAB, "hidden_size": 24, "state_size": 5,
        "num_hidden_layers": 2, "initializer_range": 0.02});
    let mamba2 = json!({"model_type": "mamba2", "vocab_size": VOCAB, "hidden_size": 24, "num_heads": 6,
        "head_dim": 8, "state_size": 10, "n_groups": 2, "num_hidden_layers": 2, "initializer_range": 0.02});
    let with = |base: &Value, more: Value| {
        let mut all = base.clone();
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    vec![
        (
            "lstm",
            json!({"model_type": "lstm_lm", "vocab_size": VOCAB, "embedding_size": 16, "hidden_size": 40,
            "num_layers": 2}),
        ),
        (
            "tied lstm",
            json!({"model_type": "lstm_lm", "vocab_size": VOCAB, "embedding_size": 24,
            "hidden_size": 40, "num_layers": 1, "tie_word_embeddings": true, "decoder_bias": false,
            "forget_bias": 1.0}),
        ),
        (
            "lstm without biases",
            json!({"model_type": "lstm_lm", "vocab_size": VOCAB, "embedding_size": 32,
            "hidden_size": 32, "num_layers": 3, "tie_word_embeddings": true, "bias": false}),
        ),
        ("mamba", mamba.clone()),
        (
            "mamba with options",
            with(
                &mamba,
                json!({"use_bias": true, "use_conv_bias": false, "conv_kernel": 3,
            "time_step_rank": 7, "expand": 1.5, "tie_word_embeddings": false,
            "rescale_prenorm_residual": true, "time_step_init_scheme": "constant"}),
            ),
        ),
        (
            "mamba of its package",
            json!({"d_model": 24, "n_layer": 2, "vocab_size": 91,
            "ssm_cfg": {"d_state": 6}, "pad_vocab_size_multiple": 8}),
        ),
        ("mamba2", mamba2.clone()),
        (
            "mamba2 with options",
            with(
                &mamba2,
                json!({"use_bias": true, "use_conv_bias": false, "n_groups": 3,
            "time_step_limit": [0.01, 0.05], "tie_word_embeddings": true}),
            ),
        ),
        (
            "mamba2 of its package",
            json!({"d_model": 24, "n_layer": 2, "vocab_size": 96, "tie_embeddings": false,
            "ssm_cfg": {"layer": "Mamba2", "d_state": 8, "headdim": 12, "ngroups": 2}}),
        ),
    ]
}

fn folder(config: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    folder
}

fn create(path: &Path, seed: Option<u64>, threads: usize) -> Result<Trainer, Failure> {
    Trainer::create(&Start { path: path.to_owned(), seed, threads, dtype: Dtype::F32 })
}

/// Windows of random tokens, each row's target the next one.
struct Batch {
    tokens: Vec<u32>,
    targets: Vec<i32>,
}

impl Batch {
    fn new() -> Self {
        let mut numbers = Numbers::new(3);
        let windows: Vec<u32> = (0..BATCH * (STEPS + 1)).map(|_| (numbers.unit() * 90.0) as u32).collect();
        let rows = windows.chunks(STEPS + 1);
        Self {
            tokens: rows.clone().flat_map(|row| row[..STEPS].to_vec()).collect(),
            targets: rows.flat_map(|row| row[1..].iter().map(|&t| t as i32)).collect(),
        }
    }

    fn view(&self, pass: u64) -> TrainView<'_> {
        TrainView {
            batch: BATCH,
            steps: STEPS,
            tokens: &self.tokens,
            targets: &self.targets,
            weight: 1.0 / self.targets.len() as f32,
            pass,
            teacher: None,
        }
    }

    /// Mean loss.
    fn loss(&self, trainer: &mut Trainer) -> f64 {
        trainer.evaluate(&self.view(0)).unwrap().nats / self.targets.len() as f64
    }

    fn train(&self, trainer: &mut Trainer, steps: u64) {
        for step in 1..=steps {
            trainer.accumulate(&self.view(step)).unwrap();
            trainer.update(&rates(step, 1e-2, 0.98)).unwrap();
        }
    }
}

#[test]
fn every_variant_starts_with_a_guess_and_learns_a_batch() {
    let batch = Batch::new();
    for (name, config) in variants() {
        let folder = folder(&config);
        let mut trainer = create(folder.path(), Some(5), 2).unwrap_or_else(|e| panic!("{name}: {e}"));
        let guess = f64::from(trainer.info().vocab).ln();
        let first = batch.loss(&mut trainer);
        batch.train(&mut trainer, 60);
        let last = batch.loss(&mut trainer);
        println!("{name}: {first:.3} for {guess:.3}, then {last:.3}");
        assert!((first - guess).abs() < 0.2, "{name}: {first} is no guess, which is {guess}");
        assert!(last < 0.85 * first, "{name}: {last} after {first}");
    }
}

/// Writes the weights as the checkpoint that the backends read.
fn export(trainer: &mut Trainer, folder: &Path) {
    let tensors = trainer.tensors().to_vec();
    let mut data = vec![];
    for (i, tensor) in tensors.iter().enumerate() {
        let bytes: Vec<u8> =
            trainer.kept(i, Kept::WEIGHT).unwrap().iter().flat_map(|x| x.to_le_bytes()).collect();
        data.push((tensor.name.clone(), tensor.shape.clone(), bytes));
    }
    let views = data.iter().map(|(name, shape, bytes)| {
        (name.as_str(), TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
}

/// Sum of log-probabilities of the batch's targets, by the backend that scores such files.
fn score<M: LanguageModel>(folder: &Path, batch: &Batch) -> f64 {
    let mut model =
        M::open(&Opening { path: folder.to_owned(), threads: 1, dtype: Dtype::F32, memory: 1 << 30 })
            .unwrap();
    let (mut token, mut parent, mut wanted) = (vec![], vec![], vec![]);
    for (row, targets) in batch.tokens.chunks(STEPS).zip(batch.targets.chunks(STEPS)) {
        let chain = [row[0]].into_iter().chain(targets.iter().map(|&t| t as u32));
        for (i, id) in chain.enumerate() {
            parent.push(if i == 0 { NO_PARENT } else { token.len() as u32 - 1 });
            token.push(id);
            wanted.push(u8::from(i > 0));
        }
    }
    let mut log_prob = vec![0.0; token.len()];
    let forest = ForestView::new(&token, &parent, &wanted).unwrap();
    model.score(forest, &mut log_prob).unwrap();
    log_prob.iter().zip(&wanted).filter(|(_, wanted)| **wanted == 1).map(|(l, _)| f64::from(*l)).sum()
}

#[test]
fn what_is_trained_scores_the_same_and_trains_on() {
    let batch = Batch::new();
    for (name, config) in variants() {
        let folder = folder(&config);
        let mut trainer = create(folder.path(), Some(5), 2).unwrap_or_else(|e| panic!("{name}: {e}"));
        batch.train(&mut trainer, 3);
        export(&mut trainer, folder.path());
        let own = trainer.evaluate(&batch.view(0)).unwrap().nats;
        let scored = match name.contains("lstm") {
            true => score::<bheval_candle::Lstm>(folder.path(), &batch),
            false => score::<bheval_candle::Mamba>(folder.path(), &batch),
        };
        assert!((own + scored).abs() < 2e-6 * own, "{name}: {own} nats in training, {} when scored", -scored);
        let mut again = create(folder.path(), None, 1).unwrap_or_else(|e| panic!("{name}: {e}"));
        let read = again.evaluate(&batch.view(0)).unwrap().nats;
        assert_eq!(read.to_bits(), own.to_bits(), "{name}: read again, on another number of threads");
    }
}

#[test]
fn threads_and_repetition_change_no_bit_of_the_weights() {
    let batch = Batch::new();
    for (name, config) in variants() {
        let folder = folder(&config);
        let run = |threads| {
            let mut trainer = create(folder.path(), Some(5), threads).unwrap();
            batch.train(&mut trainer, 2);
            (0..trainer.tensors().len())
                .map(|i| trainer.kept(i, Kept::WEIGHT).unwrap().to_vec())
                .collect::<Vec<_>>()
        };
        assert!(run(1) == run(3), "{name}");
    }
}

/// `tests/golden/NAME`, where transformers computed the logits of some sequences.
fn against_peer(name: &str) {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name);
    let bytes = std::fs::read(folder.join("golden.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut trainer = create(&folder, None, 2).unwrap();
    let vocab = trainer.info().vocab as usize;
    for i in 0..3 {
        let logits = file.tensor(&format!("logits.{i}")).unwrap();
        let logits: Vec<f64> = floats(&logits);
        let tokens: Vec<u32> =
            floats(&file.tensor(&format!("ids.{i}")).unwrap()).iter().map(|&x| x as u32).collect();
        // Any targets will do, so that every row counts.
        let targets: Vec<i32> = (0..tokens.len()).map(|row| (row * 7 % vocab) as i32).collect();
        let nats: f64 = logits
            .chunks(vocab)
            .zip(&targets)
            .map(|(z, &target)| {
                let top = z.iter().fold(f64::NEG_INFINITY, |m, &z| m.max(z));
                top + z.iter().map(|z| (z - top).exp()).sum::<f64>().ln() - z[target as usize]
            })
            .sum();
        let view = TrainView {
            batch: 1,
            steps: tokens.len(),
            tokens: &tokens,
            targets: &targets,
            weight: 1.0,
            pass: 0,
            teacher: None,
        };
        let own = trainer.evaluate(&view).unwrap().nats;
        println!("{name} {i}: {own} nats, peer {nats}");
        assert!((own - nats).abs() < 1e-6 * nats, "{name}, sequence {i}: {own} nats, peer {nats}");
    }
}

/// Any number format that the goldens use.
fn floats(tensor: &TensorView<'_>) -> Vec<f64> {
    let data = tensor.data();
    let wide = |b: &[u8]| -> [u8; 8] { b.try_into().unwrap() };
    match tensor.dtype() {
        safetensors::Dtype::F32 => {
            data.chunks(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect()
        }
        safetensors::Dtype::F64 => data.chunks(8).map(|b| f64::from_le_bytes(wide(b))).collect(),
        safetensors::Dtype::I64 => data.chunks(8).map(|b| i64::from_le_bytes(wide(b)) as f64).collect(),
        safetensors::Dtype::U32 => {
            data.chunks(4).map(|b| f64::from(u32::from_le_bytes(b.try_into().unwrap()))).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn options_agree_with_transformers() {
    against_peer("mamba_options");
    against_peer("mamba2_groups");
}

#[test]
fn dropout_is_a_function_of_the_pass_and_off_outside_training() {
    let config = json!({"model_type": "lstm_lm", "vocab_size": VOCAB, "embedding_size": 16, "hidden_size": 40,
        "num_layers": 2, "dropout": 0.3, "embedding_dropout": 0.2, "output_dropout": 0.1});
    let plain = folder(&json!({"model_type": "lstm_lm", "vocab_size": VOCAB, "embedding_size": 16,
        "hidden_size": 40, "num_layers": 2}));
    let (batch, dropped) = (Batch::new(), folder(&config));
    let mut trainer = create(dropped.path(), Some(5), 2).unwrap();
    let off = batch.loss(&mut trainer);
    assert_eq!(off.to_bits(), batch.loss(&mut create(plain.path(), Some(5), 2).unwrap()).to_bits());
    let mut on = |pass| trainer.accumulate(&batch.view(pass)).unwrap().nats.to_bits();
    let (one, two) = (on(1), on(2));
    assert!(one != two && one == on(1));
}

#[test]
fn a_forget_bias_is_that_of_both_biases_together() {
    let config = json!({"model_type": "lstm_lm", "vocab_size": VOCAB, "embedding_size": 16, "hidden_size": 10,
        "num_layers": 1, "forget_bias": 1.5});
    let mut trainer = create(folder(&config).path(), Some(5), 1).unwrap();
    let find = |trainer: &Trainer, name: &str| trainer.tensors().iter().position(|t| t.name == name).unwrap();
    let (a, b) = (find(&trainer, "lstm.bias_ih_l0"), find(&trainer, "lstm.bias_hh_l0"));
    let a = trainer.kept(a, Kept::WEIGHT).unwrap().to_vec();
    let b = trainer.kept(b, Kept::WEIGHT).unwrap().to_vec();
    assert!(a[10..20].iter().zip(&b[10..20]).all(|(a, b)| a + b == 1.5));
    assert!(a[..10].iter().chain(&a[20..]).all(|x| x.abs() <= 0.317 && *x != 0.0));
}

#[test]
fn what_cannot_be_trained_is_refused() {
    let cases = [
        (
            json!({"model_type": "lstm_lm", "vocab_size": 9, "embedding_size": 4, "hidden_size": 4, "num_layers": 1,
            "dropout": 1.0}),
            "`dropout` is 1.0",
        ),
        (
            json!({"model_type": "lstm_lm", "vocab_size": 9, "embedding_size": 4, "hidden_size": 4, "num_layers": 1,
            "proj_size": 3}),
            "`proj_size` is 3",
        ),
        (
            json!({"model_type": "mamba", "vocab_size": 9, "hidden_size": 4, "num_hidden_layers": 1,
            "time_step_min": 0.5}),
            "`time_step_min` 0.5 is above `time_step_max` 0.1",
        ),
        (
            json!({"model_type": "mamba", "vocab_size": 9, "hidden_size": 4, "num_hidden_layers": 1,
            "time_step_init_scheme": "zeros"}),
            "`time_step_init_scheme` is zeros",
        ),
        (
            json!({"model_type": "mamba2", "vocab_size": 9, "hidden_size": 4, "num_hidden_layers": 1,
            "num_heads": 3, "head_dim": 2, "state_size": 4, "n_groups": 1}),
            "3 heads of 2 channels",
        ),
        (
            json!({"model_type": "mamba", "vocab_size": 9, "hidden_size": 4, "num_hidden_layers": 1,
            "initializer_range": 0}),
            "`initializer_range` is 0, but must be a number above 0",
        ),
    ];
    for (config, expected) in cases {
        let found = create(folder(&config).path(), Some(1), 1).err().unwrap();
        assert!(found.text.contains(expected), "{expected}: {}", found.text);
        assert!([Status::BAD_MODEL, Status::UNSUPPORTED].contains(&found.status), "{expected}");
    }
}
