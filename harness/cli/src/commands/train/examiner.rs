//! Tasks at checkpoints: what `bheval eval` does, on the folder of a checkpoint.

use std::path::{Path, PathBuf};

use bheval_data::locate::Folders;
use bheval_data::protocol::Protocol;
use bheval_eval::{BatchSize, Error, PlanRequest, Planned, Store, Summary, run as run_plan};
use bheval_host::Route;
use bheval_tasks::select;
use bheval_train::checkpoint::name_of;
use bheval_train::folder::EVALUATIONS;
use bheval_train::plan::Plan;
use bheval_train::scores::{Examiner, Score};

use super::model_args;
use crate::args::TrainArgs;
use crate::backend::{cores, find, options};
use crate::commands::data;

/// The tasks of a plan.
pub(super) struct Tasks {
    tasks: String,
    limit: Option<usize>,
    backend: String,
    threads: u32,
    folders: Folders,
    /// Where each evaluation has a folder of its own.
    runs: PathBuf,
}

impl Tasks {
    /// The tasks that a plan asks for, their data looked for before anything is trained.
    pub(super) fn open(args: &TrainArgs, plan: &Plan, out: &Path) -> anyhow::Result<Option<Self>> {
        let Some(tasks) = plan.evaluate.tasks.clone() else { return Ok(None) };
        let folders = data::open(&args.folders)?;
        let selected = select(&tasks)?;
        data::ensure(&selected, &folders)?;
        for one in &selected {
            one.check(&one.task.load(&folders)?.subsets)?;
        }
        Ok(Some(Self {
            tasks,
            limit: plan.evaluate.limit.map(|limit| limit as usize),
            backend: args.backend.clone(),
            threads: args.threads.or(plan.train.threads).unwrap_or_else(cores),
            folders,
            runs: out.join(EVALUATIONS),
        }))
    }

    fn scores(&self, model: &Path, step: u64) -> anyhow::Result<Vec<Score>> {
        let args = model_args(model, &self.backend, self.threads);
        let library = find(&args)?;
        let mut planned = Planned::resolve(PlanRequest {
            library: &library,
            options: options(&args, &library)?,
            tokenizer: model.to_owned(),
            tasks: select(&self.tasks)?,
            limit: self.limit,
            protocol: Protocol::Bheval,
            pll: None,
            route: Route::Forest,
            folders: &self.folders,
        })?;
        let folder = self.runs.join(name_of(step));
        let mut store = match Store::open(&folder, &planned.plan, false) {
            // What lies there is of a step that was trained another time.
            Err(Error::OtherRun { .. }) => Store::open(&folder, &planned.plan, true)?,
            opened => opened?,
        };
        match run_plan(&mut planned, &mut store, BatchSize::Auto, &mut |_| ()) {
            Ok(finished) if finished.summary.failed() == 0 => Ok(scores(&finished.summary)),
            Ok(finished) => anyhow::bail!("{}", finished.failures.join("; ")),
            Err(ended) => Err(ended.error.into()),
        }
    }
}

impl Examiner for Tasks {
    fn examine(&mut self, model: &Path, step: u64) -> Result<Vec<Score>, String> {
        self.scores(model, step).map_err(|error| format!("{error:#}"))
    }
}

/// The headline of each metric of each task, in percent.
fn scores(summary: &Summary) -> Vec<Score> {
    let mut all = Vec::new();
    for task in &summary.tasks {
        for average in &task.averages {
            let named = |measure: &str, value: Option<f64>| {
                let measure = format!("{}/{measure}", average.name);
                value.map(|value| Score { task: task.info.name.to_owned(), measure, value: 100.0 * value })
            };
            all.extend(named("macro", average.macro_mean));
            all.extend(named("micro", average.micro_mean));
            for (kind, value, _, mean) in &average.by_tag {
                all.extend(named(&format!("{kind}={value}"), *mean));
            }
        }
    }
    all
}
