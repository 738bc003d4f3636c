//! ONNX models against what onnxruntime, transformers and hand calculation say of them.

use std::path::{Path, PathBuf};

use bheval_abi::{LanguageModel, Opening};
use bheval_data::encode::Request;
use bheval_eval::{BatchSize, Order, Record, score_all};
use bheval_host::{Dtype, Error, Forest, Library, Model, ModelOptions, Route, Status};
use bheval_onnx::Onnx;
use bheval_onnx::runtime::Runtime;
use bheval_tests::golden;
use bheval_tests::onnx::{Model as File, Tensor, Value, field, onnxruntime};
use bheval_tests::reference::{Gpt2, Llama, Reference};
use serde::Deserialize;

/// f32 in one library against f32 or f64 in another is 7e-6 at most (golden/README.md).
const LOGIT_TOLERANCE: f64 = 1e-4;
const TOKEN_TOLERANCE: f32 = 5e-5;

fn library() -> Library {
    Runtime::load(onnxruntime()).expect("the library loads");
    Library::linked(&bheval_onnx::BACKEND).expect("a whole table")
}

fn options(path: PathBuf, threads: u32) -> ModelOptions {
    ModelOptions { path, threads, dtype: Dtype::F32, memory: 1 << 28 }
}

fn open(path: impl Into<PathBuf>) -> Result<Model, Error> {
    Model::open(&library(), &options(path.into(), 2))
}

/// A hand-made model in a folder of its own.
fn made(file: &File) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, file.bytes()).expect("written");
    (folder, path)
}

#[track_caller]
fn says(error: &Error, status: Status, parts: &[&str]) {
    assert!(matches!(error, Error::Refused { status: s, .. } if *s == status), "{error:?}");
    for part in parts {
        assert!(error.to_string().contains(part), "{part:?} is not in: {error}");
    }
}

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    input_ids: Vec<Vec<u32>>,
    logits_last_first8: Vec<Vec<f64>>,
    logits_sum: f64,
    logits_l2: f64,
}

/// Logits after every token of some sequences.
fn logits(model: &mut Model, sequences: &[Vec<u32>]) -> Vec<Vec<f64>> {
    let mut forest = Forest::new();
    sequences.iter().for_each(|ids| drop(forest.insert_alone(ids, &vec![true; ids.len()])));
    let all = model.logits(&forest).expect("logits");
    let mut rest = all.as_slice();
    let vocab = model.info().vocab as usize;
    let mut take = |ids: &Vec<u32>| rest.split_off(..ids.len() * vocab).expect("one row a token");
    sequences.iter().map(|ids| take(ids).iter().map(|&x| f64::from(x)).collect()).collect()
}

fn logits_match(name: &str, parameters: u64) {
    let folder = golden().join("onnx");
    let bytes = std::fs::read(folder.join(format!("{name}.golden.json"))).expect("a golden file");
    let golden: Golden = serde_json::from_slice(&bytes).expect("JSON");
    let mut model = open(folder.join(format!("{name}.onnx"))).expect("the golden model opens");
    assert_eq!((model.info().vocab, model.info().parameters), (768, parameters));
    assert!(!golden.cases.is_empty());
    for case in golden.cases {
        let ours = logits(&mut model, &case.input_ids);
        for (ours, theirs) in ours.iter().zip(&case.logits_last_first8) {
            let last = &ours[ours.len() - 768..];
            for (a, b) in last.iter().zip(theirs) {
                assert!((a - b).abs() < LOGIT_TOLERANCE, "{a}, not {b}");
            }
        }
        let (sum, square) = ours.iter().flatten().fold((0.0, 0.0), |(s, q), x| (s + x, q + x * x));
        let elements = ours.iter().map(Vec::len).sum::<usize>() as f64;
        assert!(
            (sum - case.logits_sum).abs() < LOGIT_TOLERANCE * elements.sqrt(),
            "{sum}, not {}",
            case.logits_sum
        );
        assert!(
            (square.sqrt() - case.logits_l2).abs() < 1e-6 * case.logits_l2,
            "{square}, not {}",
            case.logits_l2
        );
    }
}

