//! The data sets this program knows: which files, with which checksums, from where, under which licence.
//!
//! Manifests are part of the program (made by `manifests/generate.py`), so a result always says which bytes
//! it was computed from.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde::Deserialize;

use crate::Error;
use crate::digest::sha256_hex;
use crate::plain_path::is_plain_path;

/// A data set, pinned to the byte.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The short name used on the command line.
    pub name: String,
    /// What it is, in a line.
    pub title: String,
    /// The upstream commit the files were taken from.
    pub revision: String,
    /// The licence as upstream states it.
    pub licence: String,
    /// The home page.
    pub source: String,
    /// Conditions beyond the licence, to be shown to whoever uses the set.
    pub terms: Option<String>,
    /// What to do where fetching does not work or is not possible.
    pub how_to_get: String,
    /// The published password of the set's archives.
    pub password: Option<String>,
    /// The set's [content](crate::content), where an archive with other bytes and the same rows is as good.
    pub content_sha256: Option<String>,
    /// The files, sorted by path.
    pub files: Vec<FileEntry>,
}

/// One file of a data set.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Where it lies within a data folder, with `/` between the parts.
    pub path: String,
    /// An address that serves exactly these bytes.
    pub url: Option<String>,
    /// SHA-256 in lower-case hexadecimal.
    pub sha256: String,
    /// Size in bytes.
    pub size: u64,
}

impl Manifest {
    /// Reads a manifest and checks that it is sound: safe distinct paths, well-formed checksums and addresses.
    pub fn parse(text: &str) -> Result<Manifest, Error> {
        let manifest: Manifest = serde_json::from_str(text).map_err(|error| Error::Manifest {
            name: "(unreadable)".to_owned(),
            reason: error.to_string(),
        })?;
        match manifest.fault() {
            None => Ok(manifest),
            Some(reason) => Err(Error::Manifest { name: manifest.name, reason }),
        }
    }

    /// A digest of the name and of every path and checksum, the same whatever the order of the files.
    ///
    /// Addresses, titles and licences do not enter: they can be corrected without changing any result.
    pub fn fingerprint(&self) -> String {
        let files: BTreeSet<(&str, &str)> =
            self.files.iter().map(|file| (file.path.as_str(), file.sha256.as_str())).collect();
        let lines = files.iter().map(|(path, sha256)| format!("{path}\t{sha256}\n"));
        sha256_hex(format!("{}\n{}", self.name, lines.collect::<String>()).as_bytes())
    }

    /// A digest of the name and of the rows, for files that are packed otherwise, if the set pins its content.
    ///
    /// It differs from [`Manifest::fingerprint`]: rows are then in another order, and ids mean other rows.
    pub fn content_fingerprint(&self) -> Option<String> {
        let content = self.content_sha256.as_ref()?;
        Some(sha256_hex(format!("{}\ncontent\t{content}\n", self.name).as_bytes()))
    }

    /// The size of all files together.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    fn fault(&self) -> Option<String> {
        // The name becomes a file name: that of the lock of downloads.
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if self.name.is_empty() || !self.name.bytes().all(letter) || self.files.is_empty() {
            return Some("it needs a name of letters, digits and `_`, and at least one file".to_owned());
        }
        if !self.content_sha256.iter().all(|digest| is_sha256(digest)) {
            return Some("the content's checksum must be 64 lower-case hexadecimal digits".to_owned());
        }
        if self.files.iter().try_fold(0, |sum: u64, file| sum.checked_add(file.size)).is_none() {
            return Some("the sizes of its files add up to 2^64 bytes or more".to_owned());
        }
        let mut seen = BTreeSet::new();
        self.files.iter().find_map(|file| match file.fault() {
            None if seen.insert(&file.path) => None,
            None => Some(format!("{} is listed twice", file.path)),
            Some(what) => Some(format!("{:?}: {what}", file.path)),
        })
    }
}

impl FileEntry {
    fn fault(&self) -> Option<&'static str> {
        let scheme = |url: &String| url.starts_with("https://") || url.starts_with("http://");
        if !is_plain_path(&self.path) {
            Some("the path must be relative, without `..`, drive letters or backslashes")
        } else if !is_sha256(&self.sha256) {
            Some("the checksum must be 64 lower-case hexadecimal digits")
        } else if !self.url.as_ref().is_none_or(scheme) {
            Some("the address must start with https:// or http://")
        } else {
            None
        }
    }
}

fn is_sha256(text: &str) -> bool {
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == 64 && text.bytes().all(digit)
}

const EMBEDDED: [&str; 11] = [
    include_str!("../manifests/blimp.json"),
    include_str!("../manifests/blimp_filtered.json"),
    include_str!("../manifests/blimp_supplement.json"),
    include_str!("../manifests/blimp_fast.json"),
    include_str!("../manifests/supplement_fast.json"),
    include_str!("../manifests/ewok.json"),
    include_str!("../manifests/ewok_filtered.json"),
    include_str!("../manifests/ewok_fast.json"),
    include_str!("../manifests/bear.json"),
    include_str!("../manifests/glue.json"),
    include_str!("../manifests/superglue.json"),
];

/// All data sets, in the order they are listed to users.
pub fn all() -> &'static [Manifest] {
    static ALL: LazyLock<Vec<Manifest>> = LazyLock::new(|| {
        let read = |text| Manifest::parse(text).expect("embedded manifests are sound: a test reads them all");
        EMBEDDED.into_iter().map(read).collect()
    });
    &ALL
}

/// The data set of this name.
pub fn find(name: &str) -> Result<&'static Manifest, Error> {
    let found = all().iter().find(|manifest| manifest.name == name);
    found.ok_or_else(|| Error::UnknownSet { name: name.to_owned() })
}

/// The names of all data sets.
pub(crate) fn names() -> Vec<&'static str> {
    all().iter().map(|manifest| manifest.name.as_str()).collect()
}
