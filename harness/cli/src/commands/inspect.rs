//! `bheval inspect`: how sentences are cut, what is scored, and the classic faults.

use bheval_data::encode::Cut;
use bheval_data::protocol::Protocol;
use bheval_data::tokenizer::{SpecialToken, Tokenizer};
use bheval_eval::inspect::{SENTENCES, Shown, show, warnings};
use bheval_host::{Kind, Model};
use serde_json::{Value, json};

use crate::args::InspectArgs;
use crate::backend::open;
use crate::console::{Outcome, answer};

pub(crate) fn run(args: &InspectArgs) -> anyhow::Result<Outcome> {
    let (model, tokenizer) = open(&args.model)?;
    let sentences =
        if args.sentences.is_empty() { SENTENCES.map(String::from).to_vec() } else { args.sentences.clone() };
    let protocols = args.protocol.map_or(Protocol::ALL.to_vec(), |p| vec![p]);
    if args.json {
        answer(&serde_json::to_string_pretty(&as_json(&model, &tokenizer, &protocols, &sentences)?)?)?;
    } else {
        answer(&as_text(&model, &tokenizer, &protocols, &sentences)?)?;
    }
    Ok(Outcome::Done)
}

fn as_text(
    model: &Model,
    tokenizer: &Tokenizer,
    protocols: &[Protocol],
    sentences: &[String],
) -> anyhow::Result<String> {
    let info = model.info();
    let kind = if info.kind == Kind::CAUSAL { "causal" } else { "masked" };
    let context = info.context.map_or("no limit".to_owned(), |c| format!("{c} tokens"));
    let mut text = format!(
        "model      {} ({kind}), {} parameters, vocabulary {}, context: {context}, {} tokens at once\ntokenizer  {} ids in {}\n",
        info.architecture,
        info.parameters,
        info.vocab,
        info.nodes,
        tokenizer.vocab(),
        tokenizer.folder().display()
    );
    for (name, token) in special(tokenizer) {
        let shown = token.map_or("none".to_owned(), |t| format!("{} ({}), by {}", t.text, t.id, t.file));
        text += &format!("{name:<10} {shown}\n");
    }
    for &protocol in protocols {
        text += &format!("\nprotocol {protocol}\n");
        for Shown { sentence, cut } in show(tokenizer, protocol, sentences)? {
            text += &format!("  {sentence:?}\n    {}\n", pieces(tokenizer, &cut));
        }
        for warning in warnings(tokenizer, protocol, info.vocab, sentences)? {
            text += &format!("  warning: {warning}\n");
        }
    }
    text += "\n[piece] is scored; (piece) is fed, but not scored\n";
    Ok(text)
}

fn special(tokenizer: &Tokenizer) -> [(&'static str, Option<&SpecialToken>); 4] {
    let special = tokenizer.special();
    [
        ("BOS", special.bos.as_ref()),
        ("EOS", special.eos.as_ref()),
        ("PAD", special.pad.as_ref()),
        ("UNK", special.unk.as_ref()),
    ]
}

fn pieces(tokenizer: &Tokenizer, cut: &Cut) -> String {
    let piece = |(id, scored): (&u32, &bool)| {
        let piece = tokenizer.piece(*id).unwrap_or_else(|| format!("#{id}"));
        if *scored { format!("[{piece}]") } else { format!("({piece})") }
    };
    cut.request.ids.iter().zip(&cut.request.scored).map(piece).collect::<Vec<_>>().join(" ")
}

fn as_json(
    model: &Model,
    tokenizer: &Tokenizer,
    protocols: &[Protocol],
    sentences: &[String],
) -> anyhow::Result<Value> {
    let info = model.info();
    let mut cuts = Vec::new();
    for &protocol in protocols {
        let shown: Vec<_> =
            show(tokenizer, protocol, sentences)?.iter().map(|s| cut_json(tokenizer, s)).collect();
        let warnings: Vec<_> =
            warnings(tokenizer, protocol, info.vocab, sentences)?.iter().map(ToString::to_string).collect();
        cuts.push(json!({"protocol": protocol.name(), "sentences": shown, "warnings": warnings}));
    }
    let special: serde_json::Map<_, _> = special(tokenizer)
        .map(|(name, t)| {
            (
                name.to_lowercase(),
                t.map_or(Value::Null, |t| json!({"id": t.id, "text": t.text, "file": t.file})),
            )
        })
        .into_iter()
        .collect();
    Ok(json!({
        "model": {"architecture": info.architecture, "parameters": info.parameters, "vocab": info.vocab, "context": info.context, "at_once": info.nodes},
        "tokenizer": {"ids": tokenizer.vocab(), "special": special},
        "protocols": cuts,
    }))
}

fn cut_json(tokenizer: &Tokenizer, shown: &Shown) -> Value {
    let Shown { sentence, cut } = shown;
    let tokens: Vec<_> = (0..cut.request.ids.len())
        .map(|i| {
            let id = cut.request.ids[i];
            let (start, end) = cut.offsets[i];
            json!({"id": id, "piece": tokenizer.piece(id), "start": start, "end": end, "scored": cut.request.scored[i]})
        })
        .collect();
    json!({"text": sentence, "tokens": tokens})
}
