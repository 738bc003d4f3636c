//! Whether a library can be unloaded. bheval never does that to a plugin, but others who speak the contract may.
#![allow(unsafe_code)] // A library is loaded and unloaded here, outside the host that keeps it for ever.

use std::path::Path;
use std::ptr::null_mut;
use std::time::Duration;

use bheval_abi::{Backend, Dtype, MAJOR, Message, SYMBOL, Status};

use crate::raw::{Answer, blank_info, options, raw_scores, said};
use crate::trees::Trees;
use crate::verdict::Verdict;

const TIMES: usize = 20;
/// A thread that stayed behind runs into pages that are gone, if it is given time to.
const AFTER_EACH: Duration = Duration::from_millis(20);
const AFTER_ALL: Duration = Duration::from_millis(300);

/// Loads the library, opens, asks and closes a model, and unloads the library, 20 times. Nothing else of the process may
/// have loaded the library, or it would stay.
#[must_use]
pub fn unload(library: &Path, model: &str, threads: u32, dtype: Dtype, memory: u64) -> Verdict {
    let mut gone = 0;
    for _ in 0..TIMES {
        // SAFETY: the library's initialisers run, as they did in the host that judged its table.
        let loaded = match unsafe { libloading::Library::new(library) } {
            Ok(loaded) => loaded,
            Err(error) => return Verdict::failed(format!("it could not be loaded again: {error}")),
        };
        // In a thread that ends: the system keeps a library while a thread's own data has destructors in it.
        let used = std::thread::scope(|scope| {
            scope.spawn(|| use_once(&loaded, model, threads, dtype, memory)).join()
        });
        if let Err(answer) = used.expect("the calls do not panic on this side") {
            let text = format!("a model of the library, loaded again, was refused: {:?}", answer.sentence);
            return Verdict::failed(text);
        }
        if let Err(error) = loaded.close() {
            return Verdict::failed(format!("the system could not unload it: {error}"));
        }
        std::thread::sleep(AFTER_EACH);
        gone += usize::from(!is_mapped(library));
    }
    std::thread::sleep(AFTER_ALL);
    Verdict {
        outcome: crate::Outcome::Passed,
        evidence: format!(
            "loaded, asked and unloaded {TIMES} times; the system let go of it {gone} times (bheval itself never unloads)"
        ),
    }
}

fn use_once(
    loaded: &libloading::Library,
    model: &str,
    threads: u32,
    dtype: Dtype,
    memory: u64,
) -> Result<(), Answer> {
    let refused =
        |sentence: &str| Answer { status: Status::INTERNAL, sentence: sentence.to_owned(), fault: None };
    // SAFETY: the host found the symbol to be a table of this major version, in the same file.
    let symbol = unsafe { loaded.get::<*const Backend>(SYMBOL) }.map_err(|_| refused("its table is gone"))?;
    // SAFETY: as above; the library stays loaded until `loaded` is closed by the caller.
    let table: &Backend = unsafe { &**symbol };
    let (open, close, describe, score) = match (table.open, table.close, table.describe, table.score) {
        (Some(open), Some(close), Some(describe), Some(score)) if table.major == MAJOR => {
            (open, close, describe, score)
        }
        _ => return Err(refused("its table is another one")),
    };
    let mut raw = null_mut();
    let options = options(model, threads, dtype, memory);
    let mut info = blank_info();
    let (trees, _) = Trees::chains(&[vec![0, 0]]);
    let mut log_prob = [0.0; 2];
    let (forest, mut scores) = (trees.raw(), raw_scores(&mut log_prob));
    let granted = |answer: Answer| if answer.status == Status::OK { Ok(()) } else { Err(answer) };
    // SAFETY: functions of a table that is loaded, with valid pointers; the model is closed once, and not used after.
    unsafe {
        granted(said(|m: *mut Message| open(&raw const options, &raw mut raw, m)))?;
        let told = granted(said(|m| describe(raw, &raw mut info, m)));
        if info.kind == bheval_abi::Kind::CAUSAL {
            said(|m| score(raw, &raw const forest, &raw mut scores, m));
        }
        close(raw);
        told
    }
}

fn is_mapped(library: &Path) -> bool {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    library.to_str().is_some_and(|path| maps.contains(path))
}
