//! The model that ships with bheval: part of the binary, written to the cache when it is first used, so that
//! `bheval --tasks demo` works on a machine that has nothing else.

use std::path::{Path, PathBuf};

use anyhow::Context;
use bheval_data::atomic::{publish, write_atomic};
use bheval_data::digest::sha256_hex;
use bheval_data::locate;

use crate::args::{ModelArgs, SHIPPED};
use crate::console::tell;

/// Its name.
pub(crate) const NAME: &str = "hgrn2-9m";

macro_rules! files {
    ($($name:literal)*) => {
        [$(($name, include_bytes!(concat!("../../../data/models/hgrn2-9m/", $name)))),*]
    };
}

/// Its files.
const FILES: [(&str, &[u8]); 8] = files!(
    "README.md" "config.json" "generation_config.json" "model.safetensors" "special_tokens_map.json" "tokenizer.json"
    "tokenizer_config.json" "training_plan.toml"
);

/// Puts the model that ships with bheval in where none was named.
///
/// # Errors
/// A cache that can't be written.
pub(crate) fn fill(args: &mut ModelArgs) -> anyhow::Result<()> {
    if args.model.as_os_str() == SHIPPED {
        args.model = folder().context(
            "the model that ships with bheval can't be unpacked; name another one with --model DIR",
        )?;
        tell(&format!(
            "no --model was given: this is {NAME}, which ships with bheval ({})",
            args.model.display()
        ));
    }
    Ok(())
}

/// Its folder in the cache, written if it is not there, or not whole. The name holds the digest of its files.
fn folder() -> anyhow::Result<PathBuf> {
    let all: Vec<u8> = FILES
        .iter()
        .flat_map(|(name, bytes)| format!("{name} {}\n", sha256_hex(bytes)).into_bytes())
        .collect();
    let models = locate::cache()?.join("models");
    let folder = models.join(format!("{NAME}-{}", &sha256_hex(&all)[..12]));
    if !is_whole(&folder) {
        std::fs::create_dir_all(&models).with_context(|| models.display().to_string())?;
        write(&models, &folder)?;
    }
    Ok(folder)
}

/// Whether each file is there and the same, byte for byte.
fn is_whole(folder: &Path) -> bool {
    FILES.iter().all(|(name, bytes)| std::fs::read(folder.join(name)).is_ok_and(|found| found == *bytes))
}

/// Writes the files into a folder of their own first: another process may be doing the same.
fn write(models: &Path, folder: &Path) -> anyhow::Result<()> {
    let beside = tempfile::tempdir_in(models).with_context(|| models.display().to_string())?;
    for (name, bytes) in FILES {
        write_atomic(&beside.path().join(name), bytes)?;
    }
    if folder.exists() && !is_whole(folder) {
        std::fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    match publish(beside.path(), folder) {
        Err(_) if is_whole(folder) => Ok(()),
        done => {
            // The folder has its new name now: nothing is left to be removed.
            let _ = beside.keep();
            Ok(done?)
        }
    }
}
