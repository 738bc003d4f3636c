//! `bheval corpus`: from text to token shards, and what is in them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bheval_corpus::build::{BuildOptions, Stage, build, is_corpus_file};
use bheval_corpus::mixture::{Asked, Mixture, PRESETS, Share};
use bheval_corpus::plan::{Planned, read_shares};
use bheval_corpus::record::{DomainRecord, RECORD_FILE, Record};
use bheval_corpus::sources::{Sources, folder, named};
use bheval_corpus::{Corpus, Effort, Target};
use bheval_data::tokenizer::Tokenizer;

use crate::args::{CorpusAction, CorpusArgs, CorpusBuildArgs};
use crate::backend::cores;
use crate::commands::text;
use crate::console::{Outcome, answer, complain, grouped, tell, warn};
use crate::progress::ReadingBar;
use crate::table::{count, table};

pub(crate) fn run(args: CorpusArgs) -> anyhow::Result<Outcome> {
    match args.action {
        CorpusAction::Build(args) => build_corpus(&args),
        CorpusAction::Show { folder, json, documents } => show(&folder, json, documents),
        CorpusAction::Verify { folder } => verify(&folder),
    }
}

fn build_corpus(args: &CorpusBuildArgs) -> anyhow::Result<Outcome> {
    let start = std::time::Instant::now();
    let target = Target::new(&args.out, args.force, RECORD_FILE, is_corpus_file)?;
    let (sources, planned) = sources(args)?;
    let options = options(args, planned)?;
    let bytes =
        [&sources.train, &sources.dev].map(|s| text::stored_bytes(s)).into_iter().sum::<Option<u64>>();
    let bar = ReadingBar::new(args.quiet, bytes.map(|bytes| 2 * bytes));
    let effort = Effort { threads: args.threads.unwrap_or_else(cores) as usize, watch: Some(bar.watch()) };
    let stage = |stage| {
        if stage == Stage::Writing {
            bar.working("writing");
        }
    };
    let record = build(&sources, &args.tokenizer, &options, &effort, &target, stage)?;
    drop(bar);
    warn_of(&record);
    if args.json {
        answer(&serde_json::to_string_pretty(&record)?)?;
    } else {
        answer(&summary(&record))?;
    }
    if !args.quiet {
        tell(&format!("corpus in {} after {:.1} s", args.out.display(), start.elapsed().as_secs_f64()));
    }
    Ok(Outcome::Done)
}

/// Files of both parts, and the shares that a plan names.
fn sources(args: &CorpusBuildArgs) -> anyhow::Result<(Sources, Vec<(String, Share)>)> {
    let reading = text::reading(&args.text);
    let Planned { mut sources, shares } = text::read(&args.text)?;
    let folders: &[PathBuf] = if args.dev_from.is_empty() { &args.text.from } else { &args.dev_from };
    if args.dev_split.is_some() || !args.dev_from.is_empty() {
        for path in folders {
            sources.dev.extend(folder(path, args.dev_split.as_deref(), &reading)?);
        }
    }
    for typed in &args.dev_domain {
        sources.dev.extend(named(typed, &reading)?);
    }
    for typed in &args.licence {
        let (name, text) = pair(typed, "--licence", "NAME=TEXT")?;
        sources.licences.insert(name, text);
    }
    sources.only(&args.text.only)?;
    Ok((sources.checked()?, shares))
}

fn pair(typed: &str, option: &str, form: &str) -> anyhow::Result<(String, String)> {
    let parts = typed.split_once('=').filter(|(name, value)| !name.is_empty() && !value.is_empty());
    let (name, value) =
        parts.ok_or_else(|| anyhow::anyhow!("{option} {typed:?} is not of the form {form}"))?;
    Ok((name.to_owned(), value.to_owned()))
}

fn options(args: &CorpusBuildArgs, planned: Vec<(String, Share)>) -> anyhow::Result<BuildOptions> {
    let mut map = BTreeMap::new();
    for typed in &args.map {
        let (part, names) = pair(typed, "--map", "PART=NAME+...")?;
        map.insert(part, names.split('+').map(str::to_owned).collect());
    }
    let mixture = match (&args.mixture, planned.is_empty()) {
        (Some(_), false) => {
            anyhow::bail!("the plan has shares of its own; leave out --mixture, or the shares")
        }
        (Some(typed), true) => mixture(typed)?,
        (None, false) => Mixture::Shares(planned),
        (None, true) => Mixture::Natural,
    };
    Ok(BuildOptions {
        mixture,
        asked: Asked { words: args.words, renormalise: args.renormalize, map },
        allow_short: args.allow_short,
        dev_share: args.dev_share.unwrap_or(0.01),
        seed: args.seed,
        bos: !args.no_bos,
        shard_tokens: args.shard_tokens,
        program: format!("bheval {}", env!("CARGO_PKG_VERSION")),
    })
}

