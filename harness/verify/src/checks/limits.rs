//! Whether tokens, paths and forests that a model can't take are refused.

use bheval_abi::{Kind, NO_PARENT, Status};

use crate::ask::Batch;
use crate::random::Random;
use crate::raw::{Answer, Opened, UNTOUCHED};
use crate::rejection::Rejection;
use crate::subject::Subject;
use crate::trees::Trees;
use crate::verdict::{Finding, Refusal, Stop, failed, skipped};

/// Tokens in a path for models whose context has no limit.
const LONG: usize = 2048;
/// How many times the memory a model is opened with where one call could not hold as many tokens as its context.
const ROOM: u64 = 32;

pub(super) fn token_range(subject: &Subject) -> Finding {
    let mut rejection = Rejection::new(subject.open()?)?;
    let vocab = rejection.opened.info.vocab;
    for token in [vocab, vocab.saturating_add(1), 1 << 31, u32::MAX] {
        if token < vocab {
            continue;
        }
        for (place, sequence) in
            [("last", [0, 0, token]), ("second", [0, token, 0]), ("first", [token, 0, 0])]
        {
            let sequence = &sequence[..];
            let answer = ask_raw(&mut rejection.opened, sequence);
            rejection.bad_input(&format!("the token id {token} as the {place} of a sequence"), answer)?;
        }
    }
    if rejection.opened.info.kind == Kind::MASKED {
        let batch = Batch { target: vec![vocab], ..Batch::asking_for(&[0, 0], 1, 0..1) };
        let answer = ask_batch(&mut rejection.opened, &batch);
        rejection.bad_input(&format!("the target {vocab}"), answer)?;
    }
    rejection.done()
}

/// A sequence as it is, and the answer whatever it is.
fn ask_raw(opened: &mut Opened, sequence: &[u32]) -> Answer {
    if opened.info.kind == Kind::MASKED {
        let position = (sequence.len() - 1) as u32;
        let batch = Batch { position: vec![position], ..Batch::asking_for(sequence, 0, 0..1) };
        return ask_batch(opened, &batch);
    }
    let (trees, _) = Trees::chains(&[sequence.to_vec()]);
    ask_trees(opened, &trees)
}

/// A forest as it is, and the answer whatever it is.
pub(super) fn ask_trees(opened: &mut Opened, trees: &Trees) -> Answer {
    opened.score_into(trees, &mut vec![UNTOUCHED; trees.len()]).0
}

/// A batch as it is, and the answer whatever it is.
pub(super) fn ask_batch(opened: &mut Opened, batch: &Batch) -> Answer {
    let mut log_prob = vec![UNTOUCHED; batch.target.len()];
    let answer = opened.masked_into(&batch.raw(), &mut log_prob);
    answer.expect("the corpus was asked through this function").0
}

pub(super) fn wanted_root(subject: &Subject) -> Finding {
    let mut rejection = Rejection::new(subject.causal()?)?;
    let (mut trees, _) = Trees::chains(&[vec![0, 0], vec![0, 0]]);
    trees.wanted[2] = 1;
    let answer = ask_trees(&mut rejection.opened, &trees);
    rejection.bad_input("a wanted root, a token that nothing stands before,", answer)?;
    trees.wanted[0] = 1;
    let answer = ask_trees(&mut rejection.opened, &trees);
    rejection.bad_input("a wanted root as the first node", answer)?;
    rejection.done()
}

/// The model, with more memory where its calls are shorter than its context.
fn with_room(subject: &Subject) -> Result<Opened, Refusal> {
    let opened = subject.open()?;
    if u64::from(opened.info.context) <= u64::from(opened.info.nodes) {
        return Ok(opened);
    }
    drop(opened);
    Subject { memory: subject.memory.saturating_mul(ROOM), ..subject.clone() }.open()
}

