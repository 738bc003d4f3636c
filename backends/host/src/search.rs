//! Where plugins are looked for: `BHEVAL_BACKENDS`, beside the binary, the user's data folder.

use std::env;
use std::path::{Path, PathBuf};

/// File name of a plugin called `name` on this system: `libbheval_name.so`.
#[must_use]
pub fn file_name(name: &str) -> String {
    format!("{}bheval_{name}{}", env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX)
}

/// The folders that are searched, in order, whether they exist or not.
#[must_use]
pub fn plugin_folders() -> Vec<PathBuf> {
    let given = env::var_os("BHEVAL_BACKENDS");
    let mut folders: Vec<PathBuf> = given.iter().flat_map(env::split_paths).collect();
    if let Some(beside) = env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_path_buf)) {
        folders.push(beside);
    }
    folders.extend(user_folder());
    folders
}

fn user_folder() -> Option<PathBuf> {
    let home = || env::home_dir().filter(|h| !h.as_os_str().is_empty());
    let data = if cfg!(target_os = "macos") {
        home().map(|h| h.join("Library/Application Support"))
    } else if cfg!(windows) {
        env::var_os("LOCALAPPDATA").map(PathBuf::from)
    } else {
        let xdg = env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
        xdg.or_else(|| home().map(|h| h.join(".local/share")))
    };
    data.map(|d| d.join("bheval").join("backends"))
}

/// The plugins that lie in a folder: `(name, file)`, sorted. A folder that can't be read has none.
#[must_use]
pub fn plugins_in(folder: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<_> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| Some((plugin_name(entry.file_name().to_str()?)?, entry.path())))
        .collect();
    found.sort();
    found
}

fn plugin_name(file: &str) -> Option<String> {
    let stem = file.strip_prefix(env::consts::DLL_PREFIX)?.strip_suffix(env::consts::DLL_SUFFIX)?;
    stem.strip_prefix("bheval_").map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_reads_back_as_its_plugin() {
        assert_eq!(plugin_name(&file_name("mine")).as_deref(), Some("mine"));
        assert_eq!(plugin_name("libc.so"), None);
    }
}