#[test]
fn logits_are_those_of_the_golden_files() {
    // Half a head's rotary frequencies are stored with the weights.
    logits_match("llama", 189_248 + 8);
    // The tied head is stored a second time, transposed: 768 tokens by 64.
    logits_match("gpt2", 207_424 + 768 * 64);
}

#[derive(Deserialize)]
struct Sentences {
    sentences: Vec<Sentence>,
}

#[derive(Deserialize)]
struct Sentence {
    ids: Vec<u32>,
    logprobs: Vec<f32>,
}

fn sentences(name: &str) -> Vec<Sentence> {
    let bytes = std::fs::read(golden().join(name).join("golden.json")).expect("golden.json is there");
    serde_json::from_slice::<Sentences>(&bytes).expect("golden.json is understood").sentences
}

fn scores(model: &mut Model, sentences: &[Sentence]) -> Vec<Vec<f32>> {
    let mut forest = Forest::new();
    let mut nodes = Vec::new();
    for s in sentences {
        let wanted: Vec<bool> = (0..s.ids.len()).map(|t| t > 0).collect();
        nodes.push(forest.insert_alone(&s.ids, &wanted));
    }
    let scored = model.score(&forest, Route::Forest).expect("scores");
    nodes.iter().map(|n| n[1..].iter().map(|&n| scored.log_prob[n as usize]).collect()).collect()
}

/// Against the naive models in f64, and against transformers.
fn scores_match<A: bheval_tests::reference::Architecture>(name: &str) {
    let sentences = sentences(name);
    let ours = scores(&mut open(golden().join(format!("onnx/{name}.onnx"))).expect("opens"), &sentences);
    let table: &'static bheval_abi::Backend = Box::leak(Box::new(bheval_abi::backend::<Reference<A>>()));
    let reference = Library::linked(table).expect("a whole table");
    let mut reference = Model::open(&reference, &options(golden().join(name), 2)).expect("opens");
    let naive = scores(&mut reference, &sentences);
    for ((ours, naive), sentence) in ours.iter().zip(&naive).zip(&sentences) {
        assert_eq!(ours.len(), sentence.logprobs.len());
        for ((a, b), c) in ours.iter().zip(naive).zip(&sentence.logprobs) {
            assert!((a - b).abs() < TOKEN_TOLERANCE && (a - c).abs() < TOKEN_TOLERANCE, "{a}, not {b}, {c}");
        }
    }
}

#[test]
fn llama_scores_as_the_naive_model_and_transformers_do() {
    scores_match::<Llama>("llama");
}

#[test]
fn gpt2_scores_as_the_naive_model_and_transformers_do() {
    scores_match::<Gpt2>("gpt2");
}

#[test]
fn order_batches_and_threads_change_no_bit() {
    // Sequences of many lengths, many of which begin alike: prefixes of a sentence, and ends of another.
    let mut requests = Vec::new();
    for s in sentences("llama") {
        for len in 2..=s.ids.len() {
            let scored = (0..len).map(|t| t > 0).collect();
            requests.push(Request { ids: s.ids[..len].to_vec(), scored });
        }
    }
    requests.sort();
    requests.dedup();
    assert!(requests.len() > 200 && !requests.len().is_multiple_of(7919));
    let library = library();
    let score = |threads: u32, requests: &[Request], order: Order, size: BatchSize| -> Vec<Record> {
        let options = options(golden().join("onnx/llama.onnx"), threads);
        let mut model = Model::open(&library, &options).expect("opens");
        score_all(&mut model, requests, order, size, Route::Forest).expect("scores")
    };
    let alone = score(1, &requests, Order::AsGiven, BatchSize::Requests(1));
    let order: Vec<usize> = (0..requests.len()).map(|i| (i * 7919 + 5) % requests.len()).collect();
    let mixed: Vec<Request> = order.iter().map(|&i| requests[i].clone()).collect();
    for (threads, order_of, size) in [
        (2, Order::AsGiven, BatchSize::Requests(7)),
        (1, Order::Sorted, BatchSize::Auto),
        (2, Order::Sorted, BatchSize::Auto),
        (3, Order::AsGiven, BatchSize::Requests(64)),
    ] {
        for (&place, record) in order.iter().zip(score(threads, &mixed, order_of, size)) {
            assert_eq!(record.log_prob.to_bits(), alone[place].log_prob.to_bits(), "{:?}", requests[place]);
        }
    }
}

