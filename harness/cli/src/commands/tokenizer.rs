//! `bheval tokenizer train`: from text to a tokenizer, and how well it fits.

use std::collections::BTreeMap;
use std::path::Path;

use bheval_corpus::bpe::{BpeOptions, Normalizer, Special, TrainedBpe, train_bpe};
use bheval_corpus::coverage::{Coverage, coverage};
use bheval_corpus::sources::Source;
use bheval_corpus::{Effort, Target};
use bheval_data::atomic::write_atomic;
use bheval_data::tokenizer::Tokenizer;
use serde_json::{Value, json};

use crate::args::{NormalizerArg, TokenizerAction, TokenizerArgs, TokenizerTrainArgs};
use crate::backend::cores;
use crate::commands::text;
use crate::console::{Outcome, answer, grouped, tell, warn};
use crate::progress::ReadingBar;
use crate::table::{count, table};

const RECORD: &str = "training.json";
const FILES: [&str; 4] = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", RECORD];

pub(crate) fn run(args: TokenizerArgs) -> anyhow::Result<Outcome> {
    match args.action {
        TokenizerAction::Train(args) => train(&args),
    }
}

fn train(args: &TokenizerTrainArgs) -> anyhow::Result<Outcome> {
    let start = std::time::Instant::now();
    let target = Target::new(&args.out, args.force, RECORD, |name| FILES.contains(&name))?;
    let options = options(args);
    let mut sources = text::read(&args.text)?.sources;
    sources.only(&args.text.only)?;
    let sources = sources.checked()?.train;
    let bytes = text::stored_bytes(&sources);
    let threads = args.threads.unwrap_or_else(cores) as usize;
    let bar = ReadingBar::new(args.quiet, bytes);
    let effort = Effort { threads, watch: Some(bar.watch()) };
    let trained = train_bpe(&sources, &options, &effort, || bar.working("merging pairs"))?;
    drop(bar);
    let bar = ReadingBar::new(args.quiet, bytes);
    let effort = Effort { threads, watch: Some(bar.watch()) };
    let (record, fit) = target.publish(|folder| save(folder, &trained, &sources, &options, &effort))?;
    drop(bar);
    if trained.vocab() < options.vocab as usize {
        warn(&format!(
            "the text has no more pairs to merge: the vocabulary has {} entries, not {}",
            grouped(trained.vocab() as u64),
            grouped(u64::from(options.vocab))
        ));
    }
    if args.json {
        answer(&serde_json::to_string_pretty(&record)?)?;
    } else {
        answer(&summary(args, &trained, &sources, &fit))?;
    }
    if !args.quiet {
        tell(&format!("tokenizer in {} after {:.1} s", args.out.display(), start.elapsed().as_secs_f64()));
    }
    Ok(Outcome::Done)
}

fn options(args: &TokenizerTrainArgs) -> BpeOptions {
    let role = |token: &String| (token != "none").then(|| token.clone());
    let [bos, eos, pad, unk] = [&args.bos, &args.eos, &args.pad, &args.unk].map(role);
    BpeOptions {
        vocab: args.vocab,
        min_frequency: args.min_frequency,
        normalizer: match args.normalizer {
            NormalizerArg::None => Normalizer::None,
            NormalizerArg::Nfc => Normalizer::Nfc,
            NormalizerArg::Nfkc => Normalizer::Nfkc,
        },
        special: Special { tokens: args.special.clone(), bos, eos, pad, unk },
        add_prefix_space: args.add_prefix_space,
        sample: args.sample,
    }
}

type Fit = BTreeMap<String, Coverage>;

/// Writes the tokenizer, reads it back as every other command does, and measures it.
fn save(
    folder: &Path,
    trained: &TrainedBpe,
    sources: &[Source],
    options: &BpeOptions,
    effort: &Effort,
) -> Result<(Value, Fit), bheval_corpus::Error> {
    trained.save(folder)?;
    let tokenizer = Tokenizer::load(folder)?;
    let fit = coverage(sources, &tokenizer.clone().special_as_text(), effort)?;
    let files = sources.iter().zip(&trained.sources).map(|(source, read)| {
        json!({
            "file": source.file.path.display().to_string(), "domain": source.domain, "bytes": read.bytes,
            "sha256": read.sha256,
        })
    });
    let record = json!({
        "program": format!("bheval {}", env!("CARGO_PKG_VERSION")),
        "vocab": tokenizer.vocab(), "vocab_asked": options.vocab, "min_frequency": options.min_frequency,
        "normalizer": format!("{:?}", options.normalizer).to_lowercase(), "add_prefix_space": options.add_prefix_space,
        "sample": options.sample,
        "tokenizer_sha256": tokenizer.sha256(), "sources": files.collect::<Vec<_>>(),
        "domains": fit.iter().map(|(name, c)| (name.clone(), measured(c))).collect::<serde_json::Map<_, _>>(),
    });
    let text = format!("{record:#}\n");
    write_atomic(&folder.join(RECORD), text.as_bytes())?;
    Ok((record, fit))
}

fn measured(c: &Coverage) -> Value {
    json!({
        "documents": c.documents, "words": c.words, "bytes": c.bytes, "tokens": c.tokens,
        "tokens_per_word": c.fertility(), "bytes_per_token": c.bytes_per_token(), "one_token_words": c.whole_share(),
        "unknown_tokens": c.unknown,
    })
}

fn summary(args: &TokenizerTrainArgs, trained: &TrainedBpe, sources: &[Source], fit: &Fit) -> String {
    let header = [
        "domain",
        "documents",
        "words",
        "bytes",
        "tokens",
        "tokens a word",
        "bytes a token",
        "one-token words",
        "unknown",
    ];
    let mut rows = table(&header, 1..9);
    let mut all = Coverage::default();
    fit.values().for_each(|coverage| all.add(coverage));
    let total = ("all".to_owned(), all);
    for (name, c) in fit.iter().chain([(&total.0, &total.1)]) {
        rows.add_row([
            name.clone(),
            grouped(c.documents),
            grouped(c.words),
            grouped(c.bytes),
            grouped(c.tokens),
            format!("{:.3}", c.fertility()),
            format!("{:.2}", c.bytes_per_token()),
            format!("{:.1} %", 100.0 * c.whole_share()),
            grouped(c.unknown),
        ]);
    }
    format!(
        "vocabulary of {} from {}\n{rows}\nbheval corpus build --tokenizer {} ...\n",
        grouped(trained.vocab() as u64),
        count(sources.len(), "file"),
        args.out.display()
    )
}
