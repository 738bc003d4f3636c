//! Asking the teachers about the whole text, once.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bheval_data::atomic::publish;
use bheval_host::Model;
use rayon::prelude::*;

use super::form::{RecordForm, encode_top, encode_values};
use super::{Cache, Header, Key, Text, checksum, head};
use crate::distill::live::Live;
use crate::distill::mix::top;
use crate::distill::{CacheKind, DistillPlan, Error, Lectern, Stored, TeacherFiles, disk, vocabulary};

/// What happens while a cache is made.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// Before anything is written.
    Size {
        /// Its file.
        path: &'a Path,
        /// Its size when it is whole.
        bytes: u64,
        /// Bytes that are free on its disk, where the system says.
        free: Option<u64>,
        /// Windows that an earlier attempt left.
        done: u64,
        /// Windows in all.
        windows: u64,
    },
    /// Windows are in it.
    Done {
        /// So many.
        done: u64,
        /// Of so many.
        windows: u64,
    },
}

/// What a cache is made with.
pub struct Maker<'a> {
    /// The plan.
    pub plan: &'a DistillPlan,
    /// The teachers' files.
    pub files: &'a [TeacherFiles],
    /// The text.
    pub text: Text<'a>,
    /// The student.
    pub lectern: Lectern<'a>,
    /// Who is told.
    pub tell: &'a mut dyn FnMut(Event<'_>),
    /// Whether to keep what is done and end.
    pub stop: &'a dyn Fn() -> bool,
}

/// Makes the cache of a key in a folder, going on where an earlier attempt ended.
///
/// # Errors
/// Teachers that do not fit the student or fail, no room on the disk, another process that makes the same cache, and
/// [`Error::Interrupted`].
pub fn make(folder: &Path, key: &Key, models: Vec<Model>, mut maker: Maker<'_>) -> Result<Cache, Error> {
    vocabulary::check(maker.files, maker.lectern.tokenizer)?;
    let mut live = Live::new(maker.plan, maker.files, models, maker.lectern)?;
    let header = header(key, maker.plan, &live)?;
    fs::create_dir_all(folder).map_err(Error::io("make the folder", folder))?;
    let path = folder.join(key.file_name());
    let mut part = Part::open(&path, &header, &live)?;
    part.announce(&path, &mut maker)?;
    part.fill(&mut live, &mut maker)?;
    part.publish(&path)?;
    Cache::find(folder, key)?.ok_or_else(|| Error::cache(&path, "it vanished"))
}

/// Bytes that the cache of a key has when it is whole. Nothing is written.
///
/// # Errors
/// Teachers that do not fit the student.
pub fn cache_bytes(
    key: &Key,
    models: Vec<Model>,
    (plan, files): (&DistillPlan, &[TeacherFiles]),
    lectern: Lectern<'_>,
) -> Result<u64, Error> {
    vocabulary::check(files, lectern.tokenizer)?;
    let live = Live::new(plan, files, models, lectern)?;
    let header = header(key, plan, &live)?;
    Ok(lead(&header, &live).len() as u64 + header.windows * header.record().unwrap_or(4))
}

/// What stands before the records: the header, and a head where states are kept.
fn lead(header: &Header, live: &Live) -> Vec<u8> {
    let mut lead = header.bytes();
    if let (RecordForm::Hidden { .. }, Some(states)) = (header.form, live.head()) {
        lead.extend(head::write(states));
    }
    lead
}

fn header(key: &Key, plan: &DistillPlan, live: &Live) -> Result<Header, Error> {
    let (windows, steps, vocab) = key.sizes();
    let (columns, dtype) = (live.mix.shared, plan.cache_dtype);
    let form = match (plan.cache, live.head()) {
        (CacheKind::Hidden, Some(head)) => {
            RecordForm::Hidden { width: head.width, dtype, bias: head.bias.is_some() }
        }
        (CacheKind::TopK, _) => RecordForm::Top { k: plan.k.unwrap_or(0), columns },
        _ => RecordForm::Full { columns, dtype },
    };
    let header = Header { key: key.value().clone(), windows, steps, vocab, form };
    if !form.is_plausible(vocab) {
        let reason = format!(
            "k is {}, and teacher and student share {columns} tokens; use cache = \"full\"",
            plan.k.unwrap_or(0)
        );
        return Err(Error::Plan { reason });
    }
    match header.record().and_then(|record| record.checked_mul(windows)) {
        Some(_) => Ok(header),
        None => Err(Error::Plan { reason: "the cache would be larger than any disk".to_owned() }),
    }
}

/// An unfinished cache.
struct Part {
    path: PathBuf,
    file: File,
    header: Header,
    /// Bytes of header and head.
    lead: u64,
    record: u64,
    done: u64,
}

