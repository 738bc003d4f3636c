//! onnxruntime, loaded once for the process.
#![allow(unsafe_code)] // Loading a library and asking for its version; each block states what it relies on.

use std::ffi::{CStr, c_char};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bheval_abi::{Failure, Status};
use ort::environment::Environment;
use ort::logging::LogLevel;

use crate::search::{Surroundings, VARIABLE};

/// The oldest version whose interface has what is used here: 1.17.
const OLDEST: u32 = ort::MINOR_VERSION;

/// The loaded library. Loaded once; it stays until the process ends.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// The library's file.
    pub path: PathBuf,
    /// Version as the library gives it: `1.23.2`.
    pub version: String,
    pub(crate) environment: Environment,
}

/// A failure to load is not kept: the next model may be opened after the library was put in its place.
static LOADED: Mutex<Option<Runtime>> = Mutex::new(None);

impl Runtime {
    /// The library of this process, found and loaded at the first call.
    ///
    /// # Errors
    /// [`Status::UNSUPPORTED`], with what was searched and how to get the library.
    pub fn get() -> Result<Self, Failure> {
        Self::get_by(|| find(&Surroundings::of_process()))
    }

    /// As [`Runtime::get`], but from this file, or the one in this folder, where none is loaded yet: as if
    /// [`VARIABLE`] named it.
    ///
    /// # Errors
    /// A file that is no library, no onnxruntime, or too old a one.
    pub fn load(named: &Path) -> Result<Self, Failure> {
        Self::get_by(|| find(&Surroundings { named: Some(named.to_path_buf()), ..Surroundings::default() }))
    }

    fn get_by(find: impl FnOnce() -> Result<(PathBuf, String), Failure>) -> Result<Self, Failure> {
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = &*loaded {
            return Ok(runtime.clone());
        }
        let (path, version) = find()?;
        let wrong = |e: String| refused(&format!("{} could not be started: {e}", path.display()));
        let builder = ort::init_from(&path).map_err(|e| wrong(e.to_string()))?;
        let environment = builder.with_telemetry(false).build().map_err(|e| wrong(e.to_string()))?;
        // It would write to stderr what its error already says.
        environment.set_log_level(LogLevel::Fatal);
        Ok(loaded.insert(Self { path, version, environment }).clone())
    }
}

/// The first library that fits, with its version.
fn find(around: &Surroundings) -> Result<(PathBuf, String), Failure> {
    let mut unfit = Vec::new();
    for file in around.candidates() {
        match version(&file) {
            // A relative path would be looked for beside the binary first.
            Ok(version) => return Ok((file.canonicalize().unwrap_or(file), version)),
            Err(reason) => unfit.push(reason),
        }
    }
    let found = if unfit.is_empty() { "none is there".to_owned() } else { unfit.join("; ") };
    Err(refused(&format!("{found} ({})", around.searched())))
}

fn refused(reason: &str) -> Failure {
    let text = format!(
        "ONNX models need the onnxruntime library, 1.{OLDEST} or newer: {reason}. `pip install onnxruntime` puts one where it \
         is found; or set {VARIABLE} to the path of libonnxruntime.so (libonnxruntime.dylib, onnxruntime.dll)"
    );
    Failure::new(Status::UNSUPPORTED, text)
}

/// The version of the library `file`, or why it can't be used.
fn version(file: &Path) -> Result<String, String> {
    let here = file.display();
    // A bare name would be looked for in the system's folders, and a relative one beside the binary.
    let absolute = file.canonicalize().map_err(|e| format!("{here} can't be opened ({e})"))?;
    if !absolute.is_file() {
        return Err(format!("{here} is no file and holds no onnxruntime library"));
    }
    // SAFETY: the library's initialisers run here; the user installed it, or named it in a variable.
    let library = unsafe { libloading::Library::new(&absolute) }
        .map_err(|e| format!("{here} can't be loaded as a library ({})", root_of(&e)))?;
    // Never unloaded: it may have started threads, and the one that fits is about to be used.
    let library = ManuallyDrop::new(library);
    type Base = unsafe extern "system" fn() -> *const ort::sys::OrtApiBase;
    // SAFETY: the symbol of this name is a function of this type in every version of onnxruntime.
    let base = unsafe { library.get::<Base>("OrtGetApiBase") }
        .map_err(|_| format!("{here} is not onnxruntime: it exports no `OrtGetApiBase`"))?;
    // SAFETY: it takes nothing and returns a static table, or null.
    let base = unsafe { base().as_ref() }.ok_or_else(|| format!("{here} gave no table of functions"))?;
    // SAFETY: returns a static, terminated text, or null.
    let text: *const c_char = unsafe { (base.GetVersionString)() };
    if text.is_null() {
        return Err(format!("{here} gave no version"));
    }
    // SAFETY: not null; static and terminated, as the table's documentation says.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
    if fits(&text) { Ok(text) } else { Err(format!("{here} is version {text}")) }
}

/// What lies at the bottom of an error: the words of the system's loader.
fn root_of(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), root_of)
}

/// Whether a version is one that can be used: 1.17 or newer.
fn fits(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().ok());
    parts.next().flatten() == Some(1) && parts.next().flatten().is_some_and(|minor| minor >= OLDEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert!(fits("1.17.0") && fits("1.23.2") && fits("1.32.0-dev"));
        assert!(!fits("1.16.3") && !fits("2.0.0") && !fits("") && !fits("1"));
    }

    #[test]
    fn a_search_that_finds_nothing_says_where_it_looked_and_what_to_do() {
        let around = Surroundings { named: Some("no/such/library.so".into()), ..Surroundings::default() };
        let text = find(&around).expect_err("there is none").text;
        for part in ["1.17", "no/such/library.so", "can't be opened", "pip install onnxruntime", VARIABLE] {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
    }

    #[test]
    fn what_is_no_library_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("libonnxruntime.so");
        std::fs::write(&file, "text").expect("written");
        assert!(version(&file).is_err_and(|e| e.contains("can't be loaded as a library")));
        let libc =
            ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/libc.so.6", "/lib/aarch64-linux-gnu/libc.so.6"];
        if let Some(libc) = libc.iter().map(Path::new).find(|p| p.exists()) {
            assert!(version(libc).is_err_and(|e| e.contains("is not onnxruntime")));
        }
    }
}
