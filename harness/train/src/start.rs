//! Where a run begins: at its newest checkpoint, at weights of an earlier run, or at the learner's own start.

use crate::Error;
use crate::checkpoint::{self, State, Stored};
use crate::learner::{Kept, Learner};
use crate::observer::{Event, Observer};
use crate::plan::InitialWeights;
use crate::trainer::Job;

/// Brings the learner to where the run stands: its newest checkpoint, or the start.
pub(crate) fn begin(job: &mut Job<'_>) -> Result<State, Error> {
    let info = job.learner.info(job.plan.data.sequence_length)?;
    job.plan.check(&info)?;
    let observer = &mut *job.observer;
    let found = job.folder.newest(job.identity, &mut |warning| observer.event(Event::Warning(warning)))?;
    let fresh = State::new(job.identity.clone(), job.program, &info.arithmetic);
    let state = match &found {
        None => {
            if let Some(from) = &job.plan.train.initialise {
                initialise(job.learner, from)?;
            }
            fresh
        }
        Some(found) => {
            checkpoint::restore(&found.path, job.learner)?;
            warn_of_change(job.observer, &found.state, &fresh);
            let State { program, arithmetic, .. } = fresh;
            State { program, arithmetic, files: Default::default(), ..found.state.clone() }
        }
    };
    let from = found.as_ref().map(|found| found.path.as_path());
    job.observer.event(Event::Started { from, step: state.step, steps: job.plan.train.steps });
    Ok(state)
}

fn warn_of_change(observer: &mut dyn Observer, stored: &State, now: &State) {
    for (what, before, after) in
        [("program", &stored.program, &now.program), ("arithmetic", &stored.arithmetic, &now.arithmetic)]
    {
        if before != after {
            observer.event(Event::Warning(&format!(
                "the checkpoint is of another {what} ({before}) than this one ({after}): training goes on, but the weights \
                 may differ in their last digits from those of a run without this change"
            )));
        }
    }
}

/// Gives a learner the weights of a file: every tensor by its name, in its shape. Moments stay at 0.
///
/// # Errors
/// Tensors that the file lacks or has in another shape, and any that the model does not know.
fn initialise(learner: &mut dyn Learner, from: &InitialWeights) -> Result<(), Error> {
    let mut stored = Stored::open(&from.path)?;
    let tensors = learner.tensors().to_vec();
    let strange = stored.names().into_iter().find(|name| tensors.iter().all(|tensor| tensor.name != *name));
    if let Some(name) = strange {
        let reason = format!(
            "it has a tensor {name}, which this model does not know; is it of the same architecture and size?"
        );
        return Err(Error::Unfit { path: from.path.clone(), reason });
    }
    for (index, tensor) in tensors.iter().enumerate() {
        learner.write(index, Kept::Weight, &stored.read(&tensor.name, &tensor.shape)?)?;
    }
    Ok(())
}