/// Logits of a model of three tokens: row `i` follows token `i`.
const TABLE: [f32; 9] = [0.0, 1.0, 2.0, -1.0, 0.5, 3.0, 4.0, 4.0, 4.0];

fn table() -> Tensor {
    Tensor::f32("table", &[3, 3], &TABLE)
}

/// `ln softmax(TABLE[row])[token]` in f64.
fn expected(row: usize, token: usize) -> f64 {
    let row: Vec<f64> = TABLE[3 * row..3 * row + 3].iter().map(|&x| f64::from(x)).collect();
    row[token] - row.iter().map(|x| x.exp()).sum::<f64>().ln()
}

/// Scores the tokens 0 1 2 2 1.
fn five(model: &mut Model) -> Result<Vec<f32>, Error> {
    let mut forest = Forest::new();
    forest.insert_alone(&[0, 1, 2, 2, 1], &[false, true, true, true, true]);
    model.score(&forest, Route::Forest).map(|s| s.log_prob[1..].to_vec())
}

fn is_right(file: &File, tolerance: f64) {
    let (_folder, path) = made(file);
    let mut model = open(&path).unwrap_or_else(|e| panic!("{e}"));
    let expected = [expected(0, 1), expected(1, 2), expected(2, 2), expected(2, 1)];
    for (ours, expected) in five(&mut model).expect("scores").into_iter().zip(expected) {
        assert!((f64::from(ours) - expected).abs() < tolerance, "{ours}, not {expected}");
    }
}

#[test]
fn number_formats_and_optional_inputs_are_taken() {
    is_right(&File::bigram(table(), 7), 1e-6);
    is_right(&File::bigram(table(), 6), 1e-6);
    // These logits are exact in f16.
    let half = TABLE.iter().flat_map(|&x| half(x).to_le_bytes()).collect();
    is_right(&File::bigram(Tensor { kind: 10, raw: half, ..table() }, 7), 1e-6);
    let mut masked = File::bigram(table(), 7);
    masked.inputs.push(Value::new("attention_mask", 7, &[-1, -1]));
    masked.inputs.push(Value::new("position_ids", 7, &[1, -1]));
    is_right(&with_mask(masked), 1e-6);
}

/// Bits of a number that f16 holds exactly: half of its range of exponents, the upper ten bits of the fraction.
fn half(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = (bits >> 16) as u16 & 0x8000;
    let exponent = (bits >> 23 & 0xff) as i32 - 127 + 15;
    if x == 0.0 { sign } else { sign | (exponent as u16) << 10 | (bits >> 13) as u16 & 0x3ff }
}

/// `logits = gathered * mask + position - position'`, where position' counts the mask: equal if both are fed rightly.
fn with_mask(mut file: File) -> File {
    file.nodes.clear();
    let axis = [bheval_tests::onnx::Attribute::Int("axis", 0)];
    let to_f32 = [bheval_tests::onnx::Attribute::Int("to", 1)];
    file.tensors.push(Tensor {
        name: "last".into(),
        kind: 7,
        dims: vec![1],
        raw: 2_i64.to_le_bytes().into(),
        external: vec![],
    });
    file.tensors.push(Tensor {
        name: "first".into(),
        kind: 7,
        dims: vec![],
        raw: 1_i64.to_le_bytes().into(),
        external: vec![],
    });
    file.tensors.push(Tensor::f32("one", &[1], &[1.0]));
    file.node("Gather", &["table", "input_ids"], "gathered", &axis);
    file.node("Cast", &["attention_mask"], "mask", &to_f32);
    file.node("Unsqueeze", &["mask", "last"], "column", &[]);
    file.node("Mul", &["gathered", "column"], "kept", &[]);
    file.node("CumSum", &["mask", "first"], "count", &[]);
    file.node("Sub", &["count", "one"], "places", &[]);
    file.node("Cast", &["position_ids"], "positions", &to_f32);
    file.node("Sub", &["places", "positions"], "nothing", &[]);
    file.node("Unsqueeze", &["nothing", "last"], "zero", &[]);
    file.node("Add", &["kept", "zero"], "logits", &[]);
    file
}

