//! Whether a library is as long as its own headers say. The system's loader does not look: it maps a file that was cut
//! short, and the process ends with SIGBUS at the first page that is not there.

/// Bytes that the headers of a 64-bit little-endian ELF file promise, or 0 for any other file.
pub(crate) fn promised_len(bytes: &[u8]) -> u64 {
    if !bytes.starts_with(b"\x7fELF\x02\x01") {
        return 0;
    }
    let (segments, sections) = (number(bytes, 32, 8), number(bytes, 40, 8));
    let (segment_size, segment_count) = (number(bytes, 54, 2), number(bytes, 56, 2));
    let end_of_sections = sections.saturating_add(number(bytes, 58, 2) * number(bytes, 60, 2));
    let end_of_segments = segments.saturating_add(segment_size * segment_count);
    let end_of = |segment: u64| {
        let at = segments.saturating_add(segment * segment_size);
        number(bytes, at.saturating_add(8), 8).saturating_add(number(bytes, at.saturating_add(32), 8))
    };
    (0..segment_count).map(end_of).fold(end_of_segments.max(end_of_sections), u64::max)
}

/// The number of `width` bytes at `at`, or 0 beyond the end.
fn number(bytes: &[u8], at: u64, width: usize) -> u64 {
    let at = usize::try_from(at).unwrap_or(usize::MAX);
    let field = bytes.get(at..).and_then(|rest| rest.get(..width)).unwrap_or_default();
    field.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn this_program_is_as_long_as_it_promises() {
        let bytes = std::fs::read(std::env::current_exe().expect("a path")).expect("a program");
        let promised = promised_len(&bytes);
        assert!(promised <= bytes.len() as u64);
        if cfg!(all(target_os = "linux", target_pointer_width = "64", target_endian = "little")) {
            for len in [64, 1000, promised as usize / 2, promised as usize - 1] {
                assert!(promised_len(&bytes[..len]) > len as u64, "cut at {len}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_header_is_read_without_a_panic(rest in proptest::collection::vec(any::<u8>(), 0..300)) {
            promised_len(&[b"\x7fELF\x02\x01".as_slice(), &rest].concat());
        }
    }
}
