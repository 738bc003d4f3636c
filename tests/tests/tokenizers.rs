//! Every golden tokenizer cuts every golden sentence as its peer in Python does: ids, offsets, with and without special
//! tokens, with and without a space in front.

use bheval_data::tokenizer::Tokenizer;
use bheval_tests::golden;
use serde_json::{Value, json};

const MODELS: [&str; 12] = [
    "bert",
    "gpt2",
    "gpt_neox",
    "hgrn2",
    "hgrn2_conv",
    "llama",
    "lstm",
    "mamba",
    "mamba2",
    "opt",
    "roberta",
    "xlstm",
];

fn read(model: &str) -> Value {
    let path = golden().join(model).join("golden.json");
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&bytes).expect("JSON")
}

#[test]
fn sentences_are_cut_as_in_python() {
    for model in MODELS {
        let tokenizer = Tokenizer::load(&golden().join(model)).expect("a tokenizer");
        let golden = read(model);
        let sentences = golden["sentences"].as_array().expect("sentences");
        assert!(sentences.len() >= 30, "{model}");
        for sentence in sentences {
            let text = sentence["text"].as_str().expect("text");
            let encoding = tokenizer.encode(text, true).expect("encoded");
            assert_eq!(json!(encoding.ids), sentence["ids"], "{model}: {text:?}");
            assert_eq!(json!(encoding.offsets), sentence["offsets"], "{model}: {text:?}");
            assert_eq!(
                json!(tokenizer.ids(text).expect("ids")),
                sentence["ids_no_special"],
                "{model}: {text:?}"
            );
            let spaced = tokenizer.ids(&format!(" {text}")).expect("ids");
            assert_eq!(json!(spaced), sentence["ids_leading_space_no_special"], "{model}: {text:?}");
        }
    }
}

#[test]
fn special_tokens_are_those_of_the_peer() {
    for model in MODELS {
        let tokenizer = Tokenizer::load(&golden().join(model)).expect("a tokenizer");
        let golden = read(model);
        let special = tokenizer.special();
        for (name, token) in
            [("bos", &special.bos), ("eos", &special.eos), ("pad", &special.pad), ("unk", &special.unk)]
        {
            // Files may name a token that the peer's class passes over; what the peer has must be found.
            if let Some(id) = golden["special_ids"][name].as_u64() {
                assert_eq!(token.as_ref().map(|t| u64::from(t.id)), Some(id), "{model}: {name}");
            }
        }
        assert_eq!(json!(tokenizer.vocab()), golden["vocab_size_tokenizer"], "{model}");
    }
}
