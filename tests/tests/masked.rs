//! Masked models: what is hidden from them, and what is refused rather than read wrongly.

use std::path::{Path, PathBuf};

use bheval_abi::{Failure, ForestView, Info, Kind, LanguageModel, LogitsTable, Opening};
use bheval_data::encode::Query;
use bheval_data::masked::{MaskedEncoder, Pll};
use bheval_data::protocol::Protocol;
use bheval_data::tokenizer::Tokenizer;
use bheval_eval::Cutter;
use bheval_host::{Backend, Dtype, Library, Model, ModelOptions};
use bheval_tests::golden;
use bheval_tests::peers::Peer;
use serde_json::Value;

/// A masked model whose backend has no masked scores.
struct Unreadable(Info);

impl LanguageModel for Unreadable {
    const NAME: &'static str = "unreadable";
    const VERSION: &'static str = "1";
    const FOREST: bool = false;
    const LOGITS: Option<&'static LogitsTable> = None;

    fn open(_: &Opening) -> Result<Self, Failure> {
        Ok(Self(Info {
            vocab: 768,
            context: 0,
            nodes: 64,
            kind: Kind::MASKED,
            parameters: 0,
            architecture: "bert".into(),
            dtype: "f32".into(),
        }))
    }

    fn info(&self) -> &Info {
        &self.0
    }

    fn score(&mut self, _: ForestView<'_>, _: &mut [f32]) -> Result<u64, Failure> {
        Err(Failure::input("nothing is asked of it"))
    }
}

static UNREADABLE: Backend = bheval_abi::backend::<Unreadable>();

fn tokenizer(name: &str) -> Tokenizer {
    Tokenizer::load(&golden().join(name)).expect("the golden tokenizer loads")
}

fn cutter(model: &Model, tokenizer: &Tokenizer, protocol: Protocol, pll: Option<Pll>) -> String {
    Cutter::new(tokenizer, protocol, pll, model).expect_err("refused").to_string()
}

#[test]
fn a_masked_model_is_never_read_left_to_right() {
    let library = Library::linked(&UNREADABLE).expect("a linked table");
    let options = ModelOptions { path: "x".into(), threads: 1, dtype: Dtype::F32, memory: 1 << 20 };
    let model = Model::open(&library, &options).expect("it opens");
    let error = cutter(&model, &tokenizer("bert"), Protocol::Bheval, None);
    assert!(error.contains("bert is a masked model") && error.contains("unreadable"), "{error}");
}

#[test]
fn a_causal_model_is_never_read_with_hidden_tokens() {
    let peer = Peer::all("gpt2").remove(0);
    let error = cutter(&peer.model, &peer.tokenizer, Protocol::Bheval, Some(Pll::Original));
    assert!(error.contains("--pll original") && error.contains("gpt2 is causal"), "{error}");
}

#[test]
fn protocols_without_masked_models_say_so() {
    let peer = Peer::all("bert").remove(0);
    let refused = |protocol, pll| cutter(&peer.model, &peer.tokenizer, protocol, pll);
    assert!(refused(Protocol::Babylm2024, None).contains("bert is a masked model: the BabyLM 2024"));
    assert!(refused(Protocol::LmEval, None).contains("causal models only"));
    let error = refused(Protocol::Babylm2025, Some(Pll::WithinWordL2r));
    assert!(error.contains("original or mntp"), "{error}");
}

/// A copy of the golden RoBERTa's tokenizer in which some files were changed.
fn changed(change: impl Fn(&Path, &str, Value) -> Value) -> (tempfile::TempDir, Tokenizer) {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json"] {
        let from: PathBuf = golden().join("roberta").join(name);
        let json = serde_json::from_slice(&std::fs::read(&from).expect("a golden file")).expect("JSON");
        let to = folder.path().join(name);
        std::fs::write(&to, change(&to, name, json).to_string()).expect("written");
    }
    let tokenizer = Tokenizer::load(folder.path()).expect("it loads");
    (folder, tokenizer)
}

fn without_role(json: &mut Value) {
    json.as_object_mut().expect("an object").remove("mask_token");
}

