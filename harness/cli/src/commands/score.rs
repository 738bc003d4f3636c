//! `bheval score`: per-token surprisal of any text.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};

use anyhow::{Context, bail};
use bheval_data::lines::{LINE_LIMIT, lines};
use bheval_data::masked::Pll;
use bheval_data::tokenizer::Tokenizer;
use bheval_eval::AnyCut;
use bheval_eval::surprisal::{Mode, SentenceScore, cut, score};
use bheval_host::Model;
use serde_json::json;

use crate::args::{ScoreArgs, ScoreFormat};
use crate::backend::open;
use crate::console::{Outcome, complain, is_closed_pipe, warn_of_deaths};

/// Sentences that are scored together.
const BATCH: usize = 256;

pub(crate) fn run(args: &ScoreArgs) -> anyhow::Result<Outcome> {
    let (model, tokenizer) = open(&args.model)?;
    let mode = match args.as_encoded {
        true => Mode::as_encoded(&tokenizer, args.pll, &model)?,
        false => Mode::protocol(&tokenizer, args.protocol, args.pll, &model)?,
    };
    let format = if args.json { ScoreFormat::Jsonl } else { args.format };
    let name = if args.file.as_os_str() == "-" { "stdin".into() } else { args.file.display().to_string() };
    let input = input(args)?;
    let out = Output::new(format, mode.pll())?;
    let tokenizer = &tokenizer;
    let mut scorer = Scorer { model, tokenizer, mode, name, failed: 0, pending: Vec::new(), out };
    let ran = scorer.run(input);
    warn_of_deaths(scorer.model.crashes());
    match ran {
        Ok(()) if scorer.failed == 0 => Ok(Outcome::Done),
        Ok(()) => Ok(Outcome::Failed),
        // Whoever read our output has enough.
        Err(error) if is_closed_pipe(&error) && scorer.failed == 0 => Ok(Outcome::Done),
        Err(error) => {
            complain(&format!("{error:#}; what was printed before is right"));
            Ok(Outcome::Failed)
        }
    }
}

fn input(args: &ScoreArgs) -> anyhow::Result<Box<dyn BufRead>> {
    if args.file.as_os_str() == "-" {
        return Ok(Box::new(BufReader::new(io::stdin())));
    }
    let advice = || {
        format!(
            "{} can't be read; give a text file with one sentence a line, or `-` for stdin",
            args.file.display()
        )
    };
    let file = File::open(&args.file).with_context(advice)?;
    if file.metadata().with_context(advice)?.is_dir() {
        bail!("{}: it is a folder", advice());
    }
    Ok(Box::new(BufReader::new(file)))
}

struct Scorer<'a> {
    model: Model,
    tokenizer: &'a Tokenizer,
    mode: Mode<'a>,
    name: String,
    failed: usize,
    pending: Vec<(u64, String, AnyCut)>,
    out: Output,
}

impl Scorer<'_> {
    fn run(&mut self, input: Box<dyn BufRead>) -> anyhow::Result<()> {
        for line in lines(input, LINE_LIMIT) {
            self.take(line)?;
        }
        self.flush()?;
        self.out.finish()
    }

    /// A line that can't be scored is reported and left out; the others keep their numbers.
    fn take(
        &mut self,
        line: Result<bheval_data::lines::Line, bheval_data::lines::LineError>,
    ) -> anyhow::Result<()> {
        let line = match line {
            Ok(line) => line,
            Err(error) => {
                let text = format!("{}: {error}", self.name);
                self.fail(&text);
                return Ok(());
            }
        };
        let place = format!("{}, line {}", self.name, line.number);
        match cut(&place, &line.text, &self.mode, &self.model) {
            Ok(cut) => self.pending.push((line.number - 1, line.text, cut)),
            Err(error) => self.fail(&error.to_string()),
        }
        let nodes: usize = self.pending.iter().map(|(_, _, cut)| cut.load()).fold(0, usize::saturating_add);
        if self.pending.len() >= BATCH || nodes > self.model.info().nodes / 2 {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        // A batch may not have more nodes than the model takes; the last line may have crossed that.
        let pending = std::mem::take(&mut self.pending);
        let (rest, last) = pending.split_at(pending.len().saturating_sub(1));
        self.score(rest)?;
        self.score(last)
    }

    fn score(&mut self, batch: &[(u64, String, AnyCut)]) -> anyhow::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let cuts: Vec<AnyCut> = batch.iter().map(|(_, _, cut)| cut.clone()).collect();
        let scores = score(&mut self.model, self.tokenizer, &cuts)?;
        for ((sentence, text, _), score) in batch.iter().zip(scores) {
            match score {
                Ok(score) => self.out.write(*sentence, text, &score)?,
                Err(error) => {
                    let text = format!("{}, line {}: {error}", self.name, sentence + 1);
                    self.fail(&text);
                }
            }
        }
        Ok(())
    }

    fn fail(&mut self, text: &str) {
        self.failed += 1;
        complain(text);
    }
}

