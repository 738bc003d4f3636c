//! The text within a packed file, as a stream. How a file is packed is said by the end of its name.

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use liblzma::bufread::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};

/// The most memory that unpacking may take: `xz -9` needs 65 MiB, `zstd --ultra -22` 128 MiB.
const MEMORY: u64 = 256 << 20;
/// The logarithm of the largest window that zstd files may ask for; more needs `zstd --long`.
const ZSTD_WINDOW_LOG: u32 = 27;

/// What a file is packed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Plain,
    Zstd,
    Xz,
    Gzip,
}

impl Packing {
    /// By the end of a file's name, which is cut off; the rest says what is inside.
    pub(super) fn of(name: &str) -> (Self, &str) {
        let ends = [(".zst", Self::Zstd), (".zstd", Self::Zstd), (".xz", Self::Xz), (".gz", Self::Gzip)];
        let found = ends.into_iter().find_map(|(end, packing)| Some((packing, strip(name, end)?)));
        found.unwrap_or((Self::Plain, name))
    }

    pub(super) fn name(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Zstd => Some("zstd"),
            Self::Xz => Some("xz"),
            Self::Gzip => Some("gzip"),
        }
    }

    /// What bytes at the start of a file are the mark of.
    pub(super) fn marked(start: &[u8]) -> Option<&'static str> {
        let marks: [(&[u8], _); 5] = [
            (b"\x28\xb5\x2f\xfd", "zstd"),
            (b"\xfd7zXZ\0", "xz"),
            (b"\x1f\x8b", "gzip"),
            (b"BZh", "bzip2"),
            (b"PK\x03\x04", "zip"),
        ];
        marks.into_iter().find(|(mark, _)| start.starts_with(mark)).map(|(_, name)| name)
    }

    /// The text in `packed`. All members of a file of several are read, one after the other.
    pub(super) fn unpack<'a, R: Read + Send + 'a>(
        self,
        packed: R,
    ) -> io::Result<Box<dyn BufRead + Send + 'a>> {
        const ROOM: usize = 1 << 17;
        let packed = BufReader::with_capacity(ROOM, packed);
        Ok(match self {
            Self::Plain => Box::new(packed),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(packed)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Box::new(BufReader::with_capacity(ROOM, decoder))
            }
            Self::Xz => {
                let stream = Stream::new_stream_decoder(MEMORY, CONCATENATED)?;
                Box::new(BufReader::with_capacity(ROOM, XzDecoder::new_stream(packed, stream)))
            }
            Self::Gzip => Box::new(BufReader::with_capacity(ROOM, MultiGzDecoder::new(packed))),
        })
    }
}

/// Cuts an ending off, however it is spelt.
pub(super) fn strip<'a>(name: &'a str, end: &str) -> Option<&'a str> {
    let at = name.len().checked_sub(end.len())?;
    let (rest, tail) = name.split_at_checked(at)?;
    tail.eq_ignore_ascii_case(end).then_some(rest)
}

/// The first bytes of a file, for [`Packing::marked`].
pub(super) fn start_of(path: &Path) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    std::fs::File::open(path)?.take(8).read_to_end(&mut start)?;
    Ok(start)
}
