//! Whether models live side by side and move between threads.

use std::sync::Barrier;
use std::thread;

use crate::corpus::{corpus, same};
use crate::raw::Opened;
use crate::subject::Subject;
use crate::verdict::{Finding, Stop};

/// How often two models are asked at the same time.
const ROUNDS: usize = 4;

pub(super) fn several_models(subject: &Subject) -> Finding {
    let mut one = subject.open()?;
    let sequences = corpus(&one.info);
    let alone = one.ask(&sequences)?;
    let mut two = subject.open()?;
    let found = same(&sequences, ["alone", "in a second model"], &alone, &two.ask(&sequences)?)?;
    same(&sequences, ["alone", "with a second model open"], &alone, &one.ask(&sequences)?)?;
    drop(one);
    same(&sequences, ["alone", "after the first model was closed"], &alone, &two.ask(&sequences)?)?;
    let mut three = subject.open()?;
    drop(two);
    same(&sequences, ["alone", "in a third model"], &alone, &three.ask(&sequences)?)?;
    Ok(format!("{found}, in three models that were opened and closed around each other"))
}

pub(super) fn other_thread(subject: &Subject) -> Finding {
    let mut opened = subject.open()?;
    let sequences = corpus(&opened.info);
    let here = opened.ask(&sequences)?;
    let asked = thread::scope(|scope| {
        let there = scope.spawn(|| (opened.ask(&sequences), opened.describe()));
        there.join().map_err(|_| Stop::Failed("the thread that asked did not end".to_owned()))
    })?;
    asked.1?;
    let found = same(&sequences, ["where it was opened", "from another thread"], &here, &asked.0?)?;
    let closed = thread::spawn(move || drop(opened)).join();
    closed.map_err(|_| Stop::Failed("the thread that closed the model did not end".to_owned()))?;
    Ok(format!("{found}; opened, asked and closed in three threads"))
}

pub(super) fn at_once(subject: &Subject) -> Finding {
    let (mut one, mut two) = (subject.open()?, subject.open()?);
    let sequences = corpus(&one.info);
    let alone = one.ask(&sequences)?;
    let barrier = Barrier::new(2);
    let ask = |opened: &mut Opened| -> Vec<_> {
        let round = |_| {
            barrier.wait();
            opened.ask(&sequences)
        };
        (0..ROUNDS).map(round).collect()
    };
    let answers = thread::scope(|scope| {
        let other = scope.spawn(|| ask(&mut two));
        let mut all = ask(&mut one);
        all.extend(other.join().expect("asking does not panic"));
        all
    });
    for answer in answers {
        same(&sequences, ["alone", "while another model was asked"], &alone, &answer?)?;
    }
    let found = same(&sequences, ["", ""], &alone, &alone)?;
    Ok(format!("{found}, {ROUNDS} times from two threads at once"))
}
