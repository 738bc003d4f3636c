//! `bheval inspect`: how sentences are cut, what is scored, and the classic faults.

use bheval_data::masked::MaskedCopy;
use bheval_data::protocol::Protocol;
use bheval_data::tokenizer::{SpecialToken, Tokenizer};
use bheval_eval::inspect::{SENTENCES, Shown, show, warnings};
use bheval_eval::{AnyCut, Cutter, Error};
use bheval_host::{Kind, Model};
use serde_json::{Value, json};

use crate::args::InspectArgs;
use crate::backend::open;
use crate::console::{Outcome, answer};

pub(crate) fn run(args: &InspectArgs) -> anyhow::Result<Outcome> {
    let (model, tokenizer) = open(&args.model)?;
    let sentences =
        if args.sentences.is_empty() { SENTENCES.map(String::from).to_vec() } else { args.sentences.clone() };
    let view = View { model: &model, tokenizer: &tokenizer, sentences: &sentences };
    let cutters = cutters(args, &view)?;
    if args.json {
        answer(&serde_json::to_string_pretty(&view.json(&cutters)?)?)?;
    } else {
        answer(&view.text(&cutters)?)?;
    }
    Ok(Outcome::Done)
}

/// What is looked at.
struct View<'a> {
    model: &'a Model,
    tokenizer: &'a Tokenizer,
    sentences: &'a [String],
}

/// A protocol, and how it cuts the model's texts, or why it does not.
type Cutters<'a> = Vec<(Protocol, Result<Cutter<'a>, String>)>;

/// The protocol that was asked for must go; of all of them, those that don't are shown with their reason.
fn cutters<'a>(args: &InspectArgs, view: &View<'a>) -> anyhow::Result<Cutters<'a>> {
    let cutter = |protocol| Cutter::new(view.tokenizer, protocol, args.pll, view.model);
    if let Some(protocol) = args.protocol {
        return Ok(vec![(protocol, Ok(cutter(protocol)?))]);
    }
    let one = |protocol| match cutter(protocol) {
        Ok(cutter) => Ok((protocol, Ok(cutter))),
        Err(Error::Reading { reason, .. }) => Ok((protocol, Err(reason))),
        Err(error) => Err(error.into()),
    };
    Protocol::ALL.into_iter().map(one).collect()
}

impl View<'_> {
    fn text(&self, cutters: &Cutters<'_>) -> anyhow::Result<String> {
        let mut text = self.head();
        for (protocol, cutter) in cutters {
            text += &match cutter {
                Ok(cutter) => self.protocol(*protocol, cutter)?,
                Err(reason) => format!("\nprotocol {protocol}\n  not for this model: {reason}\n"),
            };
        }
        let masked = cutters.iter().any(|(_, c)| c.as_ref().is_ok_and(|c| c.pll().is_some()));
        text += "\n[piece] is scored; (piece) is fed, but not scored";
        text += if masked { "; < is where a copy is read for the piece in []\n" } else { "\n" };
        Ok(text)
    }

    fn head(&self) -> String {
        let info = self.model.info();
        let context = info.context.map_or("no limit".to_owned(), |c| format!("{c} tokens"));
        let mut text = format!(
            "model      {} ({}), {} parameters, vocabulary {}, context: {context}, {} tokens at once\ntokenizer  {} ids in {}\n",
            info.architecture,
            kind(self.model),
            info.parameters,
            info.vocab,
            info.nodes,
            self.tokenizer.vocab(),
            self.tokenizer.folder().display()
        );
        for (name, token) in special(self.tokenizer) {
            let shown = token.map_or("none".to_owned(), |t| format!("{} ({}), by {}", t.text, t.id, t.file));
            text += &format!("{name:<10} {shown}\n");
        }
        text
    }

    fn protocol(&self, protocol: Protocol, cutter: &Cutter<'_>) -> anyhow::Result<String> {
        let reading = cutter.pll().map_or(String::new(), |pll| format!(", read by {pll}"));
        let mut text = format!("\nprotocol {protocol}{reading}\n");
        for Shown { sentence, cut } in show(cutter, self.sentences)? {
            text += &format!("  {sentence:?}\n    {}\n", pieces(self.tokenizer, &cut));
            for copy in copies(self.tokenizer, &cut) {
                text += &format!("      {copy}\n");
            }
        }
        for warning in warnings(self.tokenizer, cutter, self.model.info().vocab, self.sentences)? {
            text += &format!("  warning: {warning}\n");
        }
        Ok(text)
    }

    fn json(&self, cutters: &Cutters<'_>) -> anyhow::Result<Value> {
        let info = self.model.info();
        let protocols: anyhow::Result<Vec<_>> = cutters
            .iter()
            .map(|(protocol, cutter)| match cutter {
                Ok(cutter) => self.protocol_json(*protocol, cutter),
                Err(reason) => Ok(json!({"protocol": protocol.name(), "refused": reason})),
            })
            .collect();
        let token = |t: &SpecialToken| json!({"id": t.id, "text": t.text, "file": t.file});
        let special: serde_json::Map<_, _> = special(self.tokenizer)
            .map(|(name, t)| (name.to_lowercase(), t.map_or(Value::Null, token)))
            .into_iter()
            .collect();
        Ok(json!({
            "model": {
                "architecture": info.architecture, "kind": kind(self.model), "parameters": info.parameters,
                "vocab": info.vocab, "context": info.context, "at_once": info.nodes,
            },
            "tokenizer": {"ids": self.tokenizer.vocab(), "special": special},
            "protocols": protocols?,
        }))
    }

    fn protocol_json(&self, protocol: Protocol, cutter: &Cutter<'_>) -> anyhow::Result<Value> {
        let shown = show(cutter, self.sentences)?;
        let warnings = warnings(self.tokenizer, cutter, self.model.info().vocab, self.sentences)?;
        let mut object = json!({
            "protocol": protocol.name(),
            "sentences": shown.iter().map(|s| cut_json(self.tokenizer, s)).collect::<Vec<_>>(),
            "warnings": warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        });
        if let Some(pll) = cutter.pll() {
            object["pll"] = pll.name().into();
        }
        Ok(object)
    }
}

