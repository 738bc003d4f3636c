//! What a model is, in one number: a digest over the files that decide its scores.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use bheval_data::digest::hex;
use bheval_host::{Library, Origin};
use bheval_onnx_file::model_file;
use sha2::{Digest, Sha256};

use crate::Error;

/// Folders that may lie in each other below a model's.
const DEPTH: usize = 32;
/// Files below a model's folder.
const FILES: usize = 100_000;

/// SHA-256, in hex, over what decides a model's scores in a backend: [`model_sha256`] for a linked one. What a plugin
/// reads is its own affair, so that for one every file below the model's folder counts, with its name; but for the folders
/// of bheval's own runs. A model that is a single file counts with the `config.json` beside it.
///
/// # Errors
/// Files that can't be read or told, and below a plugin's folder whatever is neither file nor folder.
pub fn digest(library: &Library, path: &Path) -> Result<String, Error> {
    match library.origin() {
        Origin::File { .. } if path.is_dir() => digest_of_all(path),
        Origin::File { .. } | Origin::Linked => model_sha256(path),
    }
}

fn digest_of_all(folder: &Path) -> Result<String, Error> {
    let mut names = Vec::new();
    below(folder, Path::new(""), &mut Vec::new(), &mut names)?;
    names.sort();
    let mut hash = Sha256::new();
    for name in names {
        add(&mut hash, name.as_os_str().as_encoded_bytes(), &folder.join(&name))?;
    }
    Ok(hex(&hash.finalize()))
}

/// Adds the names, from `root`, of all files below its folder `within`, through links. `above` are the folders that it lies
/// in, without links.
fn below(
    root: &Path,
    within: &Path,
    above: &mut Vec<PathBuf>,
    names: &mut Vec<PathBuf>,
) -> Result<(), Error> {
    let folder = root.join(within);
    let place = folder.canonicalize().map_err(|e| uncounted(&folder, &e.to_string()))?;
    if above.len() == DEPTH || above.contains(&place) {
        return Err(uncounted(&folder, "folders lie in each other without end, or too deep"));
    }
    above.push(place);
    for entry in std::fs::read_dir(&folder).map_err(|e| uncounted(&folder, &e.to_string()))? {
        let entry = entry.map_err(|e| uncounted(&folder, &e.to_string()))?;
        let (path, name) = (entry.path(), within.join(entry.file_name()));
        let kind = std::fs::metadata(&path).map_err(|e| uncounted(&path, &e.to_string()))?;
        if kind.is_dir() && !is_run(&path) {
            below(root, &name, above, names)?;
        } else if kind.is_file() {
            names.push(name);
        } else if !kind.is_dir() {
            return Err(uncounted(&path, "it is neither a file nor a folder"));
        }
        if names.len() > FILES {
            return Err(uncounted(root, &format!("more than {FILES} files lie below it")));
        }
    }
    above.pop();
    Ok(())
}

/// Whether a folder holds a run of bheval, which changes while it goes on.
fn is_run(folder: &Path) -> bool {
    ["plan.json", "records.jsonl"].iter().all(|part| folder.join(part).is_file())
}

fn uncounted(path: &Path, reason: &str) -> Error {
    Error::Uncounted { path: path.to_path_buf(), reason: reason.to_owned() }
}

/// SHA-256, in hex, over names and contents of a model's files: `config.json`, weights and their index in a folder, or a
/// single file and the `config.json` beside it. To an ONNX file belong the files that it keeps weights in. A folder that
/// holds no safetensors stands for its ONNX file.
///
/// # Errors
/// A folder without such files, one that can't be read, or an ONNX file whose own files can't be told.
pub fn model_sha256(path: &Path) -> Result<String, Error> {
    let mut hash = Sha256::new();
    for file in files(path)? {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        add(&mut hash, name.as_bytes(), &file)?;
    }
    Ok(hex(&hash.finalize()))
}