impl Part {
    /// Opens what an earlier attempt left, or begins anew where it left nothing that can be used.
    fn open(whole: &Path, header: &Header, live: &Live) -> Result<Self, Error> {
        let path = whole.with_extension("part");
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = opened.map_err(Error::io("open", &path))?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(Error::cache(
                &path,
                "another process is making it: wait for it or end it. But do not",
            ));
        }
        let lead = lead(header, live);
        let record = header.record().unwrap_or(4);
        let mut part = Self {
            file,
            header: header.clone(),
            lead: lead.len() as u64,
            record,
            done: 0,
            path: path.clone(),
        };
        if !part.begins_with(&lead) {
            let refused = |action| Error::io(action, &path);
            part.file.set_len(0).and_then(|()| part.file.rewind()).map_err(refused("empty"))?;
            part.file.write_all(&lead).map_err(refused("write"))?;
        }
        part.count()?;
        Ok(part)
    }

    fn begins_with(&mut self, lead: &[u8]) -> bool {
        let mut found = vec![0; lead.len()];
        self.file.rewind().is_ok() && self.file.read_exact(&mut found).is_ok() && found == lead
    }

    /// Counts the whole records, and cuts what is behind them.
    fn count(&mut self) -> Result<(), Error> {
        let refused = |action| Error::io(action, &self.path);
        let size = self.file.metadata().map_err(refused("read"))?.len();
        let whole = (size.saturating_sub(self.lead) / self.record).min(self.header.windows);
        let mut bytes = vec![0; self.record as usize];
        self.file.seek(SeekFrom::Start(self.lead)).map_err(refused("read"))?;
        while self.done < whole {
            self.file.read_exact(&mut bytes).map_err(refused("read"))?;
            let (values, sum) = bytes.split_at(bytes.len() - 4);
            if checksum(self.done, values) != *sum {
                break;
            }
            self.done += 1;
        }
        let end = self.lead + self.done * self.record;
        self.file.set_len(end).map_err(refused("shorten"))?;
        self.file.seek(SeekFrom::Start(end)).map_err(refused("write"))?;
        Ok(())
    }

    /// Says how large it will be, and refuses to begin what there is no room for.
    fn announce(&self, whole: &Path, maker: &mut Maker<'_>) -> Result<(), Error> {
        let (windows, done) = (self.header.windows, self.done);
        let bytes = self.lead + windows * self.record;
        let missing = (windows - done) * self.record;
        let free = self.path.parent().and_then(disk::free);
        (maker.tell)(Event::Size { path: whole, bytes, free, done, windows });
        match free.filter(|free| *free < missing) {
            None => Ok(()),
            Some(free) => Err(Error::NoRoom { path: whole.to_owned(), bytes: missing, free }),
        }
    }

    fn fill(&mut self, live: &mut Live, maker: &mut Maker<'_>) -> Result<(), Error> {
        let (windows, steps) = (self.header.windows, self.header.steps as u64);
        let at_once = live.windows_a_call() as u64;
        let mut out = BufWriter::with_capacity(1 << 20, &self.file);
        let (mut tokens, mut read) = (Vec::new(), Vec::new());
        while self.done < windows && !(maker.stop)() {
            let end = windows.min(self.done + at_once);
            tokens.clear();
            for window in self.done..end {
                maker.text.split.read(window * steps..(window + 1) * steps, &mut read)?;
                tokens.extend(&read);
            }
            for (window, record) in (self.done..).zip(encode(&self.header, live, maker.plan, &tokens)?) {
                let sum = checksum(window, &record);
                out.write_all(&record)
                    .and_then(|()| out.write_all(&sum))
                    .map_err(Error::io("write", &self.path))?;
            }
            self.done = end;
            (maker.tell)(Event::Done { done: end, windows });
        }
        out.flush().map_err(Error::io("write", &self.path))?;
        drop(out);
        if self.done < windows {
            return Err(Error::Interrupted { done: self.done, windows });
        }
        Ok(())
    }

    fn publish(self, whole: &Path) -> Result<(), Error> {
        self.file.sync_all().map_err(Error::io("sync", &self.path))?;
        publish(&self.path, whole).map_err(|error| Error::cache(whole, error.to_string()))
    }
}

/// The records of some windows, without their checksums.
fn encode(
    header: &Header,
    live: &mut Live,
    plan: &DistillPlan,
    tokens: &[u32],
) -> Result<Vec<Vec<u8>>, Error> {
    let width = match header.form {
        RecordForm::Full { columns, .. } | RecordForm::Top { columns, .. } => columns,
        RecordForm::Hidden { width, .. } => width,
    };
    let mut rows = vec![0.0; tokens.len() * width];
    match header.form {
        RecordForm::Hidden { .. } => live.hidden(tokens, width, &mut rows)?,
        _ => live.logits(tokens, width, &mut rows)?,
    }
    let windows = rows.par_chunks(header.steps * width);
    windows.map(|rows| encode_window(header.form, width, plan.temperature, rows)).collect()
}

fn encode_window(form: RecordForm, width: usize, temperature: f64, rows: &[f32]) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let dtype = match form {
        RecordForm::Full { dtype, .. } | RecordForm::Hidden { dtype, .. } => dtype,
        RecordForm::Top { k, columns } => {
            rows.chunks(width).for_each(|row| encode_top(&top(row, k, temperature), columns, &mut bytes));
            return Ok(bytes);
        }
    };
    encode_values(rows, dtype, &mut bytes)
        .map_err(|value| Error::Plan { reason: too_large(value, dtype) })?;
    Ok(bytes)
}

fn too_large(value: f32, dtype: Stored) -> String {
    format!("a teacher gives {value}, which {dtype:?} has no number for; use cache_dtype = \"f32\"")
}