fn kind(model: &Model) -> &'static str {
    if model.info().kind == Kind::CAUSAL { "causal" } else { "masked" }
}

fn special(tokenizer: &Tokenizer) -> [(&'static str, Option<&SpecialToken>); 5] {
    let special = tokenizer.special();
    [
        ("BOS", special.bos.as_ref()),
        ("EOS", special.eos.as_ref()),
        ("PAD", special.pad.as_ref()),
        ("UNK", special.unk.as_ref()),
        ("MASK", special.mask.as_ref()),
    ]
}

fn piece(tokenizer: &Tokenizer, id: u32) -> String {
    tokenizer.piece(id).unwrap_or_else(|| format!("#{id}"))
}

fn pieces(tokenizer: &Tokenizer, cut: &AnyCut) -> String {
    let shown = |(&id, scored): (&u32, bool)| {
        let piece = piece(tokenizer, id);
        if scored { format!("[{piece}]") } else { format!("({piece})") }
    };
    cut.ids().iter().zip(cut.scored()).map(shown).collect::<Vec<_>>().join(" ")
}

/// The copies of a masked model's sentence, each with the token that is asked for and where it is read.
fn copies(tokenizer: &Tokenizer, cut: &AnyCut) -> Vec<String> {
    let Some(cut) = cut.masked() else { return Vec::new() };
    let line = |&copy| {
        let MaskedCopy { target, read, .. } = copy;
        let shown = |(at, &id): (usize, &u32)| {
            let mark = if at == read as usize { "<" } else { "" };
            format!("{}{mark}", piece(tokenizer, id))
        };
        let hidden = cut.request.hidden(copy);
        let hidden: Vec<_> = hidden.iter().enumerate().map(shown).collect();
        let asked = piece(tokenizer, cut.request.ids[target as usize]);
        format!("{}  [{asked}]", hidden.join(" "))
    };
    cut.request.copies.iter().map(line).collect()
}

fn cut_json(tokenizer: &Tokenizer, shown: &Shown) -> Value {
    let Shown { sentence, cut } = shown;
    let scored = cut.scored();
    let tokens: Vec<_> = (0..scored.len())
        .map(|i| {
            let (start, end) = cut.offsets()[i];
            let id = cut.ids()[i];
            json!({"id": id, "piece": tokenizer.piece(id), "start": start, "end": end, "scored": scored[i]})
        })
        .collect();
    let mut object = json!({"text": sentence, "tokens": tokens});
    if let Some(cut) = cut.masked() {
        let copy = |c: &MaskedCopy| json!({"target": c.target, "hidden": [c.target, c.end], "read": c.read});
        object["copies"] = cut.request.copies.iter().map(copy).collect();
    }
    object
}
