//! Training that starts from weights of an earlier one.

use crate::Error;
use crate::checkpoint::Stored;
use crate::learner::{Kept, Learner};
use crate::plan::InitialWeights;

/// Gives a learner the weights of a file: every tensor by its name, in its shape. Moments stay at 0.
///
/// # Errors
/// Tensors that the file lacks or has in another shape, and any that the model does not know.
pub(crate) fn initialise(learner: &mut dyn Learner, from: &InitialWeights) -> Result<(), Error> {
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
