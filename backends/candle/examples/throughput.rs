//! How fast are the product and the forest scorer on this machine, and is the product worth having beside candle's?
//!
//! `cargo run --release -p bheval-candle --example throughput -- MODEL_FOLDER BLIMP_DATA_FOLDER`
//! Sentences are cut into pieces of up to three letters, hashed into the vocabulary: a stand-in for a tokenizer.
#![allow(clippy::print_stdout)]

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use bheval_abi::{Dtype, ForestView, LanguageModel, NO_PARENT, Opening};
use bheval_candle::Hgrn2;
use bheval_candle::kernels::Isa;
use bheval_candle::kernels::gemm::{Packed, Store, matmul};
use candle_core::{Device, Tensor};

/// Seconds of the best of some runs.
fn best(runs: usize, mut work: impl FnMut()) -> f64 {
    let time = |_| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    };
    (0..runs).map(time).fold(f64::MAX, f64::min)
}

fn products() {
    let sizes = [(9600, 192, 64), (9600, 64, 64), (9600, 320, 64), (9600, 64, 160), (9600, 768, 64)];
    for (m, n, k) in sizes.into_iter().chain([(1920, 1024, 1024), (1920, 5632, 1024), (960, 1024, 2816)]) {
        let flops = 2.0 * (m * n * k) as f64;
        let (x, w) = (vec![0.5f32; m * k], vec![0.25f32; n * k]);
        let packed = Packed::new(k, &[&w]);
        let mut y = vec![0.0; m * n];
        let speeds = Isa::available().into_iter().skip(1).map(|isa| {
            let seconds = best(5, || {
                for (x, y) in x.chunks(96 * k).zip(y.chunks_mut(96 * n)) {
                    matmul(isa, x, &packed, Store::Set, y);
                }
            });
            format!("{isa:?} {:.0}", flops / seconds / 1e9)
        });
        let speeds: Vec<_> = speeds.collect();
        let x = Tensor::from_vec(x, (m, k), &Device::Cpu).expect("x");
        let w = Tensor::from_vec(w, (n, k), &Device::Cpu).and_then(|w| w.t()).expect("w");
        let candle = flops / best(5, || drop(x.matmul(&w).expect("a product"))) / 1e9;
        println!("{m} x {n} x {k}: one thread GF/s {}; candle, its threads, {candle:.0}", speeds.join(", "));
    }
}

fn sentences(folder: &Path) -> Vec<Vec<u32>> {
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("a folder").map(|f| f.expect("a file").path()).collect();
    files.sort();
    let mut all = vec![];
    for file in files {
        for line in std::fs::read_to_string(file).expect("text").lines() {
            let pair: serde_json::Value = serde_json::from_str(line).expect("JSON");
            all.extend(
                ["sentence_good", "sentence_bad"].map(|key| pieces(pair[key].as_str().expect("text"))),
            );
        }
    }
    all
}

fn pieces(sentence: &str) -> Vec<u32> {
    let hash =
        |piece: &[u8]| piece.iter().fold(7u32, |h, &b| h.wrapping_mul(31).wrapping_add(b.into())) % 700 + 3;
    let words = sentence.split(' ').flat_map(|word| word.as_bytes().chunks(3).map(hash));
    std::iter::once(1).chain(words).collect()
}

#[derive(Default)]
struct Trie {
    token: Vec<u32>,
    parent: Vec<u32>,
    known: HashMap<(u32, u32), u32>,
}

impl Trie {
    fn add(&mut self, ids: &[u32]) {
        let mut above = NO_PARENT;
        for &id in ids {
            let next = self.token.len() as u32;
            above = *self.known.entry((above, id)).or_insert_with(|| {
                self.token.push(id);
                self.parent.push(above);
                next
            });
        }
    }
}

/// Tries of at most `nodes` nodes.
fn tries(sentences: &[Vec<u32>], nodes: usize) -> Vec<Trie> {
    let mut tries = vec![Trie::default()];
    for ids in sentences {
        if tries.last().is_some_and(|t| t.token.len() + ids.len() > nodes) {
            tries.push(Trie::default());
        }
        tries.last_mut().expect("never empty").add(ids);
    }
    tries
}

fn forests(model: &Path, sentences: &[Vec<u32>]) {
    for threads in [1, 2] {
        for memory in [16 << 20, 256 << 20] {
            let options = Opening { path: model.to_owned(), threads, dtype: Dtype::F32, memory };
            let mut opened = Hgrn2::open(&options).expect("the model opens");
            let tries = tries(sentences, opened.info().nodes as usize);
            let nodes: usize = tries.iter().map(|t| t.token.len()).sum();
            let (mut fed, start, before) = (0, Instant::now(), processor_seconds());
            for trie in &tries {
                let wanted: Vec<u8> = trie.parent.iter().map(|&p| u8::from(p != NO_PARENT)).collect();
                let forest = ForestView::new(&trie.token, &trie.parent, &wanted).expect("a forest");
                fed += opened.score(forest, &mut vec![0.0; wanted.len()]).expect("scores");
            }
            let seconds = start.elapsed().as_secs_f64();
            println!(
                "{threads} threads, {} MB: {nodes} nodes in {} calls, {fed} fed, {seconds:.2} s ({:.2} s of processor), {:.0} nodes/s; peak {}",
                memory >> 20,
                tries.len(),
                processor_seconds() - before,
                nodes as f64 / seconds,
                peak()
            );
        }
    }
}

/// Processor time of the process so far, in Linux's hundredths of a second: what a busy machine does not change.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks =
        stat.rsplit(')').next().unwrap_or_default().split(' ').filter_map(|field| field.parse::<f64>().ok());
    ticks.skip(10).take(2).sum::<f64>() / 100.0
}

/// Peak memory of the process so far, where the system tells it.
fn peak() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find(|l| l.starts_with("VmHWM")).unwrap_or("unknown").to_owned()
}

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    let [_, model, blimp] = &arguments[..] else {
        println!("usage: throughput MODEL_FOLDER BLIMP_DATA_FOLDER");
        return;
    };
    products();
    forests(Path::new(model), &sentences(Path::new(blimp)));
}
