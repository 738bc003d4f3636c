//! Pseudo-log-likelihoods against what minicons, lm-pub-quiz and the BabyLM 2025 pipeline gave for BERT and RoBERTa, item
//! by item: tokens, hidden words, sums and choices, in every backend of `peers::BACKENDS`.
#![allow(clippy::print_stdout)] // The largest differences are worth seeing: `cargo test -- --nocapture`.

use bheval_data::encode::Query;
use bheval_data::masked::Pll;
use bheval_data::protocol::Protocol;
use bheval_eval::surprisal::{Mode, cut, score};
use bheval_tests::peers::{
    Peer, TOLERANCE, babylm_items, bear_rows, candidates, numbers, paradigm, protocol_golden, same,
    statement, text, texts,
};
use serde_json::Value;

fn minicons(model: &str, pll: Pll) {
    let golden = protocol_golden(&format!("minicons_mlm_{model}.json"));
    let sentences: Vec<Query> = texts(&golden["sentences"]).into_iter().map(Query::sentence).collect();
    let expected: Vec<Vec<f64>> =
        numbers(&golden[format!("pll_sum_{pll}")]).chunks(2).map(<[f64]>::to_vec).collect();
    for mut peer in Peer::all(model) {
        let ours = peer.masked(Protocol::Bheval, pll, &sentences);
        let largest = same(&format!("{} {pll}", peer.backend), &ours, &expected);
        println!("minicons {} {pll}: largest difference {largest:.1e}", peer.backend);
        for (sentence, tokens) in
            sentences.iter().zip(golden[format!("token_score_{pll}_first2")].as_array().expect("tokens"))
        {
            same_tokens(&mut peer, pll, &sentence.continuation, tokens);
        }
    }
}

/// Each scored token of a sentence and its score, as `bheval score` gives them.
fn same_tokens(peer: &mut Peer, pll: Pll, sentence: &str, expected: &Value) {
    let mode = Mode::protocol(&peer.tokenizer, Protocol::Bheval, Some(pll), &peer.model).expect("a reading");
    let cut = cut("a sentence", sentence, &mode, &peer.model).expect("it is cut");
    let scores = score(&mut peer.model, &peer.tokenizer, &[cut]).expect("it is scored");
    let tokens = &scores[0].as_ref().expect("it is scored").tokens;
    let ours: Vec<_> = tokens.iter().filter_map(|t| Some((t.piece.as_str(), t.log_prob?))).collect();
    let expected = expected.as_array().expect("tokens");
    assert_eq!(ours.len(), expected.len(), "{sentence}");
    for ((piece, log_prob), expected) in ours.into_iter().zip(expected) {
        // minicons shows pieces decoded, without the mark of a blank.
        assert_eq!(piece.trim_start_matches('\u{120}'), expected[0], "{sentence}");
        let expected = expected[1].as_f64().expect("a score");
        assert!((f64::from(log_prob) - expected).abs() < 5e-5, "{sentence}, {piece}: {log_prob}, {expected}");
    }
}

#[test]
fn minicons_bert() {
    minicons("bert", Pll::Original);
    minicons("bert", Pll::WithinWordL2r);
}

#[test]
fn minicons_roberta() {
    minicons("roberta", Pll::Original);
    minicons("roberta", Pll::WithinWordL2r);
}

fn pubquiz(model: &str, pll: Pll) {
    let golden = protocol_golden(&format!("pubquiz_mlm_{pll}_{model}.json"));
    let rows = bear_rows(&golden);
    for mut peer in Peer::all(model) {
        let queries: Vec<Query> = rows.iter().flat_map(|(_, queries, _)| queries.clone()).collect();
        let expected: Vec<_> = rows.iter().map(|(_, _, scores)| scores.clone()).collect();
        let ours = peer.masked(Protocol::Bheval, pll, &queries);
        let largest = same(&format!("lm-pub-quiz {} {pll}", peer.backend), &ours, &expected);
        println!(
            "lm-pub-quiz {} {pll}: {} statements, largest difference {largest:.1e}",
            peer.backend,
            ours.len()
        );
        pubquiz_tokens(&mut peer, pll, &golden["token_level_example"]);
    }
}

/// The example that lm-pub-quiz gives token by token, with answers in place.
fn pubquiz_tokens(peer: &mut Peer, pll: Pll, example: &Value) {
    let (template, subject) = (text(example, "template"), text(example, "subject"));
    for (answer, golden) in
        texts(&example["answers"]).into_iter().zip(example["scores"].as_array().expect("scores"))
    {
        let query = statement(template, subject, answer);
        let [request] = &peer.masked_requests(Protocol::Bheval, pll, &[query])[..] else { panic!("one") };
        for (copy, expected) in request.copies.iter().zip(golden["tokens"].as_array().expect("tokens")) {
            let piece = peer.tokenizer.piece(request.ids[copy.target as usize]).expect("a piece");
            assert_eq!(piece, expected[0]);
            let one = bheval_data::masked::MaskedRequest { copies: vec![*copy], ..request.clone() };
            let ours = peer.log_probs(&[one])[0];
            let expected = expected[1].as_f64().expect("a score");
            assert!((ours - expected).abs() < 5e-5, "{pll}, {answer}, {piece}: {ours} and {expected}");
        }
    }
}

