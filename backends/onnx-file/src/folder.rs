//! From what a user names as a model to its ONNX file.

use std::path::{Path, PathBuf};

use crate::Fault;

/// The ONNX file that `path` stands for: itself, or in a folder `model.onnx`, or the only `*.onnx` there.
///
/// # Errors
/// A folder that can't be read, holds no ONNX file, or holds several of which none is `model.onnx`.
pub fn model_file(path: &Path) -> Result<PathBuf, Fault> {
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    let fault = |reason: String| Fault { path: path.to_path_buf(), reason };
    let entries = std::fs::read_dir(path).map_err(|e| fault(format!("can't be read: {e}")))?;
    let is_onnx = |p: &PathBuf| p.extension().is_some_and(|e| e == "onnx") && p.is_file();
    let mut files: Vec<PathBuf> = entries.filter_map(Result::ok).map(|e| e.path()).filter(is_onnx).collect();
    files.sort();
    let usual = path.join("model.onnx");
    match files.as_slice() {
        _ if files.contains(&usual) => Ok(usual),
        [only] => Ok(only.clone()),
        [] => Err(fault("no .onnx file is there".to_owned())),
        several => {
            let names: Vec<_> =
                several.iter().filter_map(|f| f.file_name()).map(|n| n.to_string_lossy()).collect();
            Err(fault(format!("several .onnx files are there ({}); name one of them", names.join(", "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_name_wins_then_the_only_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str| std::fs::write(folder.path().join(name), "").expect("written");
        assert!(model_file(folder.path()).is_err_and(|f| f.reason.contains("no .onnx file")));
        write("decoder.onnx");
        write("decoder.onnx.data");
        assert_eq!(model_file(folder.path()), Ok(folder.path().join("decoder.onnx")));
        write("decoder_with_past.onnx");
        let several = model_file(folder.path()).expect_err("two are there").reason;
        assert!(several.contains("decoder.onnx, decoder_with_past.onnx"), "{several}");
        write("model.onnx");
        assert_eq!(model_file(folder.path()), Ok(folder.path().join("model.onnx")));
        assert_eq!(model_file(&folder.path().join("other")), Ok(folder.path().join("other")));
    }
}
