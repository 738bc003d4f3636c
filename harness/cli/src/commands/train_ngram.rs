//! `bheval train-ngram`: from text to the folder of an n-gram model.

mod folder;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, bail};
use bheval_data::encode::Encoder;
use bheval_data::protocol::Protocol;
use bheval_data::sentences::{TextInfo, read_sentences};
use bheval_data::tokenizer::Tokenizer;
use bheval_ngram::config::Config;
use bheval_ngram::train::{Corpus, Discounts, Trained};
use serde_json::{Map, Value, json};

use crate::args::TrainNgramArgs;
use crate::backend::cores;
use crate::console::{Outcome, answer, complain, grouped, is_closed_pipe, tell, warn};
use crate::progress::ReadingBar;
use crate::table::{count, table};

use folder::Target;

pub(crate) fn run(args: &TrainNgramArgs) -> anyhow::Result<Outcome> {
    let start = std::time::Instant::now();
    let target = Target::new(&args.out, args.force)?;
    let tokenizer = Tokenizer::load(&args.tokenizer)?;
    let encoder = Encoder::new(&tokenizer, Protocol::Bheval);
    let threads = args.threads.unwrap_or_else(cores) as usize;
    let bar = ReadingBar::new(args.quiet, total(&args.text));
    let (corpus, texts) = read(args, &encoder, threads, &bar)?;
    let (sentences, tokens) = (corpus.sequences(), corpus.predicted());
    bar.working("counting and smoothing");
    let trained = corpus.train(args.order, threads)?;
    bar.working("writing");
    let more = provenance(&encoder, &tokenizer, &texts, (sentences, tokens), &trained.discounts);
    let published = target.publish(&trained.model, more, tokenizer.folder());
    drop(bar);
    let config = match published {
        Ok(config) => config,
        Err(error) => {
            complain(&format!("{error:#}; nothing was kept"));
            return Ok(Outcome::Failed);
        }
    };
    warn_of(&encoder, &trained.discounts);
    let shown = if args.json {
        answer(&serde_json::to_string_pretty(&config.to_json())?)
    } else {
        answer(&summary(args, &trained, &texts, (sentences, tokens)))
    };
    if !args.quiet {
        tell(&format!("model in {} after {:.1} s", args.out.display(), start.elapsed().as_secs_f64()));
    }
    match shown {
        Err(error) if !is_closed_pipe(&error) => {
            complain(&format!("the summary could not be written to stdout ({error})"));
            Ok(Outcome::Failed)
        }
        _ => Ok(Outcome::Done),
    }
}

/// A text's name, and what it held.
type Text = (String, TextInfo);

fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Bytes of all texts, where each is a file.
fn total(texts: &[std::path::PathBuf]) -> Option<u64> {
    texts.iter().map(|path| std::fs::metadata(path).ok().filter(|m| m.is_file()).map(|m| m.len())).sum()
}

/// Every text is opened before the first is read: what is missing should not show after an hour.
fn open(path: &Path) -> anyhow::Result<Box<dyn Read>> {
    if is_stdin(path) {
        return Ok(Box::new(io::stdin()));
    }
    let advice = || {
        format!(
            "{} can't be read; give text files with one sentence a line, or `-` for stdin",
            path.display()
        )
    };
    let file = File::open(path).with_context(advice)?;
    if file.metadata().with_context(advice)?.is_dir() {
        bail!("{}: it is a folder", advice());
    }
    Ok(Box::new(file))
}

fn read(
    args: &TrainNgramArgs,
    encoder: &Encoder<'_>,
    threads: usize,
    bar: &ReadingBar,
) -> anyhow::Result<(Corpus, Vec<Text>)> {
    if args.text.iter().filter(|path| is_stdin(path)).count() > 1 {
        bail!("stdin can be read once only: give `-` once");
    }
    let opened: Vec<_> = args.text.iter().map(|path| open(path)).collect::<Result<_, _>>()?;
    let mut corpus = Corpus::new(encoder.tokenizer().vocab())?;
    let mut texts = Vec::new();
    for (path, file) in args.text.iter().zip(opened) {
        let name = if is_stdin(path) { "stdin".to_owned() } else { path.display().to_string() };
        let take = |ids: &[u32]| -> anyhow::Result<()> { Ok(corpus.push(ids)?) };
        let info = read_sentences(bar.reading(file), encoder, threads, take)
            .with_context(|| format!("{name}; nothing was trained"))?;
        texts.push((name, info));
    }
    Ok((corpus, texts))
}

