//! Frames: 4 bytes that name the format and its version, 4 of what the frame is, 8 of how long, then its fields, all
//! little-endian. Nothing that the other end says of a length is believed: a field must fit into its frame and into what
//! the reader allows, and memory is taken as bytes arrive, not as they are announced.

use std::fmt;
use std::io::{self, Read, Write};

/// Leads every frame. The last byte is the version; both ends are the same program, so no other one is read.
const MARK: [u8; 4] = *b"bhw1";
/// Bytes that are converted at once.
const CHUNK: usize = 1 << 16;

/// Why no frame could be read.
#[derive(Debug)]
pub(super) enum Fault {
    /// The other end is gone.
    Gone(io::Error),
    /// It sent what is no frame.
    Malformed(String),
}

impl Fault {
    pub(super) fn malformed(text: impl Into<String>) -> Self {
        Self::Malformed(text.into())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Gone(error) => error.fmt(f),
            Fault::Malformed(text) => text.fmt(f),
        }
    }
}

/// A field of a frame.
#[derive(Clone, Copy, Debug)]
pub(super) enum Field<'a> {
    /// A number.
    Number(u64),
    /// Bytes, after their count.
    Bytes(&'a [u8]),
    /// 32-bit words, after their count.
    Words(&'a [u32]),
    /// Numbers, after their count, bit for bit.
    Floats(&'a [f32]),
}

impl Field<'_> {
    fn len(&self) -> usize {
        8 + match self {
            Field::Number(_) => 0,
            Field::Bytes(bytes) => bytes.len(),
            Field::Words(words) => 4 * words.len(),
            Field::Floats(floats) => 4 * floats.len(),
        }
    }

    fn send(&self, out: &mut impl Write) -> io::Result<()> {
        let head = match self {
            Field::Number(number) => *number,
            Field::Bytes(bytes) => bytes.len() as u64,
            Field::Words(words) => words.len() as u64,
            Field::Floats(floats) => floats.len() as u64,
        };
        out.write_all(&head.to_le_bytes())?;
        match self {
            Field::Number(_) => Ok(()),
            Field::Bytes(bytes) => out.write_all(bytes),
            Field::Words(words) => send_quads(out, words, u32::to_le_bytes),
            Field::Floats(floats) => send_quads(out, floats, f32::to_le_bytes),
        }
    }
}

fn send_quads<T: Copy>(out: &mut impl Write, values: &[T], bytes: impl Fn(T) -> [u8; 4]) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK.min(4 * values.len())];
    for part in values.chunks(CHUNK / 4) {
        for (quad, &value) in buffer.chunks_exact_mut(4).zip(part) {
            quad.copy_from_slice(&bytes(value));
        }
        out.write_all(&buffer[..4 * part.len()])?;
    }
    Ok(())
}

/// Sends a frame.
pub(super) fn send(out: &mut impl Write, tag: u32, fields: &[Field<'_>]) -> io::Result<()> {
    let len: usize = fields.iter().map(Field::len).sum();
    out.write_all(&MARK)?;
    out.write_all(&tag.to_le_bytes())?;
    out.write_all(&(len as u64).to_le_bytes())?;
    fields.iter().try_for_each(|field| field.send(out))?;
    out.flush()
}

/// A frame that is being read, field by field.
#[derive(Debug)]
pub(super) struct Frame<'a, R> {
    /// What it is.
    pub(super) tag: u32,
    source: &'a mut R,
    /// Bytes of it that were not read yet.
    left: u64,
}

impl<'a, R: Read> Frame<'a, R> {
    /// Reads the head of the next frame.
    pub(super) fn receive(source: &'a mut R) -> Result<Self, Fault> {
        let mut head = [0; 16];
        source.read_exact(&mut head).map_err(Fault::Gone)?;
        let [m0, m1, m2, m3, t0, t1, t2, t3, len @ ..] = head;
        if [m0, m1, m2, m3] != MARK {
            return Err(Fault::malformed(format!("bytes that lead no frame: {:02x?}", &head[..4])));
        }
        Ok(Self { tag: u32::from_le_bytes([t0, t1, t2, t3]), source, left: u64::from_le_bytes(len) })
    }

