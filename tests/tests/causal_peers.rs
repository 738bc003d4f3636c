//! What `protocols.rs` leaves: the BabyLM 2025 pipeline's other tasks, lm-pub-quiz and minicons on models that are read
//! left to right, item by item, in every backend of `peers::BACKENDS`.
#![allow(clippy::print_stdout)] // The largest differences are worth seeing: `cargo test -- --nocapture`.

use bheval_data::encode::{Encoder, Query, Request};
use bheval_data::protocol::Protocol;
use bheval_tests::peers::{Peer, babylm_items, bear_rows, candidates, numbers, protocol_golden, same, texts};

fn babylm2025(task: &str, model: &str) {
    let golden = protocol_golden(&format!("babylm25_{task}_causal_{model}.json"));
    for mut peer in Peer::all(model) {
        for (uid, items) in golden["items"].as_object().expect("subsets") {
            let ours = peer.causal(Protocol::Babylm2025, &babylm_items(task, uid));
            let largest = same(&format!("{} {task} {uid}", peer.backend), &ours, &candidates(items));
            println!("babylm2025 {} {task} {uid}: largest difference {largest:.1e}", peer.backend);
        }
    }
}

#[test]
fn babylm2025_comps() {
    babylm2025("comps", "gpt2");
}

#[test]
fn babylm2025_entity_tracking() {
    babylm2025("entity_tracking", "gpt2");
}

#[test]
fn babylm2025_wug_adj() {
    babylm2025("wug_adj", "gpt2");
}

fn pubquiz(golden: &str, model: &str, protocols: &[Protocol]) {
    let rows = bear_rows(&protocol_golden(&format!("pubquiz_clm_{golden}.json")));
    let queries: Vec<Query> = rows.iter().flat_map(|(_, queries, _)| queries.clone()).collect();
    let expected: Vec<_> = rows.iter().map(|(_, _, scores)| scores.clone()).collect();
    for mut peer in Peer::all(model) {
        for &protocol in protocols {
            let ours = peer.causal(protocol, &queries);
            let largest = same(&format!("{} {golden} {protocol}", peer.backend), &ours, &expected);
            println!(
                "lm-pub-quiz {golden} {protocol}: {} statements, largest difference {largest:.1e}",
                ours.len()
            );
        }
    }
}

/// Without a BOS the first token has no score, as in BabyLM 2025.
#[test]
fn pubquiz_gpt2_as_encoded() {
    pubquiz("gpt2", "gpt2", &[Protocol::Babylm2025]);
}

/// With one put there by hand, every token has, as by our default.
#[test]
fn pubquiz_gpt2_with_a_bos() {
    pubquiz("bos_gpt2", "gpt2", &[Protocol::Bheval]);
}

/// A tokenizer that adds its BOS by itself leaves both nothing to differ in.
#[test]
fn pubquiz_llama() {
    pubquiz("llama", "llama", &[Protocol::Bheval, Protocol::Babylm2025]);
}

/// minicons' scores of a model, as pairs, under the key `logprob_sum_{key}`, and its sentences.
fn minicons(model: &str, key: &str) -> (Vec<String>, Vec<Vec<f64>>) {
    let golden = protocol_golden(&format!("minicons_clm_{model}.json"));
    let sentences = texts(&golden["sentences"]).into_iter().map(str::to_owned).collect();
    let scores = numbers(&golden[format!("logprob_sum_{key}")]);
    (sentences, scores.chunks(2).map(<[f64]>::to_vec).collect())
}

/// Its default takes what the tokenizer gives: BabyLM 2025's rule, and ours where the tokenizer puts a BOS there.
#[test]
fn minicons_default() {
    let as_ours = [Protocol::Babylm2025, Protocol::Bheval];
    for (model, protocols) in [("gpt2", &as_ours[..1]), ("llama", &as_ours), ("opt", &as_ours)] {
        let (sentences, expected) = minicons(model, "default");
        let queries: Vec<Query> = sentences.iter().map(Query::sentence).collect();
        for mut peer in Peer::all(model) {
            for &protocol in protocols {
                let ours = peer.causal(protocol, &queries);
                let largest = same(&format!("{} {protocol}", peer.backend), &ours, &expected);
                println!("minicons {} {protocol}: largest difference {largest:.1e}", peer.backend);
            }
        }
    }
}

/// With `bos_token=True` minicons writes the BOS before the text, though the tokenizer may add one of its own; then
/// there are two, and the second is scored. That differs from ours on purpose, which never feeds two: here both are held
/// to the same numbers, theirs from the ids as minicons makes them.
#[test]
fn minicons_with_a_bos_of_its_own() {
    for (model, doubled) in [("gpt2", false), ("llama", true), ("opt", true)] {
        let (sentences, expected) = minicons(model, "bos_token");
        for mut peer in Peer::all(model) {
            let requests: Vec<Request> = sentences.iter().map(|s| with_bos(&peer, s)).collect();
            assert!(requests.iter().all(|r| (r.ids[0] == r.ids[1]) == doubled), "{model}");
            same(&peer.backend.clone(), &peer.log_probs(&requests), &expected);
            let queries: Vec<Query> = sentences.iter().map(Query::sentence).collect();
            let ours = peer.requests(Protocol::Bheval, &queries);
            let once = |(ours, theirs): (&Request, &Request)| ours.ids == theirs.ids[usize::from(doubled)..];
            assert!(ours.iter().zip(&requests).all(once), "{model}");
        }
    }
}

/// The sentence with BOS written before it, as the tokenizer encodes that.
fn with_bos(peer: &Peer, sentence: &str) -> Request {
    let bos = peer.tokenizer.special().bos.as_ref().expect("a BOS");
    Encoder::as_encoded(&peer.tokenizer, &format!("{}{sentence}", bos.text)).expect("tokens").request
}

/// Every golden of these pipelines on causal models is read by a test, here or in `protocols.rs`.
#[test]
fn no_golden_of_a_causal_model_is_left_out() {
    let folder = bheval_tests::golden().join("protocols");
    let mut found: Vec<String> = std::fs::read_dir(folder)
        .expect("the goldens")
        .filter_map(|entry| entry.expect("an entry").file_name().into_string().ok())
        .filter(|name| name.contains("_clm_") || name.contains("_causal_"))
        .collect();
    found.sort();
    let here = ["comps", "entity_tracking", "wug_adj"].map(|t| format!("babylm25_{t}_causal_gpt2.json"));
    let clm = ["minicons_clm_gpt2", "minicons_clm_llama", "minicons_clm_opt"];
    let clm = clm.iter().chain(&["pubquiz_clm_bos_gpt2", "pubquiz_clm_gpt2", "pubquiz_clm_llama"]);
    // In protocols.rs:
    let elsewhere = ["gpt2", "llama"].iter().flat_map(|model| {
        ["blimp", "ewok", "ewok_full", "supplement"].map(|t| format!("babylm25_{t}_causal_{model}.json"))
    });
    let mut read: Vec<String> = here
        .into_iter()
        .chain(clm.map(|name| format!("{name}.json")))
        .chain(elsewhere)
        .chain(["babylm25_blimp_causal_opt.json".to_owned()])
        .collect();
    read.sort();
    assert_eq!(found, read);
}
