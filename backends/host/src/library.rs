//! Opens a backend: from a file, or from a table that is linked in. Both ways go through the same checks.

use std::ffi::c_void;
use std::io;
use std::mem::{ManuallyDrop, offset_of};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bheval_abi::{Backend, FEATURE_FOREST, MAJOR, MASKED_EXTENSION, SYMBOL, Text};
use sha2::{Digest, Sha256};

use crate::elf::promised_len;
use crate::worker::{Loaded, Workers};
use crate::{Error, Launch};

/// Where a backend comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Part of this binary.
    Linked,
    /// A file, with its SHA-256 in hex.
    File {
        /// Path as it was opened.
        path: PathBuf,
        /// SHA-256 of the file, in hex.
        sha256: String,
    },
}

/// A backend that a worker is to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The linked one of this name.
    Linked(String),
    /// A file.
    File {
        /// Its path.
        path: PathBuf,
        /// SHA-256, in hex, that it must have.
        pin: Option<String>,
    },
}

/// An opened backend. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Library {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    code: Code,
    name: String,
    version: String,
    features: u64,
    origin: Origin,
}

/// Where the backend's code runs.
#[derive(Debug)]
enum Code {
    /// In this process.
    Here(Table),
    /// In a process of its own, which told whether it scores masked models.
    Worker { workers: Box<Workers>, masked: bool },
}

#[derive(Debug)]
struct Table(*const Backend);

// SAFETY: the table is read-only and lives as long as the process; its functions may be called from any thread, as the
// contract demands of a backend.
unsafe impl Send for Table {}
// SAFETY: as above.
unsafe impl Sync for Table {}

impl Library {
    /// A backend that is linked into this binary.
    ///
    /// # Errors
    /// What [`Library::open`] says of a table.
    pub fn linked(table: &'static Backend) -> Result<Self, Error> {
        // SAFETY: a reference to a whole table that lives for ever.
        unsafe { Self::from_table(table, Origin::Linked) }
    }

    /// Loads a backend from a file. With a pin, nothing is loaded unless the file's SHA-256 is the one given.
    ///
    /// Loading runs the library's initialisers: code that you did not check runs with your rights.
    ///
    /// # Errors
    /// No such file, another digest, no library, no table, another major version, or a table that is not whole.
    pub fn open(path: &Path, pin: Option<&str>) -> Result<Self, Error> {
        let path = found(path)?;
        let sha256 = check_bytes(&path, pin)?;
        let no_plugin = |reason: String| Error::NotAPlugin { path: path.clone(), reason };
        // SAFETY: the initialisers of the library run here; the user chose the file, and the docs say so.
        let mapped = unsafe { libloading::Library::new(&path) }.map_err(|e| no_plugin(chain(&e)))?;
        // Never dropped, whatever follows: see the invariant in `lib.rs`.
        let mapped = ManuallyDrop::new(mapped);
        // SAFETY: only the symbol's address is taken; it is read by `from_table` after checks.
        let symbol = unsafe { mapped.get::<*const c_void>(SYMBOL) }
            .map_err(|_| no_plugin(format!("it exports no symbol `{SYMBOL}`")))?;
        // SAFETY: libloading hands the address of the data symbol as the value of a pointer type.
        let table: *const Backend = unsafe { symbol.into_raw() }.as_raw_ptr().cast();
        if !table.is_aligned() {
            return Err(no_plugin(format!("its `{SYMBOL}` is no table: it lies at an odd address")));
        }
        let origin = Origin::File { path: path.clone(), sha256 };
        // SAFETY: the symbol of this name is a table, as the contract asks; its head is checked before the rest is read.
        unsafe { Self::from_table(table, origin) }
    }

    /// # Safety
    /// `table` is aligned and points to a `Backend`, or at least to its leading size and version, that lives as long as
    /// the process.
    unsafe fn from_table(table: *const Backend, origin: Origin) -> Result<Self, Error> {
        let place = match &origin {
            Origin::Linked => "a linked backend".to_owned(),
            Origin::File { path, .. } => path.display().to_string(),
        };
        // SAFETY: the head is there by the caller's promise; raw reads, so that nothing is assumed of the rest.
        let (size, major, minor) = unsafe {
            (
                (&raw const (*table).size).read(),
                (&raw const (*table).major).read(),
                (&raw const (*table).minor).read(),
            )
        };
        if major != MAJOR {
            return Err(Error::OtherVersion { origin: place, found: (major, minor) });
        }
        let broken =
            |reason: &str| Error::NotAPlugin { path: PathBuf::from(&place), reason: reason.to_owned() };
        if size < offset_of!(Backend, extension) + size_of::<usize>() {
            return Err(broken("its table is smaller than version 1.0 asks for"));
        }
        // SAFETY: the size covers every field that is known here.
        let known = unsafe { &*table };
        let whole = known.open.is_some()
            && known.close.is_some()
            && known.describe.is_some()
            && known.score.is_some();
        if !whole {
            return Err(broken("a function of its table is missing"));
        }
        // SAFETY: the table's texts live as long as the library.
        let (name, version) = unsafe { (known.name.get(), known.version.get()) };
        let (name, version) = name.zip(version).ok_or_else(|| broken("its name or version is not UTF-8"))?;
        let (code, features) = (Code::Here(Table(table)), known.features);
        let inner = Inner { code, name: name.into(), version: version.into(), features, origin };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// A backend whose code never runs in this process: a worker loads it and answers for it. What ends the worker, a
    /// segmentation fault or an abort, is an error here, and the next call is made to a new worker.
    ///
    /// `launch` starts a process that calls [`crate::serve`] at once. The answers are those of a backend in this process,
    /// bit for bit.
    ///
    /// # Errors
    /// As [`Library::open`], and a worker that can't be started or dies while it loads the backend.
    pub fn isolated(launch: &Launch, source: &Source) -> Result<Self, Error> {
        let (source, origin) = match source {
            Source::Linked(name) => (Source::Linked(name.clone()), Origin::Linked),
            Source::File { path, pin } => {
                let path = found(path)?;
                let sha256 = check_bytes(&path, pin.as_deref())?;
                // The worker loads these bytes or none.
                let source = Source::File { path: path.clone(), pin: Some(sha256.clone()) };
                (source, Origin::File { path, sha256 })
            }
        };
        let (workers, Loaded { name, version, features, masked }) = Workers::start(launch, source)?;
        let code = Code::Worker { workers: Box::new(workers), masked };
        let inner = Inner { code, name, version, features, origin };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Name as a user types it after `--backend`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Version of the backend.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.inner.version
    }

    /// Where it comes from.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.inner.origin
    }

