//! Archives with a password, read in memory: what is in them never reaches the disk.
//!
//! An archive is hostile until read: names are refused before anything is inflated, and what comes out is
//! counted as it comes, whatever the headers claim.

mod fault;

use std::io::{Cursor, Read};

use zip::ZipArchive;
use zip::result::ZipError;

use crate::Error;
use crate::plain_path::is_plain_path;
pub use fault::ArchiveFault;

/// The most entries an archive may have.
pub const ENTRY_LIMIT: usize = 10_000;
/// The most bytes that an archive's entries may have, one by one and all together.
pub const SIZE_LIMIT: u64 = 256 << 20;
/// How many bytes may come out for one that went in, beyond the first MiB.
pub const RATIO_LIMIT: u64 = 1_000;
/// What may come out of an entry whatever its ratio: small files of one repeated letter are harmless.
const RATIO_FREE: u64 = 1 << 20;

/// An opened archive.
pub struct Archive {
    source: String,
    password: String,
    /// The size of the archive: no entry can have more compressed bytes, whatever its header says.
    length: u64,
    limits: Limits,
    entries: Vec<Entry>,
    zip: ZipArchive<Cursor<Vec<u8>>>,
}

struct Entry {
    name: String,
    index: usize,
    /// What came out of it when it was last read; these add up to the total that is limited.
    inflated: u64,
}

#[derive(Clone, Copy)]
struct Limits {
    entries: usize,
    size: u64,
    ratio_free: u64,
}

const LIMITS: Limits = Limits { entries: ENTRY_LIMIT, size: SIZE_LIMIT, ratio_free: RATIO_FREE };

impl Archive {
    /// Reads an archive's directory and refuses the whole archive if anything in it is out of bounds.
    ///
    /// `source` is the archive's name for messages. The password is first tried when an entry is read.
    pub fn open(source: &str, bytes: Vec<u8>, password: &str) -> Result<Archive, Error> {
        open_within(LIMITS, bytes, password, source).map_err(|fault| failed(source, fault))
    }

    /// The names of the files in it, in the archive's order. Folders are left out.
    pub fn entries(&self) -> Vec<String> {
        self.entries.iter().map(|entry| entry.name.clone()).collect()
    }

    /// The content of a file in it.
    pub fn read(&mut self, name: &str) -> Result<Vec<u8>, Error> {
        let bytes = match self.entries.iter().position(|entry| entry.name == name) {
            Some(at) => self.inflate(at),
            None => Err(ArchiveFault::NoSuchEntry { entry: shortened(name) }),
        };
        bytes.map_err(|fault| failed(&self.source, fault))
    }

    fn inflate(&mut self, at: usize) -> Result<Vec<u8>, ArchiveFault> {
        let room = self.room_beside(at);
        let entry = &mut self.entries[at];
        let file = self.zip.by_index_decrypt(entry.index, self.password.as_bytes());
        let file = file.map_err(|error| entry.refusal(&error))?;
        let (encrypted, size) = (file.encrypted(), file.size());
        let by_ratio = file.compressed_size().min(self.length).saturating_mul(RATIO_LIMIT);
        let most = room.min(by_ratio.max(self.limits.ratio_free));

        let mut bytes = Vec::new();
        let read = file.take(most + 1).read_to_end(&mut bytes);
        entry.inflated = bytes.len() as u64;
        if entry.inflated > most {
            return Err(if most == room { self.limits.too_large() } else { entry.bomb() });
        }
        match read {
            Ok(_) if entry.inflated == size => Ok(bytes),
            _ => Err(entry.spoilt(encrypted)),
        }
    }

    /// How much an entry may inflate to, given what the others did.
    fn room_beside(&self, at: usize) -> u64 {
        let others = self.entries.iter().enumerate().filter(|(index, _)| *index != at);
        let spent = others.map(|(_, entry)| entry.inflated).fold(0, u64::saturating_add);
        self.limits.size.saturating_sub(spent)
    }
}

fn failed(source: &str, fault: ArchiveFault) -> Error {
    Error::Archive { file: source.to_owned(), fault }
}

fn open_within(
    limits: Limits,
    bytes: Vec<u8>,
    password: &str,
    source: &str,
) -> Result<Archive, ArchiveFault> {
    let length = bytes.len() as u64;
    let zip = ZipArchive::new(Cursor::new(bytes)).map_err(|_| ArchiveFault::NotAnArchive)?;
    let found = zip.len();
    if found > limits.entries {
        return Err(ArchiveFault::TooManyEntries { found, limit: limits.entries });
    }
    if zip.has_duplicate_names() {
        return Err(ArchiveFault::DuplicateNames);
    }
    // The claimed sizes are only good for refusing early; `inflate` counts for itself.
    if zip.decompressed_size().is_some_and(|size| size > u128::from(limits.size)) {
        return Err(limits.too_large());
    }
    let entries = safe_entries(&zip)?;
    Ok(Archive { source: source.to_owned(), password: password.to_owned(), length, limits, entries, zip })
}

