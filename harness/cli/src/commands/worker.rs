//! `bheval worker`: the process behind `--isolate`. It is started by bheval, not by people.

use bheval_host::serve;

use crate::backend::linked;
use crate::console::Outcome;

/// The arguments that make this program a worker.
pub(crate) const ARGS: [&str; 1] = ["worker"];

pub(crate) fn run() -> anyhow::Result<Outcome> {
    serve(&linked())?;
    Ok(Outcome::Done)
}
