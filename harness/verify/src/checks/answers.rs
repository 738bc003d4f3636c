//! Whether the answers are log-probabilities.

use bheval_abi::{Kind, NO_PARENT};

use crate::ask::Batch;
use crate::corpus::{corpus, longest, shown};
use crate::memory::Memory;
use crate::random::Random;
use crate::raw::{Info, Opened, UNTOUCHED};
use crate::subject::Subject;
use crate::trees::Trees;
use crate::verdict::{Finding, Stop, failed, skipped};

/// How far the probabilities of a whole vocabulary may be from 1. Each f32 log-probability near -10 is rounded by up to
/// 5e-7, which is the relative error of its probability; this leaves room for a softmax in f32.
const SUM: f64 = 1e-4;

/// How far a log-softmax of the logits may be from the score.
const LOGITS: f64 = 1e-4;

/// Longest context whose next tokens are added up.
const CONTEXT: usize = 256;

/// Tokens that a model which takes chains only is fed for one context: it reads the context once for each token of the
/// vocabulary.
const FED: usize = 1 << 16;

/// What a call may take beyond twice the memory it was planned for: blocks of a least size, and what allocators keep.
const ALLOWANCE: u64 = 128 << 20;

/// More nodes are never sent in one call.
const NODES: usize = 1 << 18;

pub(super) fn finite(subject: &Subject) -> Finding {
    let mut opened = subject.open()?;
    let sequences = corpus(&opened.info);
    let values = opened.ask(&sequences)?;
    let (mut least, mut most) = (0.0_f32, f32::NEG_INFINITY);
    for (sequence, values) in sequences.iter().zip(&values) {
        for (t, &x) in values.iter().enumerate() {
            if !x.is_finite() || x > 0.0 {
                let untouched = x.to_bits() == UNTOUCHED.to_bits();
                let x = if untouched { "nothing at all".to_owned() } else { format!("{x:?}") };
                return failed(format!("value {t} of the sequence {} is {x}", shown(sequence)));
            }
            (least, most) = (least.min(x), most.max(x));
        }
    }
    let count = values.iter().map(Vec::len).sum::<usize>();
    Ok(format!("{count} values between {least} and {most}"))
}

pub(super) fn sums_to_one(subject: &Subject) -> Finding {
    let mut opened = subject.open()?;
    let mut random = Random::new(17);
    let mut found = Vec::new();
    for len in lengths(&opened) {
        let context = random.tokens(len, opened.info.vocab);
        let sum = if opened.info.kind == Kind::MASKED {
            masked_sum(&mut opened, &context)?
        } else {
            next_token_sum(&mut opened, &context)?
        };
        if !within(sum, 1.0, SUM) {
            return failed(format!(
                "after the context {} the probabilities of all {} tokens add up to {sum}, where 1 is right within {SUM}",
                shown(&context),
                opened.info.vocab
            ));
        }
        found.push(format!("1{:+.0e} (length {len})", sum - 1.0));
    }
    Ok(format!("sums over {} tokens: {}", opened.info.vocab, found.join(", ")))
}

/// Whether two numbers are no further apart than that; NaN is near nothing.
fn within(a: f64, b: f64, most: f64) -> bool {
    (a - b).abs() <= most
}

/// Lengths of the contexts: 1, 2, 17 and the longest that model and patience allow.
fn lengths(opened: &Opened) -> Vec<usize> {
    let info = &opened.info;
    let masked = info.kind == Kind::MASKED;
    let by_context = match info.context as usize {
        0 => CONTEXT,
        context if masked => context.min(CONTEXT),
        context => (context - 1).min(CONTEXT),
    };
    let by_time = if masked || opened.takes_forests() { CONTEXT } else { (FED / info.vocab as usize).max(2) };
    let most = by_context.min(by_time).min((info.nodes as usize).saturating_sub(1)).max(1);
    let mut lengths: Vec<_> = [1, 2, 17, most].into_iter().filter(|&len| len <= most).collect();
    lengths.dedup();
    lengths
}

fn next_token_sum(opened: &mut Opened, context: &[u32]) -> Result<f64, Stop> {
    let Info { vocab, nodes, .. } = opened.info;
    let own = context.len();
    let forests = opened.takes_forests();
    let room = (nodes as usize).min(NODES);
    let at_once = if forests { room.saturating_sub(own) } else { room / (own + 1) }.max(1) as u32;
    let mut sum = 0.0;
    for first in (0..vocab).step_by(at_once as usize) {
        let sequences: Vec<Vec<u32>> = (first..vocab.min(first.saturating_add(at_once)))
            .map(|token| context.iter().copied().chain([token]).collect())
            .collect();
        let (mut trees, paths) = if forests { Trees::shared(&sequences) } else { Trees::chains(&sequences) };
        let last = |path: &Vec<usize>| path[own];
        trees.wanted.fill(0);
        paths.iter().for_each(|path| trees.wanted[last(path)] = 1);
        let scored = opened.score(&trees)?;
        sum += paths.iter().map(|path| f64::from(scored.log_prob[last(path)]).exp()).sum::<f64>();
    }
    Ok(sum)
}

/// The sum over all targets at the middle of a sequence.
fn masked_sum(opened: &mut Opened, sequence: &[u32]) -> Result<f64, Stop> {
    let vocab = opened.info.vocab;
    let mut sum = 0.0;
    for first in (0..vocab).step_by(NODES) {
        let targets = first..vocab.min(first.saturating_add(NODES as u32));
        let scored = opened.masked(&Batch::asking_for(sequence, sequence.len() / 2, targets))?;
        sum += scored.log_prob.iter().map(|&x| f64::from(x).exp()).sum::<f64>();
    }
    Ok(sum)
}

