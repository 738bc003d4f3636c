//! Mamba (architectures.md 5).

use bheval_abi::Failure;
use bheval_candle::keys::Keys;

use super::Network;
use crate::parameters::Parameters;

/// Declares the model that the configuration describes.
///
/// # Errors
/// What the configuration lacks, or asks for that can't be trained.
pub(super) fn build(keys: &Keys<'_>, _parameters: &mut Parameters) -> Result<Box<dyn Network>, Failure> {
    Err(keys.unsupported("this architecture can't be trained"))
}
