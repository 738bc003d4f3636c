//! A run's folder: whose it is, who works in it, and what it holds.
//!
//! ```text
//! DIR/
//!   plan.json      the resolved plan, its identity and digest
//!   steps.csv      a row a step
//!   scores.csv     tasks at checkpoints
//!   evaluations/   their runs in full
//!   checkpoints/   step-00001000/ ...
//!   model/         the finished model
//!   lock           held by the process that trains
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use bheval_data::atomic::{publish, write_atomic};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::checkpoint::{Frame, STATE, State, WEIGHTS, name_of, names_in, step_of, sync, verify};
use crate::plan::{Identity, Keep, Plan};
use crate::{Difference, Error};

const PLAN: &str = "plan.json";
/// Where the runs of tasks at checkpoints lie.
pub const EVALUATIONS: &str = "evaluations";
const LOCK: &str = "lock";
const STEPS: &str = "steps.csv";
/// What a run writes, the plan last: while it is there, the others are known to belong to it.
const PARTS: [&str; 6] = ["model", EVALUATIONS, "scores.csv", STEPS, "checkpoints", PLAN];

#[derive(Serialize, Deserialize)]
struct StoredPlan {
    digest: String,
    identity: Identity,
    plan: Value,
}

/// A run's folder, opened by the one process that may write there.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    locked: bool,
    _lock: File,
}

/// A checkpoint that can be gone on from.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its folder.
    pub path: PathBuf,
    /// Its state.
    pub state: State,
}

impl Folder {
    /// Opens a run's folder, making it where it is missing. With `fresh`, a run that is there is put aside under another
    /// name first.
    ///
    /// # Errors
    /// A folder that can't be written, that another process works in, that holds another run, or things that are no run's.
    pub fn open(path: &Path, plan: &Plan, identity: &Identity, fresh: bool) -> Result<Self, Error> {
        refuse_strangers(path)?;
        fs::create_dir_all(path).map_err(Error::file(path, "make the folder"))?;
        let (lock, locked) = lock(path)?;
        if fresh {
            put_aside(path)?;
        }
        let folder = Self { path: path.to_owned(), locked, _lock: lock };
        folder.store_plan(plan, identity)?;
        let checkpoints = folder.checkpoints();
        fs::create_dir_all(&checkpoints).map_err(Error::file(&checkpoints, "make the folder"))?;
        for place in [path, &checkpoints] {
            remove_leftovers(place)?;
        }
        Ok(folder)
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether other processes are kept out; some file systems have no locks.
    #[must_use]
    pub fn locked(&self) -> bool {
        self.locked
    }

    /// The folder of all checkpoints.
    #[must_use]
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// The folder of a step's checkpoint.
    #[must_use]
    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.checkpoints().join(name_of(step))
    }

    /// The folder of the finished model.
    #[must_use]
    pub fn model(&self) -> PathBuf {
        self.path.join("model")
    }

    fn store_plan(&self, plan: &Plan, identity: &Identity) -> Result<(), Error> {
        let path = self.path.join(PLAN);
        // A run that never came to its first step holds nothing that another plan would spoil.
        let begun =
            self.path.join(STEPS).exists() || self.checkpoints().exists() && !self.steps()?.is_empty();
        if let Some(stored) = read_plan(&path)?.filter(|_| begun) {
            let differences = stored.identity.differences(identity);
            return same_plan(&self.path, differences);
        }
        let plan = serde_json::to_value(plan).expect("a plan is plain data and always JSON");
        let stored = StoredPlan { digest: identity.digest(), identity: identity.clone(), plan };
        let text =
            serde_json::to_string_pretty(&stored).expect("a plan is plain data and always JSON") + "\n";
        Ok(write_atomic(&path, text.as_bytes())?)
    }