#[test]
fn a_fixed_length_is_filled_up_and_limits_the_context() {
    let mut file = with_mask({
        let mut file = File::bigram(table(), 7);
        file.inputs.push(Value::new("attention_mask", 7, &[1, 6]));
        file.inputs.push(Value::new("position_ids", 7, &[1, 6]));
        file
    });
    file.inputs[0].dims = vec![1, 6];
    file.outputs[0].dims = vec![1, 6, 3];
    // What is masked has its position in the file's arithmetic, so padding must not reach the tokens' rows.
    let (_folder, path) = made(&file);
    let mut model = open(&path).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(model.info().context, Some(6));
    assert!((f64::from(five(&mut model).expect("scores")[0]) - expected(0, 1)).abs() < 1e-6);
    let mut forest = Forest::new();
    forest.insert_alone(&[0; 7], &[false, true, true, true, true, true, true]);
    says(
        &model.score(&forest, Route::Forest).expect_err("too long"),
        Status::BAD_INPUT,
        &["7 tokens", "context of 6"],
    );
}

#[test]
fn what_is_no_decoder_is_refused_with_its_name() {
    let refused = |edit: &dyn Fn(&mut File), parts: &[&str]| {
        let mut file = File::bigram(table(), 7);
        edit(&mut file);
        let (_folder, path) = made(&file);
        says(&open(&path).expect_err("should be refused"), Status::UNSUPPORTED, parts);
    };
    let input = |name: &'static str, kind: u64, dims: &'static [i64]| {
        move |f: &mut File| f.inputs.push(Value::new(name, kind, dims))
    };
    refused(
        &input("past_key_values.0.key", 1, &[-1, 2, -1, 8]),
        &["past_key_values.0.key", "without past keys"],
    );
    refused(&input("use_cache_branch", 9, &[1]), &["use_cache_branch"]);
    refused(&input("token_type_ids", 7, &[-1, -1]), &["token_type_ids", "a decoder takes"]);
    refused(&input("attention_mask", 1, &[-1, -1]), &["attention_mask", "int64 or int32"]);
    refused(&input("attention_mask", 7, &[-1, 1, -1, -1]), &["attention_mask", "[batch, sequence]"]);
    refused(&|f| f.inputs[0].dims = vec![4, -1], &["input_ids", "batch of a fixed size"]);
    let renamed = |f: &mut File| {
        f.node("Identity", &["logits"], "last_hidden_state", &[]);
        f.outputs[0].name = "last_hidden_state".into();
    };
    refused(&renamed, &["no output `logits`", "last_hidden_state"]);
}

#[test]
fn a_model_that_sees_what_comes_after_is_refused() {
    let mut file = File::bigram(table(), 7);
    file.nodes.clear();
    file.node("Gather", &["table", "input_ids"], "own", &[bheval_tests::onnx::Attribute::Int("axis", 0)]);
    // The mean over the sequence: what a masked model might do.
    let axes = bheval_tests::onnx::Attribute::Other("axes", 8, 7, vec![1]);
    file.node("ReduceMean", &["own"], "mean", &[axes]);
    file.node("Add", &["own", "mean"], "logits", &[]);
    let (_folder, path) = made(&file);
    says(&open(&path).expect_err("not causal"), Status::UNSUPPORTED, &["left to right", "masked model"]);
}

#[test]
fn values_that_are_not_finite_are_refused_and_named() {
    for broken in [f32::NAN, f32::INFINITY] {
        let mut values = TABLE;
        values[7] = broken;
        let (_folder, path) = made(&File::bigram(Tensor::f32("table", &[3, 3], &values), 7));
        let mut model = open(&path).unwrap_or_else(|e| panic!("{e}"));
        says(&five(&mut model).expect_err("broken"), Status::NOT_FINITE, &["node 3", "follow token 2"]);
    }
}

#[test]
fn tokens_beyond_the_vocabulary_and_roots_are_refused() {
    let mut model = open(golden().join("onnx/llama.onnx")).expect("opens");
    let mut score = |ids: &[u32], scored: &[bool]| {
        let mut forest = Forest::new();
        forest.insert_alone(ids, scored);
        model.score(&forest, Route::Forest).expect_err("refused")
    };
    says(&score(&[1, 768], &[false, true]), Status::BAD_INPUT, &["768"]);
    says(&score(&[1, 5], &[true, true]), Status::BAD_INPUT, &["root"]);
}

