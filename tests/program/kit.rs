//! Runs the program in a folder of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A fresh folder and the program in it.
pub(crate) struct Bheval {
    folder: TempDir,
}

/// What a command left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Bheval {
    pub(crate) fn new() -> Self {
        Self { folder: TempDir::new().expect("a folder") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(&path, bytes).expect("written");
        path
    }

    pub(crate) fn read(&self, name: &str) -> String {
        let path = self.path(name);
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// The program with its folder as working directory, a cache of its own, and no plugins but those asked for.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bheval"));
        command.current_dir(self.folder.path());
        command.env("BHEVAL_CACHE", self.path("cache")).env("XDG_DATA_HOME", self.path("xdg"));
        command.env("BHEVAL_DATA", bheval_tests::data()).env_remove("BHEVAL_BACKENDS");
        command.stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        ran(&self.command().args(args).output().expect("the program starts"))
    }

    /// Runs `eval` with the golden HGRN2 in the run's folder `run`.
    pub(crate) fn eval(&self, run: &str, args: &[&str]) -> Ran {
        let model = model("hgrn2");
        let mut all = vec!["--model", model.to_str().expect("UTF-8"), "--run-dir", run];
        all.extend(args);
        self.run(&all)
    }

    /// A copy of a golden model that a test may damage.
    pub(crate) fn copy_of(&self, name: &str) -> PathBuf {
        let copy = self.path(&format!("copy-of-{name}"));
        std::fs::create_dir_all(&copy).expect("made");
        for file in [
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
        ] {
            let bytes = std::fs::read(model(name).join(file)).expect("a golden file");
            std::fs::write(copy.join(file), bytes).expect("written");
        }
        copy
    }
}

pub(crate) fn ran(output: &Output) -> Ran {
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout.clone()).expect("UTF-8"),
        stderr: String::from_utf8(output.stderr.clone()).expect("UTF-8"),
    }
}

impl Ran {
    #[track_caller]
    pub(crate) fn done(self) -> Self {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stdout, self.stderr);
        self
    }

    /// The program could not start, and said all of this.
    #[track_caller]
    pub(crate) fn refused(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{}\n{}", self.stdout, self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "`{part}` is not in: {}", self.stderr);
        }
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }
}

/// A golden model.
pub(crate) fn model(name: &str) -> PathBuf {
    bheval_tests::golden().join(name)
}

pub(crate) fn json(path: &Path) -> serde_json::Value {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Rows of a CSV file by the value in their first column.
pub(crate) fn table(text: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers().expect("a header").clone();
    let row = |record: Result<csv::StringRecord, csv::Error>| {
        let record = record.expect("a row");
        let cells = header.iter().zip(&record).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        (record[0].to_owned(), cells)
    };
    reader.records().map(row).collect()
}
