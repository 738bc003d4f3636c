//! Whether a backend says what it is, opens what is a model and refuses what is none.
#![allow(unsafe_code)] // Wrong calls are made on purpose; each block states what keeps them defined.

use std::ptr::{null, null_mut};

use bheval_abi::{Dtype, Kind, LOGITS_EXTENSION, MASKED_EXTENSION, OpenOptions, RawModel, Status, Text};

use crate::raw::{Answer, Info, call_open, extension, extension_of_noise, masked_function, options, table};
use crate::rejection::{Rejection, check_refusal};
use crate::subject::{Subject, nowhere};
use crate::verdict::{Finding, Stop, failed};

pub(super) fn opens(subject: &Subject) -> Finding {
    let opened = subject.open()?;
    let info = &opened.info;
    let kind = match info.kind {
        Kind::CAUSAL => "causal",
        Kind::MASKED => "masked",
        Kind(other) => return failed(format!("`kind` is {other}, which the contract does not know")),
    };
    if info.kind == Kind::MASKED && masked_function(&subject.library).is_none() {
        return failed(format!("the model is masked, but the backend has no `{MASKED_EXTENSION}`"));
    }
    let (library, forests) = (&subject.library, if opened.takes_forests() { "any forest" } else { "chains" });
    let context = if info.context == 0 { "no limit".to_owned() } else { info.context.to_string() };
    Ok(format!(
        "{} {}: {} ({kind}), vocabulary {}, context {context}, {} nodes in a call, takes {forests}",
        library.name(),
        library.version(),
        info.architecture.as_deref().unwrap_or("?"),
        info.vocab,
        info.nodes
    ))
}

pub(super) fn info(subject: &Subject) -> Finding {
    let library = &subject.library;
    if library.name().is_empty() || library.version().is_empty() {
        return failed("the table's name or version is empty");
    }
    let known = bheval_abi::FEATURE_FOREST;
    let unknown = table(library).features & !known;
    if unknown != 0 {
        return failed(format!("the table has feature bits {unknown:#x}, which this version does not know"));
    }
    let mut opened = subject.open()?;
    let Info { vocab, context, nodes, architecture, dtype, .. } = opened.info.clone();
    for (name, text) in [("architecture", &architecture), ("dtype", &dtype)] {
        match text {
            None => return failed(format!("`{name}` is not UTF-8")),
            Some(text) if text.is_empty() => return failed(format!("`{name}` is empty")),
            Some(_) => {}
        }
    }
    if vocab == 0 || nodes == 0 || context == 1 {
        return failed(format!(
            "`vocab` is {vocab}, `nodes` {nodes} and `context` {context}: a model has tokens, takes at least one node, \
             and a context of one token scores nothing"
        ));
    }
    let first = opened.info.clone();
    opened.ask(&crate::corpus::corpus(&first))?;
    let anew = subject.open()?.info.clone();
    for (when, other) in [("after scoring", opened.describe()?), ("after opening it again", anew)] {
        if other != first {
            return failed(format!("the model was {first:?}, and {when} it is {other:?}"));
        }
    }
    Ok(format!("{} parameters, {}; the same at each asking", first.parameters, dtype.unwrap_or_default()))
}

pub(super) fn extensions(subject: &Subject) -> Finding {
    let library = &subject.library;
    let unknown =
        ["bheval.other.1", "bheval.logits.2", "bheval.logits.", "bheval.masked", "BHEVAL.LOGITS.1", "\0"];
    for id in unknown {
        if extension(library, id).is_some() {
            return failed(format!("the unknown extension {id:?} has a table"));
        }
    }
    if extension_of_noise(library).iter().any(|table| !table.is_null()) {
        return failed("an extension whose id is empty or not UTF-8 has a table");
    }
    let known = [LOGITS_EXTENSION, MASKED_EXTENSION];
    for id in known {
        if extension(library, id) != extension(library, id) {
            return failed(format!("the table of {id} is another one at each asking"));
        }
    }
    let offered: Vec<_> = known.into_iter().filter(|id| extension(library, id).is_some()).collect();
    Ok(format!(
        "offers {}; others are null",
        if offered.is_empty() { "none".into() } else { offered.join(", ") }
    ))
}

pub(super) fn open_refusals(subject: &Subject) -> Finding {
    let mut rejection = Rejection::new(subject.open()?)?;
    let empty = tempfile::tempdir().map_err(|e| Stop::Skipped(format!("no folder could be made: {e}")))?;
    let missing = nowhere();
    let right = || options(&subject.path, subject.threads, subject.dtype, subject.memory);
    let at = |path: Text<'static>| OpenOptions { path, ..right() };
    static NOISE: [u8; 4] = *b"/\xff\xfe\xfd";
    let noise = Text { ptr: NOISE.as_ptr(), len: NOISE.len(), ..Text::new("") };
    let path = |path: &std::path::Path| path.to_str().unwrap_or("/no/such/model").to_owned();
    let (missing, empty) = (path(&missing), path(empty.path()));
    let cases = [
        ("a path where nothing is", OpenOptions { path: Text::new(&missing), ..right() }),
        ("an empty folder", OpenOptions { path: Text::new(&empty), ..right() }),
        ("an empty path", at(Text::new(""))),
        ("a path that is not UTF-8", at(noise)),
        ("a null path with a length", at(Text { ptr: null(), len: 5, ..Text::new("") })),
        ("the unknown number format 99", OpenOptions { dtype: Dtype(99), ..right() }),
        ("the unknown number format 0", OpenOptions { dtype: Dtype(0), ..right() }),
        ("options whose `size` is 0", OpenOptions { size: 0, ..right() }),
        ("options whose `size` is 8", OpenOptions { size: size_of::<usize>(), ..right() }),
    ];
    for (what, options) in cases {
        let (answer, model) = open(subject, &options);
        if !model.is_null() && answer.status != Status::OK {
            return failed(format!("{what} was refused, but the caller's model pointer was written to"));
        }
        rejection.refusal(what, answer)?;
    }
    nulls(subject, &right())?;
    rejection.unharmed("opening with null pointers")?;
    rejection.done()
}

fn open(subject: &Subject, options: &OpenOptions<'_>) -> (Answer, *mut RawModel) {
    let mut model = null_mut();
    // SAFETY: valid pointers; what the structs hold is null with a length, or right for its size, or to be refused.
    let answer = unsafe { call_open(&subject.library, options, &raw mut model) };
    (answer, model)
}

fn nulls(subject: &Subject, right: &OpenOptions<'_>) -> Result<(), Stop> {
    let mut model = null_mut();
    // SAFETY: null pointers, which the contract has an answer for, or valid ones.
    let answers = unsafe {
        [
            ("null options", call_open(&subject.library, null(), &raw mut model)),
            ("no room for the model", call_open(&subject.library, right, null_mut())),
        ]
    };
    answers.iter().try_for_each(|(what, answer)| check_refusal(what, answer))
}