#[test]
fn a_mask_token_is_found_by_its_role_then_by_its_name() {
    let found = |tokenizer: &Tokenizer| {
        let mask = tokenizer.special().mask.as_ref().expect("a mask token");
        (mask.id, mask.text.clone(), mask.file)
    };
    assert_eq!(found(&tokenizer("bert")), (4, "[MASK]".into(), "tokenizer_config.json"));
    let (_folder, by_map) = changed(|_, name, mut json| {
        if name == "tokenizer_config.json" {
            without_role(&mut json);
        }
        json
    });
    assert_eq!(found(&by_map), (4, "<mask>".into(), "special_tokens_map.json"));
    let (_folder, by_name) = changed(|_, _, mut json| {
        without_role(&mut json);
        json
    });
    assert_eq!(found(&by_name), (4, "<mask>".into(), "tokenizer.json"));
}

#[test]
fn a_tokenizer_without_a_mask_token_is_refused() {
    let (_folder, tokenizer) = changed(|_, _, mut json| {
        without_role(&mut json);
        serde_json::from_str(&json.to_string().replace("<mask>", "<hole>")).expect("JSON")
    });
    assert_eq!(tokenizer.special().mask, None);
    let peer = Peer::all("roberta").remove(0);
    let error = cutter(&peer.model, &tokenizer, Protocol::Bheval, None);
    assert!(error.contains("names no mask token") && error.contains("tokenizer_config.json"), "{error}");
}

/// The copies of a text as a reader sees them: hidden tokens as `_`, and `<` where the model is read.
fn copies(model: &str, protocol: Protocol, pll: Pll, query: &Query) -> Vec<String> {
    let tokenizer = tokenizer(model);
    let encoder = MaskedEncoder::new(&tokenizer, protocol, pll).expect("a mask token");
    let request = encoder.request(query).expect("it is cut");
    let piece = |id: u32| tokenizer.piece(id).expect("a piece");
    let shown = |copy: &bheval_data::masked::MaskedCopy| {
        let tokens = request.hidden(*copy).into_iter().enumerate();
        let token = |(at, id): (usize, u32)| {
            let text = if id == request.mask { "_".to_owned() } else { piece(id) };
            if at == copy.read as usize { text + "<" } else { text }
        };
        format!(
            "{}: {}",
            piece(request.ids[copy.target as usize]),
            tokens.map(token).collect::<Vec<_>>().join(" ")
        )
    };
    request.copies.iter().map(shown).collect()
}

#[test]
fn each_reading_hides_what_it_says() {
    let query = Query::sentence("Susan slept.").with_answer(0, 5);
    let of = |pll| copies("bert", Protocol::Bheval, pll, &query);
    let original = of(Pll::Original);
    assert_eq!(original[0], "s: [CLS] _< ##us ##an s ##le ##p ##t . [SEP]");
    assert_eq!(original[7], ".: [CLS] s ##us ##an s ##le ##p ##t _< [SEP]");
    let words = of(Pll::WithinWordL2r);
    assert_eq!(words[0], "s: [CLS] _< _ _ s ##le ##p ##t . [SEP]");
    assert_eq!(words[1], "##us: [CLS] s _< _ s ##le ##p ##t . [SEP]");
    assert_eq!(words[3], "s: [CLS] s ##us ##an _< _ _ _ . [SEP]");
    assert_eq!(of(Pll::AnswerL2rWordL2r), words);
    let sentence = of(Pll::SentenceL2r);
    assert_eq!(sentence[1], "##us: [CLS] s _< _ _ _ _ _ _ _");
    assert_eq!(sentence[7], ".: [CLS] s ##us ##an s ##le ##p ##t _< _");
    let mntp = of(Pll::Mntp);
    assert_eq!(mntp[0], "s: [CLS]< _ ##us ##an s ##le ##p ##t . [SEP]");
    assert_eq!(mntp[7], ".: [CLS] s ##us ##an s ##le ##p ##t< _ [SEP]");
    assert!([original, words, sentence, mntp].iter().all(|copies| copies.len() == 8));
}