pub(super) fn context_limit(subject: &Subject) -> Finding {
    let mut rejection = Rejection::new(with_room(subject)?)?;
    let info = rejection.opened.info.clone();
    let mut random = Random::new(31);
    let context = info.context as usize;
    if context == 0 {
        let long = random.tokens(LONG.min(info.nodes as usize).max(2), info.vocab);
        let values = rejection.opened.ask(std::slice::from_ref(&long))?;
        return match values[0].iter().all(|x| x.is_finite()) {
            true => {
                Ok(format!("no limit is named (`context` 0), and a path of {} tokens is scored", long.len()))
            }
            false => failed(format!("a path of {} tokens has values that are not finite", long.len())),
        };
    }
    if context > 1 << 20 {
        return skipped(format!("a path of {context} tokens is too long to be tried"));
    }
    let longest = random.tokens(context, info.vocab);
    let fits = context <= info.nodes as usize;
    if fits && rejection.opened.ask(std::slice::from_ref(&longest))?[0].iter().any(|x| !x.is_finite()) {
        return failed(format!(
            "a path of {context} tokens, as many as `context` allows, has values not finite"
        ));
    }
    longer_refused(&mut rejection, &mut random)?;
    if fits {
        return rejection.done();
    }
    skipped(format!(
        "a path of {context} tokens, as many as `context` allows, is more than the {} nodes of a call, so only longer ones \
         were tried, and refused",
        info.nodes
    ))
}

/// Fails unless paths longer than the context are refused: as bad input, or where they are also longer than a call, for
/// want of memory.
fn longer_refused(rejection: &mut Rejection, random: &mut Random) -> Result<(), Stop> {
    let info = rejection.opened.info.clone();
    for more in [1, 2, 64] {
        let sequence = random.tokens(info.context as usize + more, info.vocab);
        let what = format!("a path of {} tokens, where `context` is {},", sequence.len(), info.context);
        let answer = ask_raw(&mut rejection.opened, &sequence);
        if answer.status == Status::EXHAUSTED && sequence.len() > info.nodes as usize {
            rejection.refusal(&what, answer)?;
        } else {
            rejection.bad_input(&what, answer)?;
        }
    }
    Ok(())
}

pub(super) fn parents(subject: &Subject) -> Finding {
    let mut rejection = Rejection::new(subject.causal()?)?;
    let cases = [
        ("a node that is its own parent", [NO_PARENT, 1, 1]),
        ("a node whose parent comes after it", [NO_PARENT, 2, 0]),
        ("a first node whose parent is itself", [0, 0, 1]),
        ("a parent that is no node", [NO_PARENT, 0, 3]),
        ("a parent far beyond the forest", [NO_PARENT, 0, NO_PARENT - 1]),
    ];
    for (what, parent) in cases {
        let trees = Trees { token: vec![0; 3], parent: parent.to_vec(), wanted: vec![0, 1, 1] };
        let answer = ask_trees(&mut rejection.opened, &trees);
        rejection.bad_input(what, answer)?;
    }
    rejection.done()
}

/// Of masked models: batches whose arrays contradict each other.
pub(super) fn batches(subject: &Subject) -> Finding {
    let mut rejection = Rejection::new(subject.masked()?)?;
    let right = Batch { token: vec![0; 4], begin: vec![0, 2, 4], position: vec![1, 3], target: vec![0, 0] };
    let begin = |begin: &[u32]| Batch { begin: begin.to_vec(), ..right.clone() };
    let cases = [
        ("a first sequence that begins after token 0", begin(&[1, 2, 4])),
        ("a last sequence that ends early", begin(&[0, 2, 3])),
        ("a last sequence that ends beyond the tokens", begin(&[0, 2, 5])),
        ("an empty sequence", begin(&[0, 2, 2, 4])),
        ("a sequence that ends before it begins", begin(&[0, 3, 2, 4])),
        ("tokens without a sequence", begin(&[0])),
        ("a position beyond the tokens", Batch { position: vec![1, 4], ..right.clone() }),
        ("a position far beyond the tokens", Batch { position: vec![1, u32::MAX], ..right.clone() }),
    ];
    for (what, batch) in cases {
        let answer = ask_batch(&mut rejection.opened, &batch);
        rejection.bad_input(what, answer)?;
    }
    rejection.done()
}

/// Of masked models: scores from left to right are not theirs to give.
pub(super) fn causal_refused(subject: &Subject) -> Finding {
    let mut rejection = Rejection::new(subject.masked()?)?;
    let (trees, _) = Trees::chains(&[vec![0, 0, 0]]);
    let answer = ask_trees(&mut rejection.opened, &trees);
    rejection.refusal("a forest, which asks for scores from left to right,", answer)?;
    rejection.done()
}