/// Rows of tokens, or objects of sentences, with the reading of a masked model.
struct Output {
    form: Form,
    pll: Option<Pll>,
}

enum Form {
    Csv(Box<csv::Writer<io::Stdout>>),
    Jsonl(io::Stdout),
}

const COLUMNS: [&str; 8] = ["sentence", "index", "id", "piece", "start", "end", "log_prob", "surprisal_bits"];

impl Output {
    fn new(format: ScoreFormat, pll: Option<Pll>) -> anyhow::Result<Self> {
        if format == ScoreFormat::Jsonl {
            return Ok(Self { form: Form::Jsonl(io::stdout()), pll });
        }
        let mut writer = csv::Writer::from_writer(io::stdout());
        writer.write_record(COLUMNS.into_iter().chain(pll.map(|_| "pll")))?;
        Ok(Self { form: Form::Csv(Box::new(writer)), pll })
    }

    fn write(&mut self, sentence: u64, text: &str, score: &SentenceScore) -> anyhow::Result<()> {
        match &mut self.form {
            Form::Csv(writer) => rows(writer, sentence, score, self.pll),
            Form::Jsonl(out) => Ok(writeln!(out, "{}", object(sentence, text, score, self.pll))?),
        }
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        match &mut self.form {
            Form::Csv(writer) => Ok(writer.flush()?),
            Form::Jsonl(out) => Ok(out.flush()?),
        }
    }
}

fn rows(
    writer: &mut csv::Writer<io::Stdout>,
    sentence: u64,
    score: &SentenceScore,
    pll: Option<Pll>,
) -> anyhow::Result<()> {
    for (index, token) in score.tokens.iter().enumerate() {
        let (start, end) = token.offsets;
        let row = [
            sentence.to_string(),
            index.to_string(),
            token.id.to_string(),
            token.piece.clone(),
            start.to_string(),
            end.to_string(),
            token.log_prob.map_or(String::new(), |l| l.to_string()),
            token.surprisal_bits().map_or(String::new(), |s| s.to_string()),
        ];
        writer.write_record(row.into_iter().chain(pll.map(|pll| pll.to_string())))?;
    }
    Ok(())
}

fn object(sentence: u64, text: &str, score: &SentenceScore, pll: Option<Pll>) -> serde_json::Value {
    let tokens: Vec<_> = score
        .tokens
        .iter()
        .enumerate()
        .map(|(index, t)| {
            json!({
                "index": index, "id": t.id, "piece": t.piece, "start": t.offsets.0, "end": t.offsets.1,
                "log_prob": t.log_prob, "surprisal_bits": t.surprisal_bits(),
            })
        })
        .collect();
    // A sum over nothing would read as a sentence that is certain.
    let scored = score.scored();
    let total = (scored > 0).then(|| score.log_prob());
    let mut object = json!({
        "sentence": sentence, "text": text, "log_prob": total,
        "surprisal_bits": total.map(|total| -total / std::f64::consts::LN_2), "tokens_scored": scored, "tokens": tokens,
    });
    if let Some(pll) = pll {
        object["pll"] = pll.name().into();
    }
    object
}
