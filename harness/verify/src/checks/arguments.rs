//! Whether null pointers, sizes and lengths that can't be are refused before anything is read through them.
#![allow(unsafe_code)] // Wrong calls are made on purpose; each block states what keeps them defined.

use std::ptr::{null, null_mut};

use bheval_abi::{Forest, Kind, Message, ModelInfo, Scores, Status};

use crate::ask::Batch;
use crate::raw::{
    Answer, Opened, blank_info, call_describe, call_score, close_null, masked_function, raw_scores, said,
    said_in,
};
use crate::rejection::{Rejection, check_refusal};
use crate::subject::Subject;
use crate::trees::Trees;
use crate::verdict::{Finding, failed};

/// A right scoring call that can be spoiled.
struct Call {
    trees: Trees,
    log_prob: Vec<f32>,
}

impl Call {
    fn new() -> Self {
        let (trees, _) = Trees::chains(&[vec![0, 0, 0]]);
        let log_prob = vec![0.0; trees.len()];
        Self { trees, log_prob }
    }

    /// Sends the call after `spoil` changed its structs.
    fn send(&mut self, opened: &Opened, spoil: impl FnOnce(&mut Forest, &mut Scores)) -> Answer {
        let mut forest = self.trees.raw();
        let mut scores = raw_scores(&mut self.log_prob);
        spoil(&mut forest, &mut scores);
        // SAFETY: an opened model; pointers are null or valid. Arrays are shorter than a length only where the lengths
        // contradict each other, or are beyond what an index can count: reasons to refuse before an element is read.
        said(|m| unsafe { call_score(opened.raw, &opened.library, &forest, &mut scores, m) })
    }
}

pub(super) fn nulls(subject: &Subject) -> Finding {
    let mut rejection = Rejection::new(subject.open()?)?;
    let mut call = Call::new();
    // SAFETY: null pointers, or valid ones.
    let answers = {
        let opened = &rejection.opened;
        let (forest, mut scores) = (call.trees.raw(), raw_scores(&mut call.log_prob));
        let (library, model) = (&opened.library, opened.raw);
        // SAFETY: null pointers, which the contract has an answer for, or valid ones.
        unsafe {
            vec![
                ("a null forest", said(|m| call_score(model, library, null(), &mut scores, m))),
                ("null scores", said(|m| call_score(model, library, &forest, null_mut(), m))),
                ("a null model", said(|m| call_score(null_mut(), library, &forest, &mut scores, m))),
                ("a null info", call_describe(opened, null_mut())),
            ]
        }
    };
    for (what, answer) in answers {
        rejection.bad_input(what, answer)?;
    }
    if rejection.opened.info.kind == Kind::CAUSAL {
        null_arrays(&mut rejection, &mut call)?;
    } else {
        null_batch(&mut rejection)?;
    }
    close_null(&rejection.opened.library);
    rejection.unharmed("closing null, which is allowed,")?;
    rejection.done()
}

fn null_arrays(rejection: &mut Rejection, call: &mut Call) -> Result<(), crate::verdict::Stop> {
    let answer = call.send(&rejection.opened, |forest, _| forest.token = null());
    rejection.bad_input("a forest with null `token`", answer)?;
    let answer = call.send(&rejection.opened, |forest, _| forest.parent = null());
    rejection.bad_input("a forest with null `parent`", answer)?;
    let answer = call.send(&rejection.opened, |forest, _| forest.wanted = null());
    rejection.bad_input("a forest with null `wanted`", answer)?;
    let answer = call.send(&rejection.opened, |_, scores| scores.log_prob = null_mut());
    rejection.bad_input("scores with null `log_prob`", answer)
}

fn null_batch(rejection: &mut Rejection) -> Result<(), crate::verdict::Stop> {
    let function = masked_function(&rejection.opened.library).expect("the corpus was asked through it");
    let batch = Batch::asking_for(&[0, 0], 1, 0..1);
    let model = rejection.opened.raw;
    let mut log_prob = [0.0_f32];
    let mut send = |spoil: fn(&mut bheval_abi::Masked, &mut Scores)| {
        let (mut raw, mut scores) = (batch.raw(), raw_scores(&mut log_prob));
        spoil(&mut raw, &mut scores);
        // SAFETY: an opened model, pointers null or valid, lengths that contradict each other at most.
        said(|m| unsafe { function(model, &raw const raw, &raw mut scores, m) })
    };
    let mut answers = vec![
        ("a batch with null `token`", send(|raw, _| raw.token = null())),
        ("a batch with null `begin`", send(|raw, _| raw.begin = null())),
        ("a batch with null `position`", send(|raw, _| raw.position = null())),
        ("a batch with null `target`", send(|raw, _| raw.target = null())),
        ("scores with null `log_prob`", send(|_, scores| scores.log_prob = null_mut())),
        ("a batch whose `size` is 0", send(|raw, _| raw.size = 0)),
        ("scores of another length than the questions", send(|_, scores| scores.len = 2)),
    ];
    let mut scores = raw_scores(&mut log_prob);
    // SAFETY: null where the contract has an answer for it.
    answers.push(("a null batch", said(|m| unsafe { function(model, null(), &raw mut scores, m) })));
    answers.into_iter().try_for_each(|(what, answer)| rejection.bad_input(what, answer))
}