/// What `config.json` says beside the model's sizes: special tokens, so that a tokenizer that takes them from there stays
/// the same, and where the model comes from.
fn provenance(
    encoder: &Encoder<'_>,
    tokenizer: &Tokenizer,
    texts: &[Text],
    (sentences, tokens): (u64, u64),
    discounts: &[Discounts],
) -> Map<String, Value> {
    let special = tokenizer.special();
    let mut more = Map::new();
    for (name, token) in
        [("bos", &special.bos), ("eos", &special.eos), ("pad", &special.pad), ("unk", &special.unk)]
    {
        more.insert(format!("{name}_token_id"), json!(token.as_ref().map(|t| t.id)));
    }
    let text = |(name, info): &Text| json!({"name": name, "bytes": info.bytes, "sha256": info.sha256, "sentences": info.sentences, "blank_lines": info.blank});
    let order = |d: &Discounts| {
        json!({
            "order": d.order, "ngrams_seen": d.ngrams, "counts_of_counts": d.counts_of_counts, "discounts": d.values,
            "fallback": d.fallback,
        })
    };
    let training = json!({
        "smoothing": "interpolated modified Kneser-Ney",
        "before": encoder.prefix_token().map(|t| t.id), "after": special.eos.as_ref().map(|t| t.id),
        "sentences": sentences, "tokens_predicted": tokens, "tokenizer_sha256": tokenizer.sha256(),
        "texts": texts.iter().map(text).collect::<Vec<_>>(),
        "orders": discounts.iter().map(order).collect::<Vec<_>>(),
    });
    more.insert("training".into(), training);
    more
}

fn warn_of(encoder: &Encoder<'_>, discounts: &[Discounts]) {
    if encoder.prefix_token().is_none() {
        warn(
            "the tokenizer names neither BOS nor EOS: nothing stands before a sentence, so its first token is context only",
        );
    }
    for d in discounts {
        let Some(why) = &d.fallback else { continue };
        if d.ngrams == 0 {
            warn(&format!("no sentence has {} tokens, so n-grams of order {} add nothing", d.order, d.order));
            continue;
        }
        let hint = if d.order == 1 {
            "that is usual where a vocabulary is small and every token frequent"
        } else {
            "that is a sign of little or repetitive text"
        };
        warn(&format!(
            "the discounts of order {} can't be estimated ({why}; t1 to t4: {:?}), so they are {:?}, KenLM's fallback; {hint}",
            d.order, d.counts_of_counts, d.values
        ));
    }
}

fn summary(
    args: &TrainNgramArgs,
    trained: &Trained,
    texts: &[Text],
    (sentences, tokens): (u64, u64),
) -> String {
    let mut rows = table(&["order", "n-grams", "D1", "D2", "D3+", "discounts"], 0..5);
    for d in &trained.discounts {
        let [d1, d2, d3] = d.values.map(|d| format!("{d:.4}"));
        let how = if d.fallback.is_some() { "fallback" } else { "estimated" };
        rows.add_row([d.order.to_string(), grouped(d.ngrams), d1, d2, d3, how.to_owned()]);
    }
    let bytes = texts.iter().map(|(_, info)| info.bytes).sum();
    format!(
        "{} sentences, {} tokens predicted, {} bytes in {}; vocabulary {}\n{rows}\nbheval eval --model {} --tasks blimp\n",
        grouped(sentences),
        grouped(tokens),
        grouped(bytes),
        count(texts.len(), "text"),
        grouped(u64::from(trained.model.vocab())),
        args.out.display()
    )
}