fn add(hash: &mut Sha256, name: &[u8], file: &Path) -> Result<(), Error> {
    let mut open = File::open(file).map_err(|e| unreadable(file, &e))?;
    let len = open.metadata().map_err(|e| unreadable(file, &e))?.len();
    // Lengths are hashed with the names, so that no two sets of files run into each other.
    hash.update(name);
    hash.update(format!("\0{len}\0"));
    feed(hash, &mut open).map_err(|e| unreadable(file, &e))
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
        return with_company(path);
    }
    let entries = std::fs::read_dir(path).map_err(|e| unreadable(path, &e))?;
    let mut files: Vec<PathBuf> =
        entries.filter_map(Result::ok).map(|e| e.path()).filter(|p| decides(p)).collect();
    files.sort();
    let weights = |f: &PathBuf| f.extension().is_some_and(|e| e == "safetensors");
    if !files.iter().any(weights)
        && let Ok(onnx) = model_file(path)
    {
        return with_company(&onnx);
    }
    if files.is_empty() {
        return Err(Error::Model {
            path: path.to_path_buf(),
            reason: "no config.json and no weights".into(),
        });
    }
    Ok(files)
}

/// A file with what decides its scores beside it.
fn with_company(file: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut files = vec![file.to_path_buf()];
    if file.extension().is_some_and(|e| e == "onnx") {
        let fault = |f: bheval_onnx_file::Fault| Error::Model { path: f.path, reason: f.reason };
        files.extend(bheval_onnx_file::Contents::read(file).map_err(fault)?.external);
    }
    let config = file.with_file_name("config.json");
    files.extend(config.is_file().then_some(config));
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

    /// A folder as a plugin may use one.
    fn plugin_folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(folder.path().join("a/b")).expect("made");
        std::fs::write(folder.path().join("counts.txt"), "1").expect("written");
        std::fs::write(folder.path().join("a/b/more.bin"), "2").expect("written");
        folder
    }

    #[test]
    fn every_file_that_a_plugin_may_read_is_counted_with_its_name() {
        let folder = plugin_folder();
        let at = |name: &str| folder.path().join(name);
        let mut seen = vec![digest_of_all(folder.path()).expect("a digest")];
        let mut changed = |what: &str| {
            let digest = digest_of_all(folder.path()).expect("a digest");
            assert!(!seen.contains(&digest), "{what}");
            seen.push(digest);
        };
        std::fs::write(at("counts.txt"), "3").expect("written");
        changed("a file's content");
        std::fs::write(at("a/b/more.bin"), "3").expect("written");
        changed("a file's content further down");
        std::fs::rename(at("a/b/more.bin"), at("a/more.bin")).expect("moved");
        changed("a file's place");
        std::fs::write(at("empty"), "").expect("written");
        changed("an empty file");
        std::fs::write(at("config.json"), "{}").expect("written");
        changed("a config.json");
        // A run of ours in the folder is no part of the model, or the run would change its own key.
        std::fs::create_dir_all(at("runs/mine/items")).expect("made");
        std::fs::write(at("runs/mine/plan.json"), "{}").expect("written");
        std::fs::write(at("runs/mine/records.jsonl"), "").expect("written");
        assert_eq!(Some(&digest_of_all(folder.path()).expect("a digest")), seen.last());
        std::fs::remove_file(at("runs/mine/plan.json")).expect("removed");
        assert_ne!(Some(&digest_of_all(folder.path()).expect("a digest")), seen.last());
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_what_can_t_be_counted_is_refused() {
        use std::os::unix::{fs::symlink, net::UnixListener};
        let (plain, linked, elsewhere) = (plugin_folder(), plugin_folder(), plugin_folder());
        let at = |name: &str| linked.path().join(name);
        std::fs::remove_file(at("counts.txt")).expect("removed");
        std::fs::remove_dir_all(at("a")).expect("removed");
        symlink(elsewhere.path().join("counts.txt"), at("counts.txt")).expect("linked");
        symlink(elsewhere.path().join("a"), at("a")).expect("linked");
        let digest = || digest_of_all(linked.path());
        let whole = digest_of_all(plain.path()).expect("a digest");
        assert_eq!(digest().expect("a digest"), whole);
        std::fs::write(elsewhere.path().join("a/b/more.bin"), "3").expect("written");
        assert_ne!(digest().expect("a digest"), whole);
        let refused = |name: &str, part: &str| {
            let error = digest().expect_err(name).to_string();
            assert!(error.contains(name) && error.contains(part), "{error}");
            std::fs::remove_file(at(name)).expect("removed");
            digest().expect("a digest again");
        };
        symlink("nowhere", at("dangling")).expect("linked");
        refused("dangling", "No such file");
        symlink(".", at("itself")).expect("linked");
        refused("itself", "without end");
        let _socket = UnixListener::bind(at("socket")).expect("bound");
        refused("socket", "neither a file nor a folder");
    }
}
