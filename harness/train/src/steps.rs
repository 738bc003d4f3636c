//! `steps.csv`: a row for each step, appended as it is done. Times stand here and nowhere else.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use bheval_data::atomic::write_atomic;

use crate::Error;

const HEADER: &str = "step,epoch,words_seen,tokens_seen,learning_rate,loss,distillation,gradient_norm,dev_loss,seconds,\
                      tokens_per_second\n";

/// What a step gave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// The step, from 1.
    pub step: u64,
    /// Epochs that were seen after it, with fractions.
    pub epoch: f64,
    /// Words that were inputs.
    pub words_seen: u64,
    /// Tokens that were targets.
    pub tokens_seen: u64,
    /// The step's learning rate.
    pub learning_rate: f64,
    /// Mean cross-entropy of the step's targets before its update, in nats.
    pub loss: f64,
    /// Mean divergence from the teachers, in distillation.
    pub distillation: Option<f64>,
    /// Norm of all gradients together, before clipping.
    pub gradient_norm: f64,
    /// Mean cross-entropy over the dev text, where it was measured.
    pub dev_loss: Option<f64>,
    /// How long the step took, dev text and checkpoint left out.
    pub seconds: f64,
    /// Targets a second.
    pub tokens_per_second: f64,
}

impl Row {
    fn line(&self) -> String {
        let maybe = |x: Option<f64>| x.map(|x| x.to_string()).unwrap_or_default();
        let mut line = String::new();
        let Self { step, epoch, words_seen, tokens_seen, learning_rate, loss, gradient_norm, .. } = self;
        // Writing to a text can't fail.
        let _ = writeln!(
            line,
            "{step},{epoch:.6},{words_seen},{tokens_seen},{learning_rate},{loss},{},{gradient_norm},{},{:.3},{:.1}",
            maybe(self.distillation),
            maybe(self.dev_loss),
            self.seconds,
            self.tokens_per_second
        );
        line
    }
}

/// The open file.
#[derive(Debug)]
pub struct Steps {
    path: PathBuf,
    file: File,
}

impl Steps {
    /// Opens the table in a run's folder to go on after `step`: rows beyond it, and torn ones, are cut.
    ///
    /// # Errors
    /// What the system refuses, or a file of that name that is no such table.
    pub fn open(folder: &Path, step: u64) -> Result<Self, Error> {
        let path = folder.join("steps.csv");
        let found = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => vec![],
            Err(e) => return Err(Error::file(&path, "read")(e)),
        };
        let kept = repaired(&found, step).map_err(|reason| Error::damaged(&path, reason))?;
        if kept != found {
            write_atomic(&path, &kept)?;
        }
        let file = OpenOptions::new().append(true).open(&path).map_err(Error::file(&path, "open"))?;
        Ok(Self { path, file })
    }

    /// Appends a row: one write, so that a kill leaves it whole or torn at the end.
    ///
    /// # Errors
    /// A disk that is full or gone.
    pub fn append(&mut self, row: &Row) -> Result<(), Error> {
        self.file.write_all(row.line().as_bytes()).map_err(Error::file(&self.path, "append to"))
    }

    /// Waits until everything is on the disk.
    ///
    /// # Errors
    /// As [`Steps::append`].
    pub fn sync(&mut self) -> Result<(), Error> {
        self.file.sync_data().map_err(Error::file(&self.path, "sync"))
    }
}

/// The rows up to a step, each once and in order; the header where there is none.
fn repaired(found: &[u8], step: u64) -> Result<Vec<u8>, String> {
    // A header that was torn is no other table's.
    if HEADER.as_bytes().starts_with(found) {
        return Ok(HEADER.as_bytes().to_vec());
    }
    let Some(rows) = found.strip_prefix(HEADER.as_bytes()) else {
        return Err("its columns are not those of steps.csv; move it away".into());
    };
    let mut kept = HEADER.as_bytes().to_vec();
    let mut last = 0;
    for line in rows.split_inclusive(|byte| *byte == b'\n') {
        let Some(number) = number_of(line).filter(|n| *n > last && *n <= step) else { break };
        kept.extend_from_slice(line);
        last = number;
    }
    Ok(kept)
}

/// The step of a whole row.
fn number_of(line: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    let columns = text.split(',').count();
    (columns == HEADER.split(',').count()).then(|| text.split(',').next()?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(step: u64) -> Row {
        Row {
            step,
            epoch: 0.5,
            words_seen: 10 * step,
            tokens_seen: 15 * step,
            learning_rate: 1e-3 / 3.0,
            loss: 2.5,
            distillation: None,
            gradient_norm: 1.25,
            dev_loss: (step == 2).then_some(2.75),
            seconds: 0.5,
            tokens_per_second: 30.0,
        }
    }

    fn written(steps: u64) -> Vec<u8> {
        let rows: String = (1..=steps).map(|step| row(step).line()).collect();
        (HEADER.to_owned() + &rows).into_bytes()
    }

    #[test]
    fn a_row_has_a_cell_for_each_column() {
        let text = row(2).line();
        assert_eq!(text, "2,0.500000,20,30,0.0003333333333333333,2.5,,1.25,2.75,0.500,30.0\n");
        assert_eq!(number_of(text.as_bytes()), Some(2));
    }

    #[test]
    fn cut_anywhere_what_is_whole_and_within_the_step_stays() {
        let all = written(5);
        for cut in 0..=all.len() {
            for step in [0, 3, 9] {
                let kept = repaired(&all[..cut], step).expect("repaired");
                let whole = all[..cut].iter().filter(|b| **b == b'\n').count().saturating_sub(1);
                assert_eq!(kept, written((whole as u64).min(step)), "{cut} {step}");
            }
        }
    }

    #[test]
    fn another_table_is_left_alone() {
        assert!(repaired(b"a,b\n1,2\n", 3).is_err());
    }

    #[test]
    fn rows_are_appended_where_the_last_run_ended() {
        let folder = tempfile::tempdir().expect("a folder");
        for (from, to) in [(0, 3), (2, 4)] {
            let mut steps = Steps::open(folder.path(), from).expect("opened");
            (from + 1..=to).for_each(|step| steps.append(&row(step)).expect("appended"));
            steps.sync().expect("synced");
        }
        assert_eq!(fs::read(folder.path().join("steps.csv")).expect("read"), written(4));
    }
}