    /// The steps of which there are checkpoints, the newest first.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn steps(&self) -> Result<Vec<u64>, Error> {
        let mut steps: Vec<_> =
            names_in(&self.checkpoints())?.iter().filter_map(|name| step_of(name)).collect();
        steps.sort_unstable_by(|a, b| b.cmp(a));
        Ok(steps)
    }

    /// The newest checkpoint that is whole. Damaged ones are told and put aside as `….broken`.
    ///
    /// # Errors
    /// A checkpoint of another plan, or none that is whole where there are some.
    pub fn newest(&self, identity: &Identity, tell: &mut dyn FnMut(&str)) -> Result<Option<Found>, Error> {
        let mut damaged = Vec::new();
        for step in self.steps()? {
            let path = self.checkpoint(step);
            match verify(&path) {
                Ok(state) => {
                    same_plan(&path, state.identity.differences(identity))?;
                    return Ok(Some(Found { path, state }));
                }
                Err(error @ Error::Damaged { .. }) => {
                    damaged.push(error.to_string());
                    let aside = put_broken_aside(&path)?;
                    tell(&format!(
                        "{error}; it was moved to {}, and the checkpoint before it is used",
                        aside.display()
                    ));
                }
                Err(error) => return Err(error),
            }
        }
        if damaged.is_empty() {
            return Ok(None);
        }
        Err(Error::NoCheckpoint { folder: self.checkpoints(), found: damaged })
    }

    /// Removes checkpoints that the plan does not keep: neither among the newest, nor a point of a learning curve, nor the best.
    ///
    /// # Errors
    /// What the system refuses.
    pub(crate) fn prune(&self, keep: Keep, best: Option<u64>) -> Result<(), Error> {
        let Keep::Newest(count) = keep else { return Ok(()) };
        let plain = self.steps()?.into_iter().filter(|step| Some(*step) != best && !self.is_point(*step));
        for step in plain.skip(count as usize) {
            let path = self.checkpoint(step);
            // Renamed first, so that half of it is never taken for a checkpoint.
            let doomed = self.checkpoints().join(format!(".{}.tmp", name_of(step)));
            fs::rename(&path, &doomed).map_err(Error::file(&path, "move"))?;
            fs::remove_dir_all(&doomed).map_err(Error::file(&doomed, "remove"))?;
        }
        Ok(())
    }

    /// Whether a checkpoint is never removed. One that can't be read is left to whoever looks at it next.
    fn is_point(&self, step: u64) -> bool {
        State::read(&self.checkpoint(step).join(STATE)).map_or(true, |state| state.point)
    }

    /// Makes the model of a step the finished one: written beside, synced, renamed.
    ///
    /// # Errors
    /// What the system refuses, and weights that are not as they were written.
    pub(crate) fn finish(&self, step: u64, frame: &Frame) -> Result<PathBuf, Error> {
        let checkpoint = self.checkpoint(step);
        let from = checkpoint.join(WEIGHTS);
        let state = State::read(&checkpoint.join(STATE))?;
        let record =
            state.files.get(WEIGHTS).ok_or_else(|| Error::damaged(&from, "its record is missing"))?;
        record.check(&from)?;
        let (model, beside) = (self.model(), self.path.join(".model.tmp"));
        if beside.exists() {
            fs::remove_dir_all(&beside).map_err(Error::file(&beside, "remove"))?;
        }
        fs::create_dir_all(&beside).map_err(Error::file(&beside, "make the folder"))?;
        frame.write(&beside)?;
        let weights = beside.join(WEIGHTS);
        fs::copy(&from, &weights).map_err(Error::file(&weights, "write"))?;
        File::open(&weights).and_then(|file| file.sync_all()).map_err(Error::file(&weights, "sync"))?;
        sync(&beside)?;
        if model.exists() {
            let old = self.path.join(".model.old.tmp");
            fs::rename(&model, &old).map_err(Error::file(&model, "move"))?;
            publish(&beside, &model)?;
            fs::remove_dir_all(&old).map_err(Error::file(&old, "remove"))?;
        } else {
            publish(&beside, &model)?;
        }
        Ok(model)
    }
}

/// Refuses a folder that holds something, but no run.
fn refuse_strangers(path: &Path) -> Result<(), Error> {
    if path.is_dir() && !path.join(PLAN).exists() {
        // What a process leaves that was killed before it stored its plan is no stranger's.
        let own = |name: &String| name == LOCK || name.starts_with('.');
        if let Some(found) = names_in(path)?.into_iter().find(|name| !own(name)) {
            return Err(Error::Taken { folder: path.to_owned(), found });
        }
    }
    Ok(())
}

/// The lock, and whether it holds: on a file system without locks two processes in one run are the user's to avoid.
fn lock(folder: &Path) -> Result<(File, bool), Error> {
    let path = folder.join(LOCK);
    let file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .open(&path)
        .map_err(Error::file(&path, "open"))?;
    match file.try_lock() {
        Ok(()) => Ok((file, true)),
        Err(TryLockError::WouldBlock) => Err(Error::Busy { folder: folder.to_path_buf() }),
        Err(TryLockError::Error(_)) => Ok((file, false)),
    }
}

/// Moves what a run wrote into a numbered sibling folder.
fn put_aside(folder: &Path) -> Result<(), Error> {
    if !PARTS.iter().any(|part| folder.join(part).exists()) {
        return Ok(());
    }
    let aside = numbered(folder, "old");
    fs::create_dir_all(&aside).map_err(Error::file(&aside, "make the folder"))?;
    for part in PARTS {
        let from = folder.join(part);
        if from.exists() {
            fs::rename(&from, aside.join(part)).map_err(Error::file(&from, "move"))?;
        }
    }
    Ok(())
}

fn put_broken_aside(checkpoint: &Path) -> Result<PathBuf, Error> {
    let aside = numbered(checkpoint, "broken");
    fs::rename(checkpoint, &aside).map_err(Error::file(checkpoint, "move"))?;
    Ok(aside)
}

/// A free name beside a folder: `NAME.old1`.
fn numbered(folder: &Path, end: &str) -> PathBuf {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let free =
        (1_u32..).map(|i| folder.with_file_name(format!("{name}.{end}{i}"))).find(|path| !path.exists());
    free.unwrap_or_else(|| folder.with_extension(end))
}

/// Removes what a killed process had begun: the lock is ours, so nobody is still at it.
fn remove_leftovers(folder: &Path) -> Result<(), Error> {
    for name in names_in(folder)? {
        if !(name.starts_with('.') && name.ends_with(".tmp")) {
            continue;
        }
        let path = folder.join(name);
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(Error::file(&path, "remove"))?;
    }
    Ok(())
}

fn read_plan(path: &Path) -> Result<Option<StoredPlan>, Error> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::file(path, "read")(e)),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| Error::damaged(path, e.to_string()))
}

fn same_plan(folder: &Path, differences: Vec<Difference>) -> Result<(), Error> {
    if differences.is_empty() {
        return Ok(());
    }
    Err(Error::OtherPlan { folder: folder.to_owned(), differences })
}
