//! What a run left: its plan, its checkpoints, its scores.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use bheval_corpus::Corpus;
use serde_json::Value;

use super::Error;
use crate::checkpoint::{State, name_of, step_of, verify};
use crate::scores::Score;

/// Which checkpoint of a run is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Which {
    /// What the run itself took for its model: the best with early stopping, else the last.
    #[default]
    Finished,
    /// The one of the lowest dev loss.
    Best,
    /// The newest.
    Last,
    /// That of a step.
    Step(u64),
}

impl FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "best" => Ok(Self::Best),
            "last" => Ok(Self::Last),
            number => number
                .parse()
                .map(Self::Step)
                .map_err(|_| "`best`, `last`, or the number of a step".to_owned()),
        }
    }
}

/// A run's folder, read only.
#[derive(Clone, Debug)]
pub struct Run {
    pub(super) folder: PathBuf,
    /// The resolved plan, as it is stored.
    pub(super) plan: Value,
    /// Its digest.
    pub(super) digest: String,
}

/// A checkpoint that was found whole.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// Its folder.
    pub folder: PathBuf,
    /// Its state.
    pub state: State,
}

impl Run {
    /// Reads the plan of a run.
    ///
    /// # Errors
    /// A folder that is no run's.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let path = folder.join("plan.json");
        let wrong = |reason: &str| {
            let reason = format!("{reason}; name the folder that `bheval train -o DIR` wrote");
            Error::Run { folder: folder.to_owned(), reason }
        };
        let bytes = fs::read(&path).map_err(|e| wrong(&format!("plan.json can't be read ({e})")))?;
        let mut stored: Value =
            serde_json::from_slice(&bytes).map_err(|e| wrong(&format!("plan.json is no JSON ({e})")))?;
        match (stored["plan"].take(), stored["digest"].as_str()) {
            (plan @ Value::Object(_), Some(digest)) => {
                Ok(Self { folder: folder.to_owned(), plan, digest: digest.to_owned() })
            }
            _ => Err(wrong("plan.json holds no plan")),
        }
    }

    /// Finds a checkpoint, and holds every file of it against its SHA-256.
    ///
    /// # Errors
    /// A run without such a checkpoint, and a damaged one.
    pub fn choose(&self, which: Which) -> Result<Chosen, Error> {
        let steps = self.steps()?;
        let newest = *steps.last().ok_or_else(|| self.wrong("it has no checkpoint yet".to_owned()))?;
        let step = match which {
            Which::Last => newest,
            Which::Step(step) if steps.contains(&step) => step,
            Which::Step(step) => {
                let all: Vec<String> = steps.iter().map(u64::to_string).collect();
                return Err(
                    self.wrong(format!("it has no checkpoint of step {step}; there are: {}", all.join(", ")))
                );
            }
            Which::Best => self.best(&steps, newest)?,
            Which::Finished if self.plan["evaluate"]["patience"].is_null() => newest,
            Which::Finished => self.state(newest)?.patience.best.map_or(newest, |best| best.step),
        };
        let folder = self.checkpoint(step);
        let state = verify(&folder)?;
        if state.plan != self.digest {
            return Err(self.wrong(format!("the checkpoint of step {step} is of another plan")));
        }
        Ok(Chosen { folder, state })
    }

    /// The step of the lowest dev loss among those with a checkpoint.
    fn best(&self, steps: &[u64], newest: u64) -> Result<u64, Error> {
        let dev = self.state(newest)?.dev;
        let kept = dev.iter().filter(|found| steps.contains(&found.step));
        let best = kept.min_by(|a, b| a.loss.total_cmp(&b.loss));
        best.map(|best| best.step).ok_or_else(|| {
            self.wrong(
                "no dev loss was measured at a step with a checkpoint; name a step, or `last`".to_owned(),
            )
        })
    }

    fn state(&self, step: u64) -> Result<State, Error> {
        Ok(State::read(&self.checkpoint(step).join(crate::checkpoint::STATE))?)
    }

    fn checkpoint(&self, step: u64) -> PathBuf {
        self.folder.join("checkpoints").join(name_of(step))
    }

    /// Steps of which there are checkpoints, rising.
    fn steps(&self) -> Result<Vec<u64>, Error> {
        let folder = self.folder.join("checkpoints");
        let entries = fs::read_dir(&folder)
            .map_err(|e| self.wrong(format!("its checkpoints can't be listed ({e})")))?;
        let name = |entry: fs::DirEntry| step_of(&entry.file_name().to_string_lossy());
        let mut steps: Vec<u64> = entries.filter_map(Result::ok).filter_map(name).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    fn wrong(&self, reason: String) -> Error {
        Error::Run { folder: self.folder.clone(), reason }
    }

    /// The corpus, where it still lies where it did and is the same; else why it can't be told of.
    pub(super) fn corpus(&self) -> Result<Corpus, String> {
        let text = |key: &str| self.plan["data"][key].as_str().unwrap_or_default().to_owned();
        let (folder, sha256) = (text("corpus"), text("corpus_sha256"));
        let corpus = Corpus::open(Path::new(&folder)).map_err(|e| e.to_string())?;
        if corpus.sha256() != sha256 {
            return Err(format!("{folder} holds another corpus now than the model was trained on"));
        }
        Ok(corpus)
    }

    /// What tasks gave at a step.
    pub(super) fn scores(&self, step: u64) -> Result<Vec<Score>, Error> {
        let path = self.folder.join("scores.csv");
        if !path.exists() {
            return Ok(vec![]);
        }
        let wrong = |e: csv::Error| self.wrong(format!("{} can't be read ({e})", path.display()));
        let mut found = Vec::new();
        for row in
            csv::Reader::from_path(&path).map_err(wrong)?.deserialize::<(u64, u64, String, String, f64)>()
        {
            let (of, _, task, measure, value) = row.map_err(wrong)?;
            if of == step {
                found.push(Score { task, measure, value });
            }
        }
        Ok(found)
    }
}