    /// Whether it evaluates any forest natively. Sequences for one that does not go into a forest by
    /// [`Forest::insert_alone`](crate::Forest::insert_alone).
    #[must_use]
    pub fn takes_forests(&self) -> bool {
        self.inner.features & FEATURE_FOREST != 0
    }

    /// Whether its code runs in a process of its own.
    #[must_use]
    pub fn is_isolated(&self) -> bool {
        self.workers().is_some()
    }

    #[cfg(unix)]
    pub(crate) fn features(&self) -> u64 {
        self.inner.features
    }

    /// The table as it was checked: whole, and its open, close, describe and score are there. None where the code is in
    /// another process.
    #[must_use]
    pub fn table(&self) -> Option<&Backend> {
        match &self.inner.code {
            // SAFETY: checked to be whole when opened, and never unmapped.
            Code::Here(Table(table)) => Some(unsafe { &**table }),
            Code::Worker { .. } => None,
        }
    }

    /// What starts workers, where the code is in one.
    pub(crate) fn workers(&self) -> Option<&Workers> {
        match &self.inner.code {
            Code::Here(_) => None,
            Code::Worker { workers, .. } => Some(workers),
        }
    }

    /// Whether it scores masked models.
    #[must_use]
    pub fn reads_masked(&self) -> bool {
        match &self.inner.code {
            Code::Here(_) => self.extension(MASKED_EXTENSION).is_some(),
            Code::Worker { masked, .. } => *masked,
        }
    }

    /// The table of an optional ability, typed by the caller as the id demands.
    pub(crate) fn extension(&self, id: &str) -> Option<*const c_void> {
        let find = self.table()?.extension?;
        // SAFETY: a function of a checked table, with readable text.
        let table = unsafe { find(Text::new(id)) };
        (!table.is_null()).then_some(table)
    }
}

/// The regular file at `path`, without links. Anything else could keep a reader waiting for ever.
fn found(path: &Path) -> Result<PathBuf, Error> {
    let unusable = |reason: String| Error::NotAPlugin { path: path.to_path_buf(), reason };
    let unreachable = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => Error::Missing { path: path.to_path_buf() },
        _ => unusable(format!("it can't be reached ({e})")),
    };
    let file = path.canonicalize().map_err(unreachable)?;
    if !file.metadata().map_err(unreachable)?.is_file() {
        return Err(unusable("it is a folder or a device, not a file".to_owned()));
    }
    Ok(file)
}

/// Checks what can be checked before a file is loaded; returns its SHA-256 in hex.
fn check_bytes(path: &Path, pin: Option<&str>) -> Result<String, Error> {
    let path = path.to_path_buf();
    let no_plugin = |path, reason| Error::NotAPlugin { path, reason };
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) => return Err(no_plugin(path, format!("it can't be read ({e})"))),
    };
    let found: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
    if let Some(expected) = pin.filter(|p| !p.eq_ignore_ascii_case(&found)) {
        return Err(Error::OtherDigest { path, expected: expected.to_owned(), found });
    }
    let (len, promised) = (bytes.len() as u64, promised_len(&bytes));
    if len < promised {
        let reason = format!(
            "it was cut short: {len} bytes, where its headers promise {promised}; copy or build it again"
        );
        return Err(no_plugin(path, reason));
    }
    Ok(found)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(next) = source {
        let more = next.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_says_what_to_try() {
        let error = Library::open(Path::new("no/such/libx.so"), None).expect_err("there is none");
        assert!(
            error.to_string().contains("no/such/libx.so") && error.to_string().contains("bheval backends")
        );
    }

    #[test]
    fn a_text_file_is_no_plugin() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "hello").expect("written");
        let error = Library::open(file.path(), None).expect_err("text");
        assert!(matches!(error, Error::NotAPlugin { .. }), "{error}");
    }

    #[test]
    fn a_pin_is_checked_before_loading() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let error = Library::open(file.path(), Some("00")).expect_err("another digest");
        assert!(matches!(error, Error::OtherDigest { .. }), "{error}");
    }
}
