//! Keys of a `config.json` that only training reads: how weights start, and dropout.

use bheval_abi::Failure;
use bheval_candle::keys::Keys;

/// The standard deviation under `key`, or `default`.
///
/// # Errors
/// What is no number from 0 to 100.
pub(super) fn deviation(keys: &Keys<'_>, key: &str, default: f32) -> Result<f32, Failure> {
    let given = keys.of_kind(key, "a standard deviation from 0 to 100", |v| {
        v.as_f64().filter(|d| (0.0..=100.0).contains(d))
    })?;
    Ok(given.map_or(default, |d| d as f32))
}

/// The probability under `key` with which values are dropped, or `default`.
///
/// # Errors
/// What is no number from 0 to 1.
pub(super) fn dropout(keys: &Keys<'_>, key: &str, default: f32) -> Result<f32, Failure> {
    Ok(keys.epsilon(key)?.map_or(default, |p| p as f32))
}

/// Refuses a kind of dropout that is not implemented; `default` is what transformers takes where the key is absent.
///
/// # Errors
/// Any probability but 0.
pub(super) fn no_dropout(keys: &Keys<'_>, key: &str, default: f32) -> Result<(), Failure> {
    match (keys.epsilon(key)?, default) {
        (Some(0.0), _) | (None, 0.0) => Ok(()),
        (Some(p), _) => {
            Err(keys
                .unsupported(&format!("`{key}` is {p}, but this dropout is not implemented; set it to 0")))
        }
        (None, p) => Err(keys.unsupported(&format!(
            "`{key}` is not given, which means {p}, but this dropout is not implemented; set it to 0"
        ))),
    }
}
