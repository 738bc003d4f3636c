//! `scores.csv`: what tasks gave at checkpoints, the learning curve.

use std::fs;
use std::path::Path;

use bheval_data::atomic::write_atomic;

use crate::Error;

const HEADER: &str = "step,words_seen,task,measure,value";

/// One number of one task.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// The task.
    pub task: String,
    /// What of it: `macro`, `blimp/morphology`.
    pub measure: String,
    /// In percent for accuracies, as the task's own report.
    pub value: f64,
}

/// Runs tasks on a checkpoint. The harness's own evaluation implements it, so that training does not depend on it.
pub trait Examiner {
    /// The scores of the model in a folder.
    ///
    /// # Errors
    /// Why there are none.
    fn examine(&mut self, model: &Path, step: u64) -> Result<Vec<Score>, String>;
}

/// The table as it is on the disk.
fn read(path: &Path) -> Result<Vec<String>, Error> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(Error::file(path, "read")(e)),
    };
    let mut lines = text.lines().map(str::to_owned);
    match lines.next() {
        Some(header) if header == HEADER => Ok(lines.collect()),
        _ => Err(Error::damaged(path, "its columns are not those of scores.csv; move it away")),
    }
}

fn write(path: &Path, rows: &[String]) -> Result<(), Error> {
    let mut text = HEADER.to_owned() + "\n";
    rows.iter().for_each(|row| text += &format!("{row}\n"));
    Ok(write_atomic(path, text.as_bytes())?)
}

fn step_of(row: &str) -> Option<u64> {
    row.split(',').next()?.parse().ok()
}

/// Cuts the rows beyond a step; returns whether the step itself has some.
///
/// # Errors
/// What the system refuses, or a file of that name that is no such table.
pub(crate) fn cut(path: &Path, step: u64) -> Result<bool, Error> {
    let mut rows = read(path)?;
    let before = rows.len();
    rows.retain(|row| step_of(row).is_some_and(|found| found <= step));
    if rows.len() != before {
        write(path, &rows)?;
    }
    Ok(rows.iter().any(|row| step_of(row) == Some(step)))
}

/// Adds a step's scores: all of them or none.
///
/// # Errors
/// What the system refuses.
pub(crate) fn append(path: &Path, step: u64, words_seen: u64, scores: &[Score]) -> Result<(), Error> {
    let mut rows = read(path)?;
    rows.extend(scores.iter().map(|score| {
        format!("{step},{words_seen},{},{},{}", quoted(&score.task), quoted(&score.measure), score.value)
    }));
    write(path, &rows)
}

fn quoted(cell: &str) -> String {
    if cell.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_of_later_steps_are_cut_and_measured_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("scores.csv");
        assert!(!cut(&path, 5).expect("nothing there"));
        let score = |value| Score { task: "blimp".into(), measure: "macro, all".into(), value };
        append(&path, 5, 100, &[score(60.5)]).expect("written");
        append(&path, 10, 200, &[score(61.0), score(62.0)]).expect("written");
        assert!(cut(&path, 10).expect("read"));
        assert!(!cut(&path, 7).expect("cut"));
        let text = fs::read_to_string(&path).expect("read");
        assert_eq!(text, format!("{HEADER}\n5,100,blimp,\"macro, all\",60.5\n"));
        assert!(cut(&path, 5).expect("read"));
    }
}