#[test]
fn damaged_files_are_refused() {
    let whole = std::fs::read(golden().join("onnx/llama.onnx")).expect("a golden file");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.onnx");
    for (bytes, part) in [
        (&whole[..whole.len() / 2], "cut short"),
        (&[][..], "no graph"),
        (b"<!doctype html>", "no ONNX model"),
        (&[&b"\x18\0\0\0ORTM"[..], &whole[8..]].concat(), "no ONNX model"),
    ] {
        std::fs::write(&path, bytes).expect("written");
        says(&open(&path).expect_err("damaged"), Status::BAD_MODEL, &["model.onnx", part]);
    }
    // Well-formed fields that no runtime makes a graph of.
    std::fs::write(&path, field(7, field(1, field(4, "NoSuchOperator")))).expect("written");
    says(&open(&path).expect_err("no graph"), Status::BAD_MODEL, &["onnxruntime", "model.onnx"]);
    let missing = open(folder.path().join("other.onnx")).expect_err("missing");
    says(&missing, Status::BAD_MODEL, &["other.onnx", "can't be read"]);
    std::fs::remove_file(&path).expect("removed");
    says(&open(folder.path()).expect_err("nothing there"), Status::BAD_MODEL, &["no .onnx file"]);
}

#[test]
fn external_data_is_read_from_the_models_folder_only() {
    let entries = [("location", "weights/table.bin"), ("offset", "4"), ("length", "36")];
    let (folder, path) = made(&File::bigram(table().external(&entries), 7));
    let data: Vec<u8> = [f32::NAN].iter().chain(&TABLE).flat_map(|x| x.to_le_bytes()).collect();
    says(&open(&path).expect_err("missing"), Status::BAD_MODEL, &["table.bin", "can't be opened"]);
    std::fs::create_dir(folder.path().join("weights")).expect("made");
    std::fs::write(folder.path().join("weights/table.bin"), &data).expect("written");
    let mut model = open(&path).unwrap_or_else(|e| panic!("{e}"));
    assert!((f64::from(five(&mut model).expect("scores")[0]) - expected(0, 1)).abs() < 1e-6);
    assert_eq!(model.info().parameters, 9);

    std::fs::write(folder.path().join("outside.bin"), &data).expect("written");
    let inner = folder.path().join("weights/model.onnx");
    let outside = table().external(&[("location", "../outside.bin"), ("offset", "4")]);
    std::fs::write(&inner, File::bigram(outside, 7).bytes()).expect("written");
    says(
        &open(&inner).expect_err("outside"),
        Status::BAD_MODEL,
        &["../outside.bin", "not inside the model's folder"],
    );
}

#[test]
fn the_digest_covers_external_data() {
    let entries = [("location", "table.bin")];
    let (folder, path) = made(&File::bigram(table().external(&entries), 7));
    let write =
        |x: f32| std::fs::write(folder.path().join("table.bin"), [x; 9].map(f32::to_le_bytes).concat());
    write(1.0).expect("written");
    let first = bheval_eval::model_sha256(&path).expect("a digest");
    assert_eq!(
        bheval_eval::model_sha256(folder.path()).expect("a digest"),
        first,
        "the folder stands for its file"
    );
    write(2.0).expect("written");
    assert_ne!(bheval_eval::model_sha256(&path).expect("a digest"), first);
    std::fs::remove_file(folder.path().join("table.bin")).expect("removed");
    assert!(bheval_eval::model_sha256(&path).is_err());
}

#[test]
fn what_computes_is_part_of_the_number_format() {
    let path = golden().join("onnx/llama.onnx");
    let runtime = Runtime::load(onnxruntime()).expect("loads");
    let opening = Opening { path, threads: 1, dtype: Dtype::F32, memory: 1 << 20 };
    let model = Onnx::open(&opening).expect("opens");
    assert_eq!(model.info().dtype, format!("f32 by onnxruntime {}", runtime.version));
    assert!(Path::new(&runtime.path).is_file());
    let refused = Onnx::open(&Opening { dtype: Dtype::BF16, ..opening }).err().expect("refused");
    assert_eq!(refused.status, Status::UNSUPPORTED);
}