/// The files of an archive, if all its names are safe. Nothing is written by name here, but an archive that
/// tries to escape is not one to take data from.
fn safe_entries(zip: &ZipArchive<Cursor<Vec<u8>>>) -> Result<Vec<Entry>, ArchiveFault> {
    let mut entries = Vec::new();
    for (index, name) in zip.file_names().enumerate() {
        let name = name.map_err(|_| ArchiveFault::NotAnArchive)?.into_owned();
        if !is_plain_path(&name) {
            return Err(ArchiveFault::UnsafeName { name: shortened(&name) });
        }
        if !name.ends_with('/') {
            entries.push(Entry { name, index, inflated: 0 });
        }
    }
    Ok(entries)
}

impl Limits {
    fn too_large(self) -> ArchiveFault {
        ArchiveFault::TooLarge { limit: self.size }
    }
}

impl Entry {
    fn bomb(&self) -> ArchiveFault {
        ArchiveFault::Bomb { entry: shortened(&self.name) }
    }

    fn spoilt(&self, encrypted: bool) -> ArchiveFault {
        let entry = shortened(&self.name);
        if encrypted { ArchiveFault::WrongPassword { entry } } else { ArchiveFault::Damaged { entry } }
    }

    fn refusal(&self, error: &ZipError) -> ArchiveFault {
        match error {
            ZipError::InvalidPassword => self.spoilt(true),
            ZipError::UnsupportedArchive(_) | ZipError::CompressionMethodNotSupported(_) => {
                ArchiveFault::Unsupported { entry: shortened(&self.name) }
            }
            _ => self.spoilt(false),
        }
    }
}

