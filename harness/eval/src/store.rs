//! A run's folder on disk: the plan, then one checksummed line for each scored request, appended as it comes. Killed at
//! any moment, what was written is found again; a torn last line is dropped.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bheval_data::atomic::write_atomic;
use bheval_data::digest::hex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ask::Ask;
use crate::{Difference, Error, Identity, Plan};

/// How long records may stay in the system's cache. A killed process loses nothing of it, a power cut this much.
const SYNC_EVERY: Duration = Duration::from_secs(2);

/// What is known of a scored request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Record {
    /// Sum of the counted tokens' log-probabilities, in nats.
    pub log_prob: f64,
    /// Number of counted tokens.
    pub tokens: u32,
}

/// One line of `records.jsonl`.
#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    log_prob: f64,
    tokens: u32,
    crc: String,
}

/// An open run.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    file: File,
    known: HashMap<String, Record>,
    dropped: usize,
    locked: bool,
    plan: Plan,
    synced: Instant,
    _lock: File,
}

/// The files of a run, the plan last: while it is there, the others are known to belong to it.
const PARTS: [&str; 5] = ["results.json", "items", "records.jsonl", "sessions.jsonl", "plan.json"];

impl Store {
    /// Opens a run's folder, making it where it is missing, and reads what it holds. With `fresh`, a run that is there is
    /// put aside under another name first.
    ///
    /// # Errors
    /// A folder that can't be written, that another process works in, or that holds another run.
    pub fn open(folder: &Path, plan: &Plan, fresh: bool) -> Result<Self, Error> {
        make_folder(folder)?;
        let (lock, locked) = lock(folder)?;
        if fresh {
            put_aside(folder)?;
        }
        let plan_path = folder.join("plan.json");
        let plan = match read_plan(&plan_path)? {
            Some(stored) => same(folder, stored, &plan.identity)?,
            None => {
                write_atomic(&plan_path, pretty(plan).as_bytes())?;
                plan.clone()
            }
        };
        let path = folder.join("records.jsonl");
        let (known, dropped) = recover(&path)?;
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(failed(&path, "open"))?;
        let folder = folder.to_path_buf();
        Ok(Self { folder, file, known, dropped, locked, plan, synced: Instant::now(), _lock: lock })
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Lines that were torn or damaged and are scored again.
    #[must_use]
    pub fn dropped(&self) -> usize {
        self.dropped
    }

    /// Whether other processes are kept out; some file systems have no locks.
    #[must_use]
    pub fn locked(&self) -> bool {
        self.locked
    }

    /// The plan as it is stored.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What is known of a request.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Record> {
        self.known.get(key).copied()
    }

    /// Appends records: handed to the system at once, synced to the disk every few seconds.
    ///
    /// # Errors
    /// A disk that is full or gone; what was appended before is kept.
    pub fn append(&mut self, records: &[(String, Record)]) -> Result<(), Error> {
        let mut text = String::new();
        for (key, record) in records {
            text += &line(key, *record);
        }
        let path = self.folder.join("records.jsonl");
        self.file.write_all(text.as_bytes()).map_err(failed(&path, "append to"))?;
        self.known.extend(records.iter().cloned());
        if self.synced.elapsed() > SYNC_EVERY {
            self.sync()?;
        }
        Ok(())
    }

    /// Waits until everything is on the disk.
    ///
    /// # Errors
    /// As [`Store::append`].
    pub fn sync(&mut self) -> Result<(), Error> {
        self.synced = Instant::now();
        self.file.sync_data().map_err(failed(&self.folder.join("records.jsonl"), "sync"))
    }

    /// Writes a file of the run, whole or not at all.
    ///
    /// # Errors
    /// A disk that is full or gone.
    pub fn publish(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let path = self.folder.join(name);
        if let Some(parent) = path.parent() {
            make_folder(parent)?;
        }
        Ok(write_atomic(&path, bytes)?)
    }

    /// Appends a line to a log of the run that is no part of its result.
    ///
    /// # Errors
    /// A disk that is full or gone.
    pub fn log(&self, name: &str, line: &str) -> Result<(), Error> {
        let path = self.folder.join(name);
        let mut file =
            OpenOptions::new().create(true).append(true).open(&path).map_err(failed(&path, "open"))?;
        file.write_all(format!("{line}\n").as_bytes()).map_err(failed(&path, "append to"))
    }
}

/// The name of a request in a store: 128 bits of SHA-256 over the run's key and the request. A record that strays into the
/// folder of another run is never found there.
#[must_use]
pub(crate) fn request_key(run: &str, request: &impl Ask) -> String {
    let mut hash = Sha256::new_with_prefix(run);
    request.digest(&mut hash);
    hex(&hash.finalize()[..16])
}

fn line(key: &str, record: Record) -> String {
    let crc = checksum(key, record);
    let line = Line { key: key.to_owned(), log_prob: record.log_prob, tokens: record.tokens, crc };
    serde_json::to_string(&line)
        .map(|mut text| {
            text.push('\n');
            text
        })
        .expect("a flat struct of text and finite numbers is always JSON")
}

fn checksum(key: &str, record: Record) -> String {
    let mut hash = crc32fast::Hasher::new();
    hash.update(key.as_bytes());
    hash.update(&record.log_prob.to_bits().to_le_bytes());
    hash.update(&record.tokens.to_le_bytes());
    format!("{:08x}", hash.finalize())
}

