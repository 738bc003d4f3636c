//! What a model is, in one number: a digest over the files that decide its scores.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use bheval_data::digest::hex;
use sha2::{Digest, Sha256};

use crate::Error;

/// SHA-256, in hex, over names and contents of a model's files: `config.json`, weights and their index in a folder, or a
/// single file and the `config.json` beside it.
///
/// # Errors
/// A folder without such files, or one that can't be read.
pub fn model_sha256(path: &Path) -> Result<String, Error> {
    let mut hash = Sha256::new();
    for file in files(path)? {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut open = File::open(&file).map_err(|e| unreadable(&file, &e))?;
        let len = open.metadata().map_err(|e| unreadable(&file, &e))?.len();
        // Lengths are hashed with the names, so that no two sets of files run into each other.
        hash.update(format!("{name}\0{len}\0"));
        feed(&mut hash, &mut open).map_err(|e| unreadable(&file, &e))?;
    }
    Ok(hex(&hash.finalize()))
}

fn feed(hash: &mut Sha256, file: &mut File) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            n => hash.update(&buffer[..n]),
        }
    }
}

fn files(path: &Path) -> Result<Vec<PathBuf>, Error> {
    if path.is_file() {
        let config = path.with_file_name("config.json");
        return Ok(std::iter::once(path.to_path_buf()).chain(config.is_file().then_some(config)).collect());
    }
    let entries = std::fs::read_dir(path).map_err(|e| unreadable(path, &e))?;
    let mut files: Vec<PathBuf> =
        entries.filter_map(Result::ok).map(|e| e.path()).filter(|p| decides(p)).collect();
    files.sort();
    if files.is_empty() {
        return Err(Error::Model {
            path: path.to_path_buf(),
            reason: "no config.json and no weights".into(),
        });
    }
    Ok(files)
}

fn decides(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let weights = [".safetensors", ".safetensors.index.json", ".ngram"];
    name == "config.json" || weights.iter().any(|end| name.ends_with(end))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::Model { path: path.to_path_buf(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_every_kind_are_counted() {
        for name in ["model.safetensors", "model.safetensors.index.json", "model.ngram"] {
            let folder = tempfile::tempdir().expect("a folder");
            std::fs::write(folder.path().join("config.json"), "{}").expect("written");
            let without = model_sha256(folder.path()).expect("a digest");
            std::fs::write(folder.path().join(name), "weights").expect("written");
            assert_ne!(model_sha256(folder.path()).expect("a digest"), without, "{name}");
        }
    }

    #[test]
    fn a_single_file_is_named_with_the_config_beside_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let weights = folder.path().join("x.safetensors");
        std::fs::write(&weights, "weights").expect("written");
        let bare = model_sha256(&weights).expect("a digest");
        std::fs::write(folder.path().join("config.json"), "{}").expect("written");
        let with_config = model_sha256(&weights).expect("a digest");
        std::fs::write(folder.path().join("config.json"), "{ }").expect("written");
        let other = model_sha256(&weights).expect("a digest");
        assert!(bare != with_config && with_config != other);
    }
}