/// A name fit for a message: names come from the archive and can be 64 KiB of anything.
fn shortened(name: &str) -> String {
    name.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use zip::CompressionMethod;
    use zip::write::{SimpleFileOptions, ZipWriter};

    use super::*;

    const SMALL: Limits = Limits { entries: 3, size: 1_000, ratio_free: 100 };

    fn packed(method: CompressionMethod, files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in files {
            zip.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap().into_inner()
    }

    fn stored(files: &[(&str, &[u8])]) -> Vec<u8> {
        packed(CompressionMethod::Stored, files)
    }

    fn deflated(files: &[(&str, &[u8])]) -> Vec<u8> {
        packed(CompressionMethod::Deflated, files)
    }

    fn fault<T>(result: Result<T, Error>) -> ArchiveFault {
        match result {
            Err(Error::Archive { file, fault }) => {
                assert_eq!(file, "x.zip");
                fault
            }
            Err(other) => panic!("another error: {other}"),
            Ok(_) => panic!("no error"),
        }
    }

    fn open(bytes: Vec<u8>) -> Result<Archive, Error> {
        Archive::open("x.zip", bytes, "password")
    }

    fn open_small(bytes: Vec<u8>) -> Result<Archive, ArchiveFault> {
        open_within(SMALL, bytes, "password", "x.zip")
    }

    /// Sets the claimed size of every entry, in the local headers and in the directory (APPNOTE 4.3.7, 4.3.12).
    fn claim(mut bytes: Vec<u8>, size: u32) -> Vec<u8> {
        for (signature, offset) in [(b"PK\x03\x04", 22), (b"PK\x01\x02", 24)] {
            let starts: Vec<_> =
                (0..bytes.len() - 4).filter(|at| bytes[*at..].starts_with(signature)).collect();
            for at in starts {
                bytes[at + offset..at + offset + 4].copy_from_slice(&size.to_le_bytes());
            }
        }
        bytes
    }

    #[test]
    fn files_come_out_and_folders_are_left_out() {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        zip.add_directory("d/", SimpleFileOptions::default()).unwrap();
        zip.start_file("d/a.txt", SimpleFileOptions::default()).unwrap();
        zip.write_all(b"text").unwrap();
        let mut archive = open(zip.finish().unwrap().into_inner()).unwrap();
        assert_eq!(archive.entries(), ["d/a.txt"]);
        assert_eq!(archive.read("d/a.txt").unwrap(), b"text");
        assert_eq!(fault(archive.read("d/")), ArchiveFault::NoSuchEntry { entry: "d/".into() });
    }

    #[test]
    fn bytes_that_are_no_archive() {
        for bytes in [&b""[..], b"PK", b"not an archive at all, but some text", &[0xff; 5_000]] {
            assert_eq!(fault(open(bytes.to_vec())), ArchiveFault::NotAnArchive);
        }
    }

    #[test]
    fn names_that_lead_elsewhere_refuse_the_archive() {
        for name in ["/etc/passwd", "../up", "a/../../up", "C:/x", "C:x", "a\\b", "..\\up", "//host/x"] {
            assert_eq!(fault(open(with_name(name))), ArchiveFault::UnsafeName { name: name.into() });
        }
    }

    #[test]
    fn a_nul_in_a_name_refuses_the_archive() {
        let fault = fault(open(with_name("a\0b")));
        assert_eq!(fault, ArchiveFault::UnsafeName { name: "a\0b".into() });
        assert!(!fault.to_string().contains('\0'));
    }

    /// An archive whose second entry has this name. A writer would tidy it, so it is put into the finished bytes.
    fn with_name(name: &str) -> Vec<u8> {
        let wanted = "X".repeat(name.len());
        let mut bytes = stored(&[("fine", b"1"), (&wanted, b"2")]);
        let starts: Vec<_> =
            (0..bytes.len()).filter(|at| bytes[*at..].starts_with(wanted.as_bytes())).collect();
        assert_eq!(starts.len(), 2, "once in the local header, once in the directory");
        for at in starts {
            bytes[at..at + name.len()].copy_from_slice(name.as_bytes());
        }
        bytes
    }

    #[test]
    fn a_bomb_is_stopped_by_its_ratio() {
        let zeros = vec![0; 64 << 20];
        let mut archive = open(deflated(&[("zeros", &zeros)])).unwrap();
        assert_eq!(fault(archive.read("zeros")), ArchiveFault::Bomb { entry: "zeros".into() });
    }

    #[test]
    fn a_bomb_that_hides_its_size_is_stopped_too() {
        let zeros = vec![0; 64 << 20];
        let mut archive = open(claim(deflated(&[("zeros", &zeros)]), 10)).unwrap();
        assert_eq!(fault(archive.read("zeros")), ArchiveFault::Damaged { entry: "zeros".into() });
        assert!(archive.entries[0].inflated < 1_000, "{}", archive.entries[0].inflated);
    }

    #[test]
    fn small_files_of_one_letter_are_no_bombs() {
        let spaces = vec![b' '; 1 << 20];
        assert_eq!(open(deflated(&[("s", &spaces)])).unwrap().read("s").unwrap(), spaces);
    }

    #[test]
    fn claimed_sizes_over_the_limit_are_refused_at_once() {
        let bytes = stored(&[("a", &[1; 600]), ("b", &[2; 600])]);
        assert_eq!(open_small(bytes).err(), Some(ArchiveFault::TooLarge { limit: 1_000 }));
        let bytes = claim(stored(&[("a", b"1")]), u32::MAX - 1);
        assert_eq!(fault(open(bytes)), ArchiveFault::TooLarge { limit: SIZE_LIMIT });
    }

    #[test]
    fn the_total_is_counted_as_it_comes() {
        let mut archive = open_small(stored(&[("a", &[1; 400]), ("b", &[2; 400])])).unwrap();
        archive.limits.size = 700;
        assert_eq!(archive.read("a").unwrap().len(), 400);
        assert_eq!(fault(archive.read("b")), ArchiveFault::TooLarge { limit: 700 });
    }

    #[test]
    fn reading_an_entry_again_does_not_count_twice() {
        let mut archive = open_small(stored(&[("a", &[1; 400]), ("b", &[2; 400])])).unwrap();
        for name in ["a", "b", "a", "a", "b"] {
            assert_eq!(archive.read(name).unwrap().len(), 400);
        }
    }

    #[test]
    fn too_many_entries_and_equal_names() {
        let bytes = stored(&[("a", b""), ("b", b""), ("c", b""), ("d", b"")]);
        assert_eq!(open_small(bytes).err(), Some(ArchiveFault::TooManyEntries { found: 4, limit: 3 }));
        assert_eq!(fault(open(with_name("fine"))), ArchiveFault::DuplicateNames);
    }

    #[test]
    fn a_changed_byte_in_the_content_is_noticed() {
        let mut bytes = stored(&[("a", b"some content")]);
        let at = bytes.windows(7).position(|window| window == b"content").unwrap();
        bytes[at] = b'C';
        assert_eq!(fault(open(bytes).unwrap().read("a")), ArchiveFault::Damaged { entry: "a".into() });
    }
}