#[test]
fn pubquiz_within_word_l2r() {
    pubquiz("bert", Pll::WithinWordL2r);
    pubquiz("roberta", Pll::WithinWordL2r);
}

#[test]
fn pubquiz_original() {
    pubquiz("roberta", Pll::Original);
}

/// lm-pub-quiz hides the special token at the end too, and so do we.
#[test]
fn pubquiz_sentence_l2r() {
    pubquiz("roberta", Pll::SentenceL2r);
}

#[test]
fn pubquiz_answer_l2r_word_l2r() {
    pubquiz("roberta", Pll::AnswerL2rWordL2r);
}

fn babylm2025(task: &str, model: &str, pll: Pll) {
    let backend = if pll == Pll::Mntp { "mntp" } else { "mlm" };
    let golden = protocol_golden(&format!("babylm25_{task}_{backend}_{model}.json"));
    for mut peer in Peer::all(model) {
        for (uid, items) in golden["items"].as_object().expect("subsets") {
            let expected = candidates(items);
            let mut queries = if task == "blimp" { paradigm(uid) } else { babylm_items(task, uid) };
            if task == "blimp" {
                // The pipeline was given the first pairs of each paradigm only.
                queries.truncate(2 * expected.len());
            }
            let ours = peer.masked(Protocol::Babylm2025, pll, &queries);
            let largest = same(&format!("{} {task} {uid}", peer.backend), &ours, &expected);
            println!("babylm2025 {} {task} {uid} {pll}: largest difference {largest:.1e}", peer.backend);
        }
    }
}

#[test]
fn babylm2025_blimp() {
    babylm2025("blimp", "bert", Pll::Original);
    babylm2025("blimp", "roberta", Pll::Original);
}

#[test]
fn babylm2025_blimp_read_one_token_before() {
    babylm2025("blimp", "bert", Pll::Mntp);
}

#[test]
fn babylm2025_supplement() {
    babylm2025("supplement", "bert", Pll::Original);
    babylm2025("supplement", "roberta", Pll::Original);
}

#[test]
fn babylm2025_ewok_scores_the_target_in_its_context() {
    babylm2025("ewok", "bert", Pll::Original);
    babylm2025("ewok", "roberta", Pll::Original);
}

#[test]
fn babylm2025_ewok_scores_the_whole_text_where_asked() {
    babylm2025("ewok_full", "bert", Pll::Original);
    babylm2025("ewok_full", "roberta", Pll::Original);
}

#[test]
fn babylm2025_comps_entity_tracking_and_wug() {
    babylm2025("comps", "bert", Pll::Original);
    babylm2025("entity_tracking", "bert", Pll::Original);
    babylm2025("wug_adj", "bert", Pll::Original);
}

/// Every golden of a masked model is read by a test above: a new one must not lie there unread.
#[test]
fn no_golden_of_a_masked_model_is_left_out() {
    let folder = bheval_tests::golden().join("protocols");
    let mut found: Vec<String> = std::fs::read_dir(folder)
        .expect("the goldens")
        .filter_map(|entry| entry.expect("an entry").file_name().into_string().ok())
        .filter(|name| name.contains("_mlm_") || name.contains("_mntp_"))
        .collect();
    found.sort();
    let babylm = ["blimp", "ewok", "ewok_full", "supplement"];
    let mut read: Vec<String> = ["bert", "roberta"]
        .iter()
        .flat_map(|model| babylm.map(|task| format!("babylm25_{task}_mlm_{model}.json")))
        .chain(["comps", "entity_tracking", "wug_adj"].map(|task| format!("babylm25_{task}_mlm_bert.json")))
        .chain(["babylm25_blimp_mntp_bert.json".to_owned()])
        .chain(["bert", "roberta"].map(|model| format!("minicons_mlm_{model}.json")))
        .chain(["bert", "roberta"].map(|model| format!("pubquiz_mlm_within_word_l2r_{model}.json")))
        .chain(
            ["original", "sentence_l2r", "answer_l2r+word_l2r"]
                .map(|pll| format!("pubquiz_mlm_{pll}_roberta.json")),
        )
        .collect();
    read.sort();
    assert_eq!(found, read);
    assert_eq!(TOLERANCE, 2e-4);
}