    /// The next number.
    pub(super) fn number(&mut self) -> Result<u64, Fault> {
        let mut bytes = [0; 8];
        self.take(bytes.len() as u64)?;
        self.source.read_exact(&mut bytes).map_err(Fault::Gone)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// The next number, where it is one of 32 bits.
    pub(super) fn number_u32(&mut self) -> Result<u32, Fault> {
        let number = self.number()?;
        u32::try_from(number).map_err(|_| Fault::malformed(format!("{number} where 32 bits are enough")))
    }

    /// The next bytes, `most` of them at most.
    pub(super) fn bytes(&mut self, most: usize) -> Result<Vec<u8>, Fault> {
        let count = self.count(most, 1)?;
        let mut bytes = Vec::with_capacity(count.min(CHUNK));
        self.source.take(count as u64).read_to_end(&mut bytes).map_err(Fault::Gone)?;
        if bytes.len() < count {
            return Err(Fault::Gone(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(bytes)
    }

    /// The next text, of `most` bytes at most. What is no UTF-8 in it is replaced: it is for people only.
    pub(super) fn text(&mut self, most: usize) -> Result<String, Fault> {
        Ok(String::from_utf8_lossy(&self.bytes(most)?).into_owned())
    }

    /// The next words, `most` of them at most.
    pub(super) fn words(&mut self, most: usize) -> Result<Vec<u32>, Fault> {
        let count = self.count(most, 4)?;
        self.quads(count, u32::from_le_bytes)
    }

    /// The next floats, which must be `expected` in number.
    pub(super) fn floats(&mut self, expected: usize) -> Result<Vec<f32>, Fault> {
        let count = self.count(expected, 4)?;
        if count != expected {
            return Err(Fault::malformed(format!("{count} values where {expected} were asked for")));
        }
        self.quads(count, f32::from_le_bytes)
    }

    /// The end of the frame.
    pub(super) fn end(self) -> Result<(), Fault> {
        match self.left {
            0 => Ok(()),
            left => Err(Fault::malformed(format!("a frame with {left} bytes too many"))),
        }
    }

    fn count(&mut self, most: usize, size: u64) -> Result<usize, Fault> {
        let count = self.number()?;
        if count > most as u64 {
            return Err(Fault::malformed(format!("{count} elements where {most} are the most there can be")));
        }
        self.take(count.saturating_mul(size))?;
        Ok(count as usize)
    }

    /// Takes bytes from what the frame said it holds.
    fn take(&mut self, bytes: u64) -> Result<(), Fault> {
        let left = self.left.checked_sub(bytes);
        self.left = left.ok_or_else(|| Fault::malformed("a field that is longer than its frame"))?;
        Ok(())
    }

    fn quads<T>(&mut self, count: usize, value: impl Fn([u8; 4]) -> T) -> Result<Vec<T>, Fault> {
        let mut buffer = vec![0; CHUNK.min(4 * count)];
        let mut values = Vec::with_capacity(count.min(CHUNK));
        while values.len() < count {
            let part = (4 * (count - values.len())).min(CHUNK);
            self.source.read_exact(&mut buffer[..part]).map_err(Fault::Gone)?;
            values.extend(buffer[..part].chunks_exact(4).map(|q| value([q[0], q[1], q[2], q[3]])));
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A frame by hand: head and fields as the module's first lines say.
    fn by_hand(tag: u32, len: u64, body: &[u8]) -> Vec<u8> {
        [b"bhw1".as_slice(), &tag.to_le_bytes(), &len.to_le_bytes(), body].concat()
    }

    fn sent(fields: &[Field<'_>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        send(&mut bytes, 7, fields).expect("memory takes everything");
        bytes
    }

    #[test]
    fn a_frame_is_what_the_format_says() {
        let body =
            [&9_u64.to_le_bytes()[..], &2_u64.to_le_bytes(), b"ab", &1_u64.to_le_bytes(), &[1, 2, 0, 0]];
        let body = body.concat();
        let found = sent(&[Field::Number(9), Field::Bytes(b"ab"), Field::Words(&[0x201])]);
        assert_eq!(found, by_hand(7, body.len() as u64, &body));
    }

    #[test]
    fn a_length_that_lies_takes_no_memory() {
        for claimed in [u64::MAX, 1 << 40, 1 << 33] {
            let bytes = by_hand(1, u64::MAX, &claimed.to_le_bytes());
            let mut source = bytes.as_slice();
            let mut frame = Frame::receive(&mut source).expect("a head");
            assert!(matches!(frame.words(1 << 30), Err(Fault::Malformed(_))), "{claimed}");
            // Allowed by the reader, but never sent: the bytes end before the memory does.
            let mut source = bytes.as_slice();
            let mut frame = Frame::receive(&mut source).expect("a head");
            assert!(frame.words(usize::MAX).is_err(), "{claimed}");
            let mut source = bytes.as_slice();
            assert!(Frame::receive(&mut source).expect("a head").bytes(usize::MAX).is_err(), "{claimed}");
        }
    }

    #[test]
    fn what_does_not_add_up_is_named() {
        type Reading = dyn Fn(&mut Frame<'_, &[u8]>) -> Result<(), Fault>;
        let refused = |bytes: &[u8], read: &Reading, part: &str| {
            let mut source = bytes;
            let result = Frame::receive(&mut source).and_then(|mut frame| {
                read(&mut frame)?;
                frame.end()
            });
            let text = result.expect_err(part).to_string();
            assert!(text.contains(part), "{text:?} does not say {part:?}");
        };
        refused(b"bhw2000000000000", &|_| Ok(()), "lead no frame");
        refused(&by_hand(1, 3, b"abc"), &|_| Ok(()), "3 bytes too many");
        refused(&by_hand(1, 3, b"abc"), &|f| f.number().map(drop), "longer than its frame");
        refused(&sent(&[Field::Number(1 << 32)]), &|f| f.number_u32().map(drop), "32 bits are enough");
        refused(&sent(&[Field::Floats(&[0.5])]), &|f| f.floats(2).map(drop), "1 values where 2");
        refused(&sent(&[Field::Floats(&[0.5; 3])]), &|f| f.floats(2).map(drop), "3 elements where 2");
        refused(&sent(&[Field::Bytes(b"abc")]), &|f| f.bytes(2).map(drop), "3 elements where 2");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn fields_come_back_bit_for_bit(
            number in any::<u64>(),
            bytes in prop::collection::vec(any::<u8>(), 0..99),
            words in prop::collection::vec(any::<u32>(), 0..40_000),
        ) {
            let floats: Vec<f32> = words.iter().map(|&w| f32::from_bits(w)).collect();
            let all = [Field::Number(number), Field::Bytes(&bytes), Field::Words(&words), Field::Floats(&floats)];
            let sent = sent(&all);
            let mut source = sent.as_slice();
            let mut frame = Frame::receive(&mut source).expect("a head");
            prop_assert_eq!(frame.tag, 7);
            prop_assert_eq!(frame.number().expect("a number"), number);
            prop_assert_eq!(frame.bytes(bytes.len()).expect("bytes"), bytes);
            prop_assert_eq!(frame.words(words.len()).expect("words"), words.clone());
            let back: Vec<u32> = frame.floats(words.len()).expect("floats").iter().map(|f| f.to_bits()).collect();
            prop_assert_eq!(back, words);
            frame.end().expect("the end");
            prop_assert!(source.is_empty());
        }
    }
}