/// A name, a file, or shares.
fn mixture(typed: &str) -> anyhow::Result<Mixture> {
    if typed == "natural" {
        return Ok(Mixture::Natural);
    }
    if let Some(preset) = PRESETS.iter().find(|preset| preset.name == typed) {
        return Ok(Mixture::Preset(preset));
    }
    if typed.contains('=') {
        let share = |one: &str| {
            let (name, share) = pair(one, "--mixture", "NAME=SHARE,...")?;
            Ok((name, share.parse().map_err(anyhow::Error::msg)?))
        };
        return Ok(Mixture::Shares(typed.split(',').map(share).collect::<anyhow::Result<_>>()?));
    }
    if Path::new(typed).is_file() {
        return Ok(Mixture::Shares(read_shares(Path::new(typed))?));
    }
    let names: Vec<_> = PRESETS.iter().map(|preset| preset.name).collect();
    anyhow::bail!("--mixture {typed:?} is neither natural, {}, NAME=SHARE,... nor a file", names.join(", "))
}

fn warn_of(record: &Record) {
    if record.mixture.renormalised {
        warn(
            "the mixture's shares were scaled: they did not add up to 1, or parts of it have no domain here",
        );
    }
    for domain in &record.domains {
        let Some(budget) = domain.budget.filter(|budget| *budget > domain.available_words) else { continue };
        warn(&format!(
            "{} is short: it has {} words of {}",
            domain.name,
            grouped(domain.available_words),
            grouped(budget)
        ));
    }
    if record.dev.is_none() {
        warn("no text is held out: training can't measure perplexity, nor stop early");
    }
}

fn summary(record: &Record) -> String {
    let header = [
        "domain",
        "documents",
        "words",
        "share",
        "tokens",
        "tokens a word",
        "of words",
        "dev words",
        "dev tokens",
    ];
    let mut rows = table(&header, 1..9);
    let total = &record.train.total;
    let row = |domain: &DomainRecord| {
        let train = &domain.train;
        let per_word = train.tokens as f64 / train.words as f64;
        [
            domain.name.clone(),
            grouped(train.documents),
            grouped(train.words),
            format!("{:.2} %", 100.0 * train.words as f64 / total.words as f64),
            grouped(train.tokens),
            if train.words > 0 { format!("{per_word:.3}") } else { "-".into() },
            grouped(domain.available_words),
            grouped(domain.dev.words),
            grouped(domain.dev.tokens),
        ]
    };
    record.domains.iter().for_each(|domain| {
        rows.add_row(row(domain));
    });
    let dev = record.dev.as_ref().map(|dev| dev.total).unwrap_or_default();
    rows.add_row([
        "all".to_owned(),
        grouped(total.documents),
        grouped(total.words),
        "100.00 %".into(),
        grouped(total.tokens),
        format!("{:.3}", total.tokens as f64 / total.words as f64),
        grouped(record.domains.iter().map(|d| d.available_words).sum()),
        grouped(dev.words),
        grouped(dev.tokens),
    ]);
    let dropped = record.duplicates;
    let asked = record.mixture.words.map(|words| format!("{} words were asked for\n", grouped(words)));
    format!(
        "{rows}\n{}{} of {} bytes a token in {}; duplicates dropped: {} in training, {} that are held out, {} in dev; seed {}\n",
        asked.unwrap_or_default(),
        count(record.sources.len(), "source"),
        record.token_bytes,
        count(record.train.shards.len(), "shard"),
        grouped(dropped.train),
        grouped(dropped.train_in_dev),
        grouped(dropped.dev),
        record.seed
    )
}

fn show(folder: &Path, json: bool, documents: usize) -> anyhow::Result<Outcome> {
    let corpus = Corpus::open(folder)?;
    if json {
        answer(&serde_json::to_string_pretty(corpus.record())?)?;
        return Ok(Outcome::Done);
    }
    let mut text = format!("mixture {}\n{}", corpus.record().mixture.name, summary(corpus.record()));
    if documents > 0 {
        text += &texts(&corpus, documents)?;
    }
    answer(&text)?;
    Ok(Outcome::Done)
}

/// The first training documents, back from their tokens.
fn texts(corpus: &Corpus, documents: usize) -> anyhow::Result<String> {
    let tokenizer = Tokenizer::load(&corpus.tokenizer_folder())?;
    let train = corpus.train();
    let starts: Vec<_> = train.documents().iter().map(|d| d.start).chain([train.len()]).collect();
    let mut text = String::new();
    for (document, bounds) in train.documents().iter().zip(starts.windows(2)).take(documents) {
        let ids = train.tokens(bounds[0]..bounds[1])?;
        let domain = &corpus.record().domains[document.domain as usize].name;
        text += &format!(
            "\n--- {domain}, {}\n{}\n",
            count(document.words as usize, "word"),
            tokenizer.decode(&ids)?
        );
    }
    Ok(text)
}

fn verify(folder: &Path) -> anyhow::Result<Outcome> {
    let corpus = Corpus::open(folder)?;
    match corpus.verify() {
        Ok(()) => {
            answer(&format!("{}: every file is as its record says ({})", folder.display(), corpus.sha256()))?;
            Ok(Outcome::Done)
        }
        Err(error) => {
            complain(&error.to_string());
            Ok(Outcome::Failed)
        }
    }
}