fn parse(text: &[u8]) -> Option<(String, Record)> {
    let line: Line = serde_json::from_slice(text).ok()?;
    let record = Record { log_prob: line.log_prob, tokens: line.tokens };
    (checksum(&line.key, record) == line.crc).then_some((line.key, record))
}

/// Reads the records. Lines that do not hold are dropped, and the file is rewritten without them.
fn recover(path: &Path) -> Result<(HashMap<String, Record>, usize), Error> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok((HashMap::new(), 0)),
        Err(e) => return Err(failed(path, "open")(e)),
    };
    let mut known = HashMap::new();
    let mut kept = Vec::new();
    let mut dropped = 0;
    for text in BufReader::new(file).split(b'\n') {
        let text = text.map_err(failed(path, "read"))?;
        match parse(&text) {
            Some((key, record)) => {
                known.insert(key, record);
                kept.extend_from_slice(&text);
                kept.push(b'\n');
            }
            None => dropped += 1,
        }
    }
    // A last line may also be whole but for its end: then nothing was dropped, yet the next line must not join it.
    let length = fs::metadata(path).map_err(failed(path, "read"))?.len();
    if dropped > 0 || length != kept.len() as u64 {
        write_atomic(path, &kept)?;
    }
    Ok((known, dropped))
}

fn make_folder(folder: &Path) -> Result<(), Error> {
    fs::create_dir_all(folder).map_err(failed(folder, "make the folder"))
}

/// The lock, and whether it holds: on a file system without locks two processes in one run are the user's to avoid.
fn lock(folder: &Path) -> Result<(File, bool), Error> {
    let path = folder.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .open(&path)
        .map_err(failed(&path, "open"))?;
    match file.try_lock() {
        Ok(()) => Ok((file, true)),
        Err(TryLockError::WouldBlock) => Err(Error::Busy { folder: folder.to_path_buf() }),
        Err(TryLockError::Error(_)) => Ok((file, false)),
    }
}

/// Moves what a run wrote into a numbered sibling folder.
fn put_aside(folder: &Path) -> Result<(), Error> {
    if !PARTS.iter().any(|part| folder.join(part).exists()) {
        return Ok(());
    }
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let aside = (1..).map(|i| folder.with_file_name(format!("{name}.old{i}"))).find(|p| !p.exists());
    let aside = aside.unwrap_or_else(|| folder.with_extension("old"));
    make_folder(&aside)?;
    for part in PARTS {
        let from = folder.join(part);
        if from.exists() {
            fs::rename(&from, aside.join(part)).map_err(failed(&from, "move"))?;
        }
    }
    Ok(())
}

fn read_plan(path: &Path) -> Result<Option<Plan>, Error> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(path, "read")(e)),
    };
    let damaged = |e: serde_json::Error| Error::Damaged { path: path.to_path_buf(), reason: e.to_string() };
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

/// The stored plan, if it is the one that is asked for.
fn same(folder: &Path, stored: Plan, asked: &Identity) -> Result<Plan, Error> {
    let differences: Vec<Difference> = stored.identity.differences(asked);
    if differences.is_empty() {
        return Ok(stored);
    }
    Err(Error::OtherRun { folder: folder.to_path_buf(), differences })
}

fn pretty(plan: &Plan) -> String {
    let mut text = serde_json::to_string_pretty(plan).expect("a plan is plain data and always JSON");
    text.push('\n');
    text
}

/// Turns an I/O error into one that names the file.
pub(crate) fn failed(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::File { path, action, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(n: u32) -> (String, Record) {
        (format!("{n:032x}"), Record { log_prob: -f64::from(n) / 3.0, tokens: n })
    }

    fn written(count: u32) -> Vec<u8> {
        (0..count).map(record).map(|(k, r)| line(&k, r)).collect::<String>().into_bytes()
    }

    #[test]
    fn a_record_reads_back_bit_for_bit() {
        let (key, record) = record(7);
        assert_eq!(parse(line(&key, record).trim_end().as_bytes()), Some((key, record)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_file_cut_anywhere_keeps_every_whole_line(cut in 0_usize..1000) {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("records.jsonl");
            let bytes = written(8);
            let cut = cut.min(bytes.len());
            fs::write(&path, &bytes[..cut]).expect("written");
            let (known, _) = recover(&path).expect("recovered");
            let whole = bytes[..cut].iter().filter(|&&b| b == b'\n').count();
            // The last line may be whole but for its line end.
            prop_assert!(known.len() == whole || known.len() == whole + 1);
            let again = fs::read(&path).expect("read");
            prop_assert!(bytes.starts_with(&again) && (again.is_empty() || again.ends_with(b"\n")));
        }

        #[test]
        fn a_flipped_bit_never_yields_another_record(at in 0_usize..600, bit in 0_u8..8) {
            let mut bytes = written(6);
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("records.jsonl");
            fs::write(&path, &bytes).expect("written");
            let (known, _) = recover(&path).expect("recovered");
            let truth: HashMap<_, _> = (0..6).map(record).collect();
            for (key, found) in known {
                prop_assert_eq!(truth.get(&key), Some(&found));
            }
        }
    }
}