pub(super) fn logits(subject: &Subject) -> Finding {
    let mut opened = subject.causal()?;
    let vocab = opened.info.vocab as usize;
    let mut sequences = corpus(&opened.info);
    sequences.truncate(((1 << 22) / vocab / longest(&opened.info)).max(1));
    let (mut trees, _) =
        if opened.takes_forests() { Trees::shared(&sequences) } else { Trees::chains(&sequences) };
    let scored = opened.score(&trees)?;
    // A row is asked for wherever a token follows.
    let parents = trees.parent.clone();
    trees.wanted.fill(0);
    parents.iter().filter(|&&p| p != NO_PARENT).for_each(|&p| trees.wanted[p as usize] = 1);
    let Some(rows) = opened.logits(&trees) else {
        return skipped("the backend offers no `bheval.logits.1`");
    };
    let rows = rows?;
    let mut row_of = vec![usize::MAX; trees.len()];
    let asked = (0..trees.len()).filter(|&i| trees.wanted[i] != 0);
    asked.enumerate().for_each(|(row, node)| row_of[node] = row);
    let mut largest = 0.0_f64;
    for (node, &parent) in parents.iter().enumerate().filter(|&(_, &p)| p != NO_PARENT) {
        let row = &rows[row_of[parent as usize] * vocab..][..vocab];
        let expected = log_softmax(row, trees.token[node] as usize);
        let apart = (expected - f64::from(scored.log_prob[node])).abs();
        if !within(expected, f64::from(scored.log_prob[node]), LOGITS) {
            return failed(format!(
                "node {node} (token {} below node {parent}) scores {}, but the log-softmax of the logits of node \
                 {parent} is {expected}",
                trees.token[node], scored.log_prob[node]
            ));
        }
        largest = largest.max(apart);
    }
    Ok(format!("log-softmax of {} rows is the score, within {largest:.0e}", rows.len() / vocab))
}

/// `x[at] - ln sum exp x`, in f64; NaN where a logit is NaN or was not written, or all are infinite.
fn log_softmax(row: &[f32], at: usize) -> f64 {
    let most = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = row.iter().map(|&x| (f64::from(x) - most).exp()).sum();
    f64::from(row[at]) - most - sum.ln()
}

pub(super) fn unwanted(subject: &Subject) -> Finding {
    let mut opened = subject.causal()?;
    let (mut trees, _) = Trees::chains(&corpus(&opened.info));
    trees.wanted.iter_mut().enumerate().for_each(|(i, wanted)| *wanted &= u8::from(i % 3 == 1));
    let scored = opened.score(&trees)?;
    let left = (0..trees.len()).filter(|&i| trees.wanted[i] == 0);
    match left.clone().find(|&i| scored.log_prob[i].to_bits() != UNTOUCHED.to_bits()) {
        None => Ok(format!("{} nodes that were not asked for were left alone", left.count())),
        Some(i) => {
            failed(format!("node {i} was not asked for, and {} was written there", scored.log_prob[i]))
        }
    }
}

pub(super) fn fed(subject: &Subject) -> Finding {
    let mut opened = subject.open()?;
    let sequences = corpus(&opened.info);
    let (scored, nodes) = if opened.info.kind == Kind::MASKED {
        let batch = Batch::asking(&sequences, opened.info.vocab);
        (opened.masked(&batch)?, batch.token.len())
    } else {
        let (trees, _) = Trees::chains(&sequences);
        (opened.score(&trees)?, trees.len())
    };
    match scored.fed {
        0 => failed(format!("`fed` is 0 after a call of {nodes} nodes")),
        fed if fed > nodes as u64 => failed(format!("`fed` is {fed} after a call of {nodes} nodes")),
        fed => Ok(format!("{fed} of {nodes} nodes were run")),
    }
}

pub(super) fn full_call(subject: &Subject) -> Finding {
    let mut opened = subject.open()?;
    let promised = opened.info.nodes as usize;
    let nodes = promised.min(NODES);
    let len = longest(&opened.info).min(nodes);
    let mut random = Random::new(23);
    let mut sequences: Vec<_> = (0..nodes / len).map(|_| random.tokens(len, opened.info.vocab)).collect();
    if !nodes.is_multiple_of(len) {
        sequences.push(random.tokens(nodes % len, opened.info.vocab));
    }
    opened.ask(&sequences[..1])?;
    let before = Memory::now();
    let values = if opened.info.kind == Kind::MASKED {
        opened.ask(&sequences)?
    } else {
        opened.ask_chains(&sequences)?
    };
    if values.iter().flatten().any(|x| !x.is_finite()) {
        return failed(format!("a call of {nodes} nodes has values that are not finite"));
    }
    let call = format!("{nodes} nodes in one call (`nodes` is {promised})");
    let Some(grown) = before.and_then(|before| before.grown()) else {
        return Ok(format!("{call}; what it took was not measured, which is done on Linux only"));
    };
    let most = 2 * subject.memory + ALLOWANCE;
    if grown > most {
        return failed(format!(
            "{call} took {} MB, where the model was opened with `memory` {} MB",
            grown >> 20,
            subject.memory >> 20
        ));
    }
    Ok(format!("{call} took {} MB; `memory` was {} MB", grown >> 20, subject.memory >> 20))
}

pub(super) fn empty(subject: &Subject) -> Finding {
    let mut opened = subject.open()?;
    let sequences = corpus(&opened.info);
    let before = opened.ask(&sequences)?;
    if opened.info.kind == Kind::MASKED {
        opened.masked(&Batch::asking(&[], opened.info.vocab))?;
    } else {
        opened.score(&Trees::default())?;
    }
    let after = opened.ask(&sequences)?;
    crate::corpus::same(&sequences, ["before an empty call", "after it"], &before, &after)?;
    Ok("a call of no nodes is answered, and harms no later one".to_owned())
}
