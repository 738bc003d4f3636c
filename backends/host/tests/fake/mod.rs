//! A backend for the tests of workers, linked into test and worker alike. It reads forests and masked sequences, gives
//! logits, and has every fault on demand: token 666 is a segmentation fault, 667 an abort, 668 a silent exit, 669 a line
//! on stdout, 670 an endless loop, 671 a panic, 672 NaN, 673 one token more that is said to be fed than there are, 674 as
//! many as a number takes. A model path `crash`
//! faults while opening, one that ends in `opens-once` when it is opened again.

use bheval_abi::{
    Backend, Failure, ForestView, Info, Kind, LanguageModel, LogitsTable, MaskedTable, MaskedView, Opening,
    backend, logits_table, masked_table,
};

pub(crate) static TABLE: Backend = backend::<Fake>();
static LOGITS: LogitsTable = logits_table::<Fake>();
static MASKED: MaskedTable = masked_table::<Fake>();

pub(crate) const VOCAB: u32 = 1000;

pub(crate) struct Fake(Info);

impl LanguageModel for Fake {
    const NAME: &'static str = "fake";
    const VERSION: &'static str = "3";
    const FOREST: bool = true;
    const LOGITS: Option<&'static LogitsTable> = Some(&LOGITS);
    const MASKED: Option<&'static MaskedTable> = Some(&MASKED);

    fn open(options: &Opening) -> Result<Self, Failure> {
        let path = options.path.to_string_lossy();
        match &*path {
            "crash" => segmentation_fault(),
            "no" => return Err(Failure::model("there is no model here")),
            path if path.ends_with("opens-once") && std::fs::File::create_new(path).is_err() => {
                segmentation_fault();
            }
            _ => {}
        }
        let kind = if path == "masked" { Kind::MASKED } else { Kind::CAUSAL };
        Ok(Self(Info {
            vocab: VOCAB,
            context: 77,
            nodes: 1 << 17,
            kind,
            parameters: u64::from(options.dtype.0) + options.threads as u64 + options.memory,
            architecture: path.into_owned(),
            dtype: "f32".into(),
        }))
    }

    fn info(&self) -> &Info {
        &self.0
    }

    /// Of tokens and parents, in steps of 1/8: exact in f32.
    fn score(&mut self, forest: ForestView<'_>, log_prob: &mut [f32]) -> Result<u64, Failure> {
        forest.check_tokens(VOCAB)?;
        for i in (0..forest.len()).filter(|&i| forest.is_wanted(i)) {
            let above = forest.parent_of(i).map_or(0, |p| forest.token[p]);
            log_prob[i] = fault(forest.token[i]).unwrap_or(value(forest.token[i], above));
        }
        Ok(fed(forest.token))
    }

    fn logits(&mut self, forest: ForestView<'_>, out: &mut [f32]) -> Result<(), Failure> {
        let wanted = (0..forest.len()).filter(|&i| forest.is_wanted(i));
        for (i, row) in wanted.zip(out.chunks_mut(VOCAB as usize)) {
            fault(forest.token[i]);
            row.iter_mut().zip(0..).for_each(|(logit, id)| *logit = value(forest.token[i], id));
        }
        Ok(())
    }

    fn masked(&mut self, batch: MaskedView<'_>, log_prob: &mut [f32]) -> Result<u64, Failure> {
        batch.check_tokens(VOCAB)?;
        for (out, (&at, &target)) in log_prob.iter_mut().zip(batch.position.iter().zip(batch.target)) {
            *out = fault(batch.token[at as usize]).unwrap_or(value(batch.token[at as usize], target));
        }
        Ok(fed(batch.token))
    }
}

/// What the fake says of a token after another one.
pub(crate) fn value(token: u32, above: u32) -> f32 {
    -(((token * 31 + above * 17) % 97 + 1) as f32) / 8.0
}

/// What the fake says that it ran.
fn fed(tokens: &[u32]) -> u64 {
    match tokens {
        all if all.contains(&673) => all.len() as u64 + 1,
        all if all.contains(&674) => u64::MAX,
        all => all.len() as u64,
    }
}

fn fault(token: u32) -> Option<f32> {
    match token {
        666 => segmentation_fault(),
        667 => std::process::abort(),
        668 => std::process::exit(0),
        669 => say("not an answer\n".repeat(1000).as_str()),
        670 => loop {
            std::hint::spin_loop();
        },
        671 => panic!("token 671"),
        672 => return Some(f32::NAN),
        _ => {}
    }
    None
}

#[allow(clippy::print_stdout)] // That is what it is here for.
fn say(text: &str) {
    print!("{text}");
    // What a library reads from stdin must not be a request, either.
    assert_eq!(std::io::stdin().lines().count(), 0, "stdin holds something");
}

#[allow(unsafe_code)]
fn segmentation_fault() -> ! {
    // SAFETY: none, that is what it is here for: no page is mapped at this address.
    unsafe { std::ptr::without_provenance_mut::<u8>(8).write_volatile(1) };
    unreachable!("the write went through")
}