pub(super) fn sizes(subject: &Subject) -> Finding {
    let mut rejection = Rejection::new(subject.causal()?)?;
    let mut call = Call::new();
    for size in [0, size_of::<usize>(), size_of::<usize>() * 2] {
        let answer = call.send(&rejection.opened, |forest, _| forest.size = size);
        rejection.bad_input(&format!("a forest whose `size` is {size}"), answer)?;
        let answer = call.send(&rejection.opened, |_, scores| scores.size = size);
        rejection.bad_input(&format!("scores whose `size` is {size}"), answer)?;
        let mut info = ModelInfo { size, ..blank_info() };
        // SAFETY: an opened model and a valid struct, whose size says that little of it may be touched.
        let answer = unsafe { call_describe(&rejection.opened, &raw mut info) };
        rejection.bad_input(&format!("an info whose `size` is {size}"), answer)?;
        if info.vocab != 0 {
            return failed(format!("an info whose `size` is {size} was written to beyond that size"));
        }
    }
    rejection.done()
}

pub(super) fn lengths(subject: &Subject) -> Finding {
    let mut rejection = Rejection::new(subject.causal()?)?;
    let mut call = Call::new();
    for len in [0, 2, 4, usize::MAX / 4, usize::MAX] {
        let answer = call.send(&rejection.opened, |_, scores| scores.len = len);
        rejection.bad_input(&format!("room for {len} scores in a call of 3 nodes"), answer)?;
    }
    for len in [u32::MAX as usize, usize::MAX / 8, usize::MAX] {
        let answer = call.send(&rejection.opened, |forest, _| forest.len = len);
        rejection.bad_input(&format!("a forest of {len} nodes with room for 3 scores"), answer)?;
        let both = |forest: &mut Forest, scores: &mut Scores| (forest.len, scores.len) = (len, len);
        let answer = call.send(&rejection.opened, both);
        rejection.bad_input(&format!("a forest of {len} nodes, more than a parent can name,"), answer)?;
    }
    rejection.done()
}

/// Room for the sentence: none, too little, or unusable.
pub(super) fn messages(subject: &Subject) -> Finding {
    let mut rejection = Rejection::new(subject.open()?)?;
    for capacity in [0, 1, 7, 40] {
        let (opened, mut log_prob) = (&rejection.opened, [0.0]);
        let mut scores = raw_scores(&mut log_prob);
        // SAFETY: an opened model and no forest, which is to be refused.
        let answer =
            said_in(capacity, |m| unsafe { call_score(opened.raw, &opened.library, null(), &mut scores, m) });
        let what = format!("a null forest, with room for a sentence of {capacity} bytes,");
        if capacity > 7 || answer.fault.is_some() {
            check_refusal(&what, &answer)?;
        }
    }
    let (opened, mut log_prob) = (&rejection.opened, [0.0]);
    let mut scores = raw_scores(&mut log_prob);
    let mut send = |message: *mut Message| {
        // SAFETY: as above; a message may be null, and its size says that nothing of it may be touched.
        unsafe { call_score(opened.raw, &opened.library, null(), &mut scores, message) }
    };
    let mut small = Message { size: size_of::<usize>(), ptr: null_mut(), capacity: usize::MAX, len: 99 };
    for (what, status) in
        [("a null message", send(null_mut())), ("a message of size 8", send(&raw mut small))]
    {
        if status == Status::OK || status == Status::PANIC {
            return failed(format!("a null forest with {what} was answered with `{}`", status.name()));
        }
    }
    if small.len != 99 {
        return failed("a message whose `size` is 8 was written to beyond that size");
    }
    rejection.unharmed("calls with little or no room for a sentence")?;
    Ok("sentences keep to their room; no message, or a small one, is no crash".to_owned())
}
