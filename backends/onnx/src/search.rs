//! Where the onnxruntime library may lie: what a variable names, beside the binary, or in a Python wheel.
//!
//! No interpreter is run to find out: its folders are walked as they lie on the disk.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// The variable that names the library.
pub const VARIABLE: &str = "ORT_DYLIB_PATH";

/// What a search goes by, so that tests can say what it is.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Value of [`VARIABLE`], if it is set and not empty.
    pub named: Option<PathBuf>,
    /// Folder of the running binary.
    pub binary: Option<PathBuf>,
    /// Environments that are active: `VIRTUAL_ENV`, `CONDA_PREFIX`.
    pub environments: Vec<PathBuf>,
    /// Folders of `PATH`.
    pub path: Vec<PathBuf>,
    /// The user's folder.
    pub home: Option<PathBuf>,
}

impl Surroundings {
    /// Those of this process.
    #[must_use]
    pub fn of_process() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let path: OsString = std::env::var_os("PATH").unwrap_or_default();
        Self {
            named: set(VARIABLE),
            binary: std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_path_buf)),
            environments: ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(set).collect(),
            path: std::env::split_paths(&path).filter(|p| !p.as_os_str().is_empty()).collect(),
            home: set("HOME").or_else(|| set("USERPROFILE")),
        }
    }

    /// Libraries that are there, the most wanted first. What [`VARIABLE`] names is taken alone and as it is: the file,
    /// or the one in that folder.
    #[must_use]
    pub fn candidates(&self) -> Vec<PathBuf> {
        if let Some(named) = &self.named {
            let within = libraries(named);
            return if within.is_empty() { vec![named.clone()] } else { within };
        }
        let beside = self.binary.iter().flat_map(|folder| libraries(folder));
        let wheels = self.packages().into_iter().flat_map(|p| libraries(&p.join("onnxruntime").join("capi")));
        let mut found: Vec<PathBuf> = beside.chain(wheels).collect();
        let mut seen = std::collections::HashSet::new();
        found.retain(|file| seen.insert(file.clone()));
        found
    }

    /// What was searched, for a person.
    #[must_use]
    pub fn searched(&self) -> String {
        if let Some(named) = &self.named {
            return format!("{VARIABLE}={}", named.display());
        }
        let beside = self.binary.iter().map(|b| format!("{} (beside the binary)", b.display()));
        let packages = self.packages().into_iter().map(|p| p.display().to_string());
        let places: Vec<String> = beside.chain(packages).collect();
        format!("{VARIABLE} is not set; searched: {}", places.join(", "))
    }

    /// Folders of Python packages that are there.
    fn packages(&self) -> Vec<PathBuf> {
        let mut prefixes = self.environments.clone();
        for folder in &self.path {
            prefixes.extend(prefixes_of(folder));
        }
        prefixes.extend(self.home.iter().map(|home| home.join(".local")));
        prefixes.extend(["/usr/local", "/usr"].map(PathBuf::from));
        let mut packages: Vec<PathBuf> = Vec::new();
        for folder in prefixes.iter().flat_map(|p| packages_below(p)) {
            if !packages.contains(&folder) {
                packages.push(folder);
            }
        }
        packages
    }
}

/// The prefixes of the interpreter in `folder`, if there is one: as it lies there, and where its links lead.
fn prefixes_of(folder: &Path) -> Vec<PathBuf> {
    let names = ["python3", "python", "python3.exe", "python.exe"];
    let Some(python) = names.iter().map(|n| folder.join(n)).find(|p| p.is_file()) else { return Vec::new() };
    let prefix = |file: &Path| {
        let folder = file.parent()?;
        // On Windows the interpreter lies in the prefix itself.
        let is_bin = folder.file_name().is_some_and(|n| n == "bin" || n == "Scripts");
        Some(if is_bin { folder.parent()?.to_path_buf() } else { folder.to_path_buf() })
    };
    // pyenv puts scripts on the path, and its interpreters into folders beside them.
    let is_shim = folder.file_name() == Some(OsStr::new("shims"));
    let versions = folder.parent().filter(|_| is_shim).map(|root| below(&root.join("versions"), |_| true));
    let found = [prefix(&python), python.canonicalize().ok().and_then(|p| prefix(&p))];
    found.into_iter().flatten().chain(versions.into_iter().flatten()).collect()
}

