//! Runs a target by random mutation, for as many inputs or as long as asked.

use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::mutate::{Numbers, mutated};

/// The most bytes of an input.
const LONGEST: usize = 1 << 14;

/// How long to go on.
#[derive(Clone, Copy, Debug)]
pub enum Budget {
    /// So many inputs.
    Inputs(u64),
    /// So long.
    Time(Duration),
}

/// What was done.
#[derive(Clone, Copy, Debug)]
pub struct Driven {
    /// Inputs that were tried.
    pub inputs: u64,
    /// How long it took.
    pub took: Duration,
}

/// Calls `body` with the seeds of a target, then with random changes of them. The input being tried lies at
/// `<artifacts>/<target>`, whatever happens to the process; it is deleted when all went well.
///
/// The same number is the same inputs: a crash can be had again.
///
/// # Panics
/// Where `body` does, and where there are no seeds.
pub fn drive(target: &str, body: fn(&[u8]), budget: Budget, number: u64, artifacts: &Path) -> Driven {
    let seeds = seeds(target);
    fs::create_dir_all(artifacts).expect("the folder of artifacts can be made");
    let artifact = artifacts.join(target);
    let mut trying = File::create(&artifact).expect("the folder of artifacts can be written");
    let mut numbers = Numbers(number);
    let begun = Instant::now();
    let mut inputs = 0;
    let more = |inputs: u64| match budget {
        Budget::Inputs(most) => inputs < most,
        Budget::Time(most) => begun.elapsed() < most,
    };
    while inputs < seeds.len() as u64 || more(inputs) {
        let input = match seeds.get(inputs as usize) {
            Some(seed) => seed.clone(),
            None => mutated(&seeds, &mut numbers, LONGEST),
        };
        keep(&mut trying, &input).expect("the folder of artifacts can be written");
        body(&input);
        inputs += 1;
    }
    // A leftover would be taken for a crash; one that can't be deleted is no reason to fail.
    let _ = fs::remove_file(&artifact);
    Driven { inputs, took: begun.elapsed() }
}

/// Makes `input` all that the file holds. Opening it anew each time would take longer than most targets.
fn keep(file: &mut File, input: &[u8]) -> io::Result<()> {
    file.rewind()?;
    file.write_all(input)?;
    file.set_len(input.len() as u64)
}

/// The committed inputs of a target, in the order of their names.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} has no seeds", folder.display());
    files.iter().map(|file| fs::read(file).expect("seeds can be read")).collect()
}