/// The answer "New York" is one stretch, though it is two words.
#[test]
fn an_answer_is_hidden_across_its_words_and_no_further() {
    let text = "He saw New York now.";
    let query = Query::sentence(text).with_answer(7, 15);
    let all = copies("roberta", Protocol::Bheval, Pll::AnswerL2rWordL2r, &query);
    let hidden = |copy: &str| copy.matches('_').count();
    let tokenizer = tokenizer("roberta");
    let encoding = tokenizer.encode(text, true).expect("tokens");
    let within = |&(start, end): &(usize, usize)| start >= 7 && end <= 15 && end > start;
    let first = encoding.offsets.iter().position(within).expect("a first token");
    let last = encoding.offsets.iter().rposition(within).expect("a last token");
    assert!(last > first + 3, "{all:?}");
    for t in first..=last {
        // The first copy is that of token 1, since token 0 is special.
        assert_eq!(hidden(&all[t - 1]), last + 1 - t, "{}", all[t - 1]);
    }
}

#[test]
fn after_a_context_only_what_ends_beyond_it_is_asked_for() {
    let query = Query::after("The cat", "sat.");
    let of = |model, protocol, pll| copies(model, protocol, pll, &query);
    assert_eq!(
        of("bert", Protocol::Babylm2025, Pll::Original),
        [
            "sa: [CLS] the ca ##t _< ##t . [SEP]",
            "##t: [CLS] the ca ##t sa _< . [SEP]",
            ".: [CLS] the ca ##t sa ##t _< [SEP]"
        ]
    );
    for pll in Pll::ALL.into_iter().filter(|p| *p != Pll::AnswerL2rWordL2r) {
        assert_eq!(of("bert", Protocol::Bheval, pll).len(), 3, "{pll}");
    }
}

#[test]
fn a_text_with_the_mask_token_in_it_is_refused() {
    let tokenizer = tokenizer("bert");
    let encoder = MaskedEncoder::new(&tokenizer, Protocol::Bheval, Pll::Original).expect("a mask token");
    let error = encoder.request(&Query::sentence("The [MASK] sat.")).expect_err("refused").to_string();
    assert!(error.contains("[MASK]") && error.contains("hidden token"), "{error}");
}

#[test]
fn what_can_not_be_scored_is_refused_with_its_reason() {
    let tokenizer = tokenizer("bert");
    let refused = |pll, query: &Query| {
        let encoder = MaskedEncoder::new(&tokenizer, Protocol::Bheval, pll).expect("a mask token");
        encoder.request(query).expect_err("refused").to_string()
    };
    assert!(refused(Pll::Original, &Query::sentence("")).contains("no tokens"));
    assert!(refused(Pll::AnswerL2rWordL2r, &Query::sentence("Dogs bark.")).contains("the answer"));
    assert!(
        refused(Pll::Original, &Query::after("Dogs bark.", "\u{200b}"))
            .contains("nothing that the tokenizer keeps")
    );
}

/// Without a special token in front, masked next-token prediction has nowhere to read the first token.
#[test]
fn the_first_token_is_not_scored_where_nothing_stands_before_it() {
    let (_folder, tokenizer) = changed(|_, name, mut json| {
        if name == "tokenizer.json" {
            json["post_processor"] = Value::Null;
        }
        json
    });
    let cut = |pll, text: &str| {
        let encoder = MaskedEncoder::new(&tokenizer, Protocol::Bheval, pll).expect("a mask token");
        encoder.cut(&Query::sentence(text)).expect("it is cut")
    };
    let (original, mntp) = (cut(Pll::Original, "The cat"), cut(Pll::Mntp, "The cat"));
    assert_eq!((original.unscored, mntp.unscored), (0, 1));
    assert_eq!(original.request.copies.len(), mntp.request.copies.len() + 1);
    assert_eq!(cut(Pll::Mntp, "a").request.copies, []);
    let encoder = MaskedEncoder::new(&tokenizer, Protocol::Bheval, Pll::Mntp).expect("a mask token");
    let error = encoder.request(&Query::sentence("a")).expect_err("refused").to_string();
    assert!(error.contains("nothing stands before it"), "{error}");
}