/// The package folders of an installation.
fn packages_below(prefix: &Path) -> Vec<PathBuf> {
    let versions = below(&prefix.join("lib"), |name| name.starts_with("python3"));
    let mut found: Vec<PathBuf> =
        versions.iter().flat_map(|v| [v.join("site-packages"), v.join("dist-packages")]).collect();
    found.push(prefix.join("Lib").join("site-packages"));
    found.retain(|folder| folder.is_dir());
    found
}

/// The onnxruntime libraries in a folder; several versions of one, the last by name first.
fn libraries(folder: &Path) -> Vec<PathBuf> {
    let is_library = |name: &str| {
        let unix = name.starts_with("libonnxruntime.") && (name.contains(".so") || name.ends_with(".dylib"));
        unix || name.eq_ignore_ascii_case("onnxruntime.dll")
    };
    below(folder, is_library)
}

/// What lies in a folder under fitting names, the last first.
fn below(folder: &Path, fits: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let names = entries.filter_map(Result::ok).map(|entry| entry.file_name());
    let mut found: Vec<PathBuf> =
        names.filter(|name| name.to_str().is_some_and(&fits)).map(|name| folder.join(name)).collect();
    found.sort();
    found.reverse();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(path: PathBuf) -> PathBuf {
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(&path, "").expect("written");
        path
    }

    #[test]
    fn what_is_named_is_taken_alone() {
        let root = tempfile::tempdir().expect("a folder");
        let beside = touch(root.path().join("bin/libonnxruntime.so.1.23.2"));
        let binary = beside.parent().map(Path::to_path_buf);
        let mut around = Surroundings { binary: binary.clone(), ..Surroundings::default() };
        assert_eq!(around.candidates().first(), Some(&beside));
        around.named = Some("/no/such/file.so".into());
        assert_eq!(around.candidates(), [PathBuf::from("/no/such/file.so")]);
        around.named = binary;
        assert_eq!(around.candidates(), [beside], "a folder stands for the library in it");
    }

    #[test]
    fn wheels_are_found_in_environments_interpreters_shims_and_the_users_folder() {
        let root = tempfile::tempdir().expect("a folder");
        let wheel = |prefix: &str| {
            let file = "lib/python3.11/site-packages/onnxruntime/capi/libonnxruntime.so.1.23.2";
            touch(root.path().join(prefix).join(file))
        };
        let (venv, base, pyenv, user) =
            (wheel("venv"), wheel("base"), wheel("pyenv/versions/3.12.1"), wheel("home/.local"));
        touch(root.path().join("base/bin/python3"));
        touch(root.path().join("pyenv/shims/python3"));
        let around = Surroundings {
            environments: vec![root.path().join("venv")],
            path: vec![
                root.path().join("nothing"),
                root.path().join("base/bin"),
                root.path().join("pyenv/shims"),
            ],
            home: Some(root.path().join("home")),
            ..Surroundings::default()
        };
        let found = around.candidates();
        assert_eq!(found[..4], [venv, base, pyenv, user]);
        assert!(around.searched().contains("venv/lib/python3.11/site-packages"), "{}", around.searched());
    }

    #[cfg(unix)]
    #[test]
    fn an_interpreter_that_is_a_link_leads_to_its_own_packages_first() {
        let root = tempfile::tempdir().expect("a folder");
        let file = "lib/python3.11/site-packages/onnxruntime/capi/libonnxruntime.so";
        let (venv, base) =
            (touch(root.path().join("venv").join(file)), touch(root.path().join("base").join(file)));
        let python = touch(root.path().join("base/bin/python3.11"));
        std::fs::create_dir_all(root.path().join("venv/bin")).expect("made");
        std::os::unix::fs::symlink(python, root.path().join("venv/bin/python3")).expect("linked");
        let around = Surroundings { path: vec![root.path().join("venv/bin")], ..Surroundings::default() };
        let base = base.canonicalize().expect("there");
        assert_eq!(around.candidates()[..2], [venv, base]);
    }
}
