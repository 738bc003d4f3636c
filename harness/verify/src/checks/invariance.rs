//! Whether the answer for a sequence depends on the sequence alone.

use bheval_abi::Kind;

use crate::ask::values;
use crate::corpus::{Values, agree, corpus, same};
use crate::random::Random;
use crate::raw::Opened;
use crate::subject::Subject;
use crate::trees::Trees;
use crate::verdict::{Finding, Stop};

/// How far a token's score may move with what follows it, where a backend takes chains only: a library may add up in
/// another order for another length.
const BETWEEN_CHAINS: f32 = 1e-3;

pub(super) fn repeat(subject: &Subject) -> Finding {
    let mut opened = subject.open()?;
    let sequences = corpus(&opened.info);
    let first = opened.ask(&sequences)?;
    for _ in 0..3 {
        same(&sequences, ["at first", "in a later call"], &first, &opened.ask(&sequences)?)?;
    }
    drop(opened);
    let anew = subject.open()?.ask(&sequences)?;
    same(&sequences, ["at first", "after closing and opening the model"], &first, &anew)
}

pub(super) fn batch(subject: &Subject) -> Finding {
    let mut opened = subject.open()?;
    let sequences = corpus(&opened.info);
    let alone = opened.ask_each(&sequences)?;
    let together = opened.ask(&sequences)?;
    let found = same(&sequences, ["alone", "with others in the call"], &alone, &together)?;
    for size in [2, 3, 7] {
        let mut parts = Values::new();
        for part in sequences.chunks(size) {
            parts.extend(opened.ask(part)?);
        }
        let way = format!("in calls of {size}");
        same(&sequences, ["alone", &way], &alone, &parts)?;
    }
    Ok(format!("{found}, alone, by 2, 3, 7 and all at once"))
}

pub(super) fn order(subject: &Subject) -> Finding {
    let mut opened = subject.open()?;
    let sequences = corpus(&opened.info);
    let sorted = opened.ask(&sequences)?;
    let ways = ["in sorted order", "in another order"];
    let mut random = Random::new(5);
    for _ in 0..3 {
        let now_at = shuffled(sequences.len(), &mut random);
        let mut moved = vec![Vec::new(); sequences.len()];
        now_at.iter().zip(&sequences).for_each(|(&at, sequence)| moved[at].clone_from(sequence));
        let found = opened.ask(&moved)?;
        let back: Values = now_at.iter().map(|&at| found[at].clone()).collect();
        same(&sequences, ways, &sorted, &back)?;
        if opened.takes_forests() && opened.info.kind == Kind::CAUSAL {
            let (trees, paths) = Trees::shared(&sequences);
            let (trees, now_at) = trees.permuted(&mut random);
            let moved: Vec<Vec<_>> = paths.iter().map(|p| p.iter().map(|&n| now_at[n]).collect()).collect();
            same(&sequences, ways, &sorted, &values(&opened.score(&trees)?.log_prob, &moved))?;
        }
    }
    same(&sequences, ways, &sorted, &sorted)
}

/// Where each of `len` things goes.
fn shuffled(len: usize, random: &mut Random) -> Vec<usize> {
    let mut now_at: Vec<_> = (0..len).collect();
    (1..len).rev().for_each(|i| now_at.swap(i, random.below(i as u32 + 1) as usize));
    now_at
}

pub(super) fn threads(subject: &Subject) -> Finding {
    let mut one = subject.open_with(1)?;
    let sequences = corpus(&one.info);
    let expected = one.ask(&sequences)?;
    let mut counts = vec![2, 3, subject.threads.max(2)];
    counts.sort_unstable();
    counts.dedup();
    for &count in &counts {
        let found = subject.open_with(count)?.ask(&sequences)?;
        let way = format!("with {count}");
        same(&sequences, ["with 1 thread", &way], &expected, &found)?;
    }
    let found = same(&sequences, ["", ""], &expected, &expected)?;
    Ok(format!(
        "{found}, with 1, {} threads",
        counts.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
    ))
}

pub(super) fn forest(subject: &Subject) -> Finding {
    let mut opened = subject.causal()?;
    let sequences = corpus(&opened.info);
    if !opened.takes_forests() {
        return prefixes(&mut opened, &sequences);
    }
    let chains = opened.ask_chains(&sequences)?;
    let shared = opened.ask(&sequences)?;
    same(&sequences, ["as flat chains", "with shared beginnings"], &chains, &shared)
}

/// Of a backend that takes chains only: a beginning scores the same whatever its chain's length, but for rounding.
fn prefixes(opened: &mut Opened, sequences: &[Vec<u32>]) -> Finding {
    let heads: Vec<Vec<u32>> = sequences.iter().map(|s| s[..s.len().div_ceil(2).max(2)].to_vec()).collect();
    let short = opened.ask_chains(&heads)?;
    let whole = cut_to(&opened.ask_chains(sequences)?, &short);
    let ways = ["as a chain that ends early", "as part of its whole sequence"];
    let largest = agree(&heads, ways, [&short, &whole], Some(BETWEEN_CHAINS))?;
    Ok(format!(
        "takes chains only; a beginning's scores move by {largest:.0e} at most with its chain's length"
    ))
}

pub(super) fn causal(subject: &Subject) -> Finding {
    let mut opened = subject.causal()?;
    let tolerance = (!opened.takes_forests()).then_some(BETWEEN_CHAINS);
    let sequences = corpus(&opened.info);
    let mut random = Random::new(29);
    let keep = |s: &Vec<u32>| s.len().div_ceil(2);
    let (mut before, mut after) = (Values::new(), Values::new());
    for sequence in &sequences {
        let mut changed = sequence.clone();
        for token in &mut changed[keep(sequence)..] {
            *token = random.below(opened.info.vocab);
        }
        before.extend(opened.ask_chains(std::slice::from_ref(sequence))?);
        after.extend(opened.ask_chains(&[changed])?);
    }
    let heads: Values = sequences.iter().map(|s| vec![0.0; keep(s) - 1]).collect();
    let (before, after) = (cut_to(&before, &heads), cut_to(&after, &heads));
    let ways = ["before its later tokens were changed", "after that"];
    let largest = agree(&sequences, ways, [&before, &after], tolerance)?;
    let count: usize = before.iter().map(Vec::len).sum();
    Ok(format!("{count} scores moved by {largest:.0e} when later tokens changed"))
}

fn cut_to(long: &Values, short: &Values) -> Values {
    long.iter().zip(short).map(|(long, short)| long[..short.len()].to_vec()).collect()
}

pub(super) fn subset(subject: &Subject) -> Finding {
    let mut opened = subject.causal()?;
    let sequences = corpus(&opened.info);
    let build = if opened.takes_forests() { Trees::shared } else { Trees::chains };
    let (mut trees, _) = build(&sequences);
    let all = opened.score(&trees)?.log_prob;
    trees.wanted.iter_mut().enumerate().for_each(|(i, wanted)| *wanted &= u8::from(i % 3 != 0));
    let few = opened.score(&trees)?.log_prob;
    let asked: Vec<_> = (0..trees.len()).filter(|&i| trees.wanted[i] != 0).collect();
    match asked.iter().find(|&&i| all[i].to_bits() != few[i].to_bits()) {
        None => {
            Ok(format!("{} nodes score the same when a third of the others is not asked for", asked.len()))
        }
        Some(&i) => Err(Stop::Failed(format!(
            "node {i} scores {:?} when all nodes are asked for, and {:?} when only some are",
            all[i], few[i]
        ))),
    }
}
