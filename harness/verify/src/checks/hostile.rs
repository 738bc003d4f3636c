//! Whether calls at random, some right and most wrong, are each answered as they deserve.

use bheval_abi::{Kind, NO_PARENT, Status};

use crate::ask::Batch;
use crate::checks::limits::ask_batch;
use crate::random::Random;
use crate::raw::{Answer, Info, Opened, UNTOUCHED};
use crate::rejection::{Rejection, check_refusal};
use crate::subject::Subject;
use crate::trees::Trees;
use crate::verdict::{Finding, Stop, failed};

/// Calls that are made.
const CALLS: usize = 400;

pub(super) fn hostile(subject: &Subject) -> Finding {
    let mut rejection = Rejection::new(subject.open()?)?;
    let mut random = Random::new(37);
    let mut right = 0;
    for call in 0..CALLS {
        let what = format!("call {call} of {CALLS} at random");
        let ask = if rejection.opened.info.kind == Kind::MASKED { ask_masked } else { ask_causal };
        let is_right = ask(&mut rejection.opened, &mut random, &what)?;
        right += usize::from(is_right);
        if call % 50 == 49 {
            rejection.unharmed(&what)?;
        }
    }
    Ok(format!("{CALLS} calls at random: {right} were right and answered, the others refused"))
}

/// A number: mostly below `end`, at times at its edge or far beyond.
fn number(random: &mut Random, end: u32, flaws: u32) -> u32 {
    match random.below(100) {
        n if n >= flaws => random.below(end.max(1)),
        n if n % 3 == 0 => end,
        n if n % 3 == 1 => NO_PARENT - 1,
        _ => random.next() as u32,
    }
}

fn ask_causal(opened: &mut Opened, random: &mut Random, what: &str) -> Result<bool, Stop> {
    let trees = noise(opened, random);
    let mut log_prob = vec![UNTOUCHED; trees.len()];
    let (answer, _) = opened.score_into(&trees, &mut log_prob);
    let is_right = is_right(&trees, &opened.info);
    let told =
        || format!("{what} (token {:?}, parent {:?}, wanted {:?})", trees.token, trees.parent, trees.wanted);
    judge(is_right, &answer, told)?;
    let stray = |&i: &usize| trees.wanted[i] != 0 && !log_prob[i].is_finite();
    match (0..trees.len()).find(stray) {
        Some(i) if is_right => failed(format!("{}: node {i} got {}", told(), log_prob[i])),
        _ => Ok(is_right),
    }
}

/// A small forest, right in a third of all cases. A backend that takes chains only is given no branches, since no host
/// would send it any.
fn noise(opened: &Opened, random: &mut Random) -> Trees {
    let flaws = [0, 3, 30][random.below(3) as usize];
    let most = (opened.info.nodes).clamp(2, 24);
    let mut trees = Trees::default();
    for i in 0..random.below(most + 1) {
        let token = number(random, opened.info.vocab, flaws);
        let branches = opened.takes_forests() || random.below(100) < flaws;
        let mut parent = if branches { number(random, i, flaws) } else { i.wrapping_sub(1) };
        if i == 0 && flaws < 30
            || random.below(5) == 0
            || !opened.takes_forests() && parent.wrapping_add(1) < i
        {
            parent = NO_PARENT;
        }
        trees.push(token, parent);
        let wanted = random.below(3) > 0;
        trees.wanted[i as usize] = u8::from(wanted && (parent != NO_PARENT || random.below(100) < flaws));
    }
    trees
}

fn is_right(trees: &Trees, info: &Info) -> bool {
    let mut depth = vec![1_u32; trees.len()];
    (0..trees.len()).all(|i| {
        let parent = trees.parent[i];
        if parent != NO_PARENT && parent as usize >= i {
            return false;
        }
        if parent != NO_PARENT {
            depth[i] = depth[parent as usize] + 1;
        }
        let wanted_root = parent == NO_PARENT && trees.wanted[i] != 0;
        trees.token[i] < info.vocab && !wanted_root && (info.context == 0 || depth[i] <= info.context)
    })
}

fn ask_masked(opened: &mut Opened, random: &mut Random, what: &str) -> Result<bool, Stop> {
    let flaws = [0, 3, 30][random.below(3) as usize];
    let longest = crate::corpus::longest(&opened.info).min(8) as u32;
    let mut batch = Batch { token: Vec::new(), begin: vec![0], position: Vec::new(), target: Vec::new() };
    for _ in 0..random.below(4) {
        for _ in 0..1 + random.below(longest) {
            batch.token.push(number(random, opened.info.vocab, flaws));
        }
        let end = batch.token.len() as u32;
        batch.begin.push(if random.below(100) < flaws { number(random, end, 50) } else { end });
        batch.position.push(number(random, end, flaws));
        batch.target.push(number(random, opened.info.vocab, flaws));
    }
    let is_right = is_right_batch(&batch, &opened.info);
    let answer = ask_batch(opened, &batch);
    judge(is_right, &answer, || format!("{what} ({batch:?})"))?;
    Ok(is_right)
}

fn is_right_batch(batch: &Batch, info: &Info) -> bool {
    let tokens = batch.token.len() as u32;
    let rises = batch.begin.windows(2).all(|pair| pair[0] < pair[1]);
    let fits = |pair: &[u32]| info.context == 0 || pair[1] - pair[0] <= info.context;
    rises
        && batch.begin.last() == Some(&tokens)
        && batch.begin.windows(2).all(fits)
        && batch.token.iter().chain(&batch.target).all(|&t| t < info.vocab)
        && batch.position.iter().all(|&p| p < tokens)
}

fn judge(is_right: bool, answer: &Answer, what: impl Fn() -> String) -> Result<(), Stop> {
    match (is_right, answer.status) {
        (true, Status::OK) => Ok(()),
        (false, Status::BAD_INPUT) => check_refusal(&what(), answer),
        (true, status) => failed(format!(
            "{}: a right call was refused (`{}`, {:?})",
            what(),
            status.name(),
            answer.sentence
        )),
        (false, status) => {
            check_refusal(&what(), answer)?;
            failed(format!("{} was refused as `{}`, which is no word for bad input", what(), status.name()))
        }
    }
}
