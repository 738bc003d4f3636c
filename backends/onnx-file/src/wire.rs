//! The wire format of protocol buffers, read from a file without ever holding more of it than a short text.
//!
//! A message is a list of fields, each a number, a kind and a value. Lengths are checked against the message around
//! them, so that no claim of a file reaches beyond it.

use std::io::{self, BufRead, BufReader, Read, Seek};

/// Longest text that is kept: names and paths.
const TEXT: u64 = 4096;
/// Messages within messages; as deep as Google's own reader goes.
const DEPTH: u32 = 100;

/// One field of a message.
pub(crate) enum Field {
    /// A whole number.
    Number(u64),
    /// A fixed-width number, passed over.
    Fixed,
    /// A text, list or message of this many bytes; the reader stands before it.
    Bytes(u64),
}

/// A reader that knows where it stands.
pub(crate) struct Wire<R> {
    input: BufReader<R>,
    at: u64,
    end: u64,
    depth: u32,
}

impl<R: Read + Seek> Wire<R> {
    /// A reader of `len` bytes.
    pub(crate) fn new(input: R, len: u64) -> Self {
        Self { input: BufReader::with_capacity(1 << 14, input), at: 0, end: len, depth: 0 }
    }

    /// Reads a message of `len` bytes: gives each field to `take`, and passes over what it leaves. `take` returns how
    /// it used a [`Field::Bytes`]: wholly, or not at all.
    pub(crate) fn message(
        &mut self,
        len: u64,
        take: &mut dyn FnMut(&mut Self, u64, &Field) -> Result<bool, String>,
    ) -> Result<(), String> {
        let outer = self.end;
        self.end = self.at + self.checked(len)?;
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(format!("messages lie more than {DEPTH} deep in each other"));
        }
        while self.at < self.end {
            let (number, field) = self.field()?;
            let used = take(self, number, &field)?;
            if let (Field::Bytes(len), false) = (&field, used) {
                self.skip(*len)?;
            }
        }
        self.depth -= 1;
        self.end = outer;
        Ok(())
    }

    fn field(&mut self) -> Result<(u64, Field), String> {
        let start = self.at;
        let key = self.varint()?;
        // A key has 32 bits in five bytes; what other readers make of a longer one is their affair.
        if key > u64::from(u32::MAX) || key >> 3 == 0 || self.at - start > 5 {
            return Err(format!("byte {start} begins no field"));
        }
        let field = match key & 7 {
            0 => Field::Number(self.varint()?),
            1 => self.skip(8).map(|()| Field::Fixed)?,
            2 => {
                let len = self.varint()?;
                Field::Bytes(self.checked(len)?)
            }
            5 => self.skip(4).map(|()| Field::Fixed)?,
            kind => return Err(format!("byte {start} begins a field of the unknown kind {kind}")),
        };
        Ok((key >> 3, field))
    }

    /// The text of `len` bytes that follows.
    pub(crate) fn text(&mut self, len: u64) -> Result<String, String> {
        if self.checked(len)? > TEXT {
            return Err(format!("a name or path of {len} bytes, where {TEXT} are enough"));
        }
        let mut bytes = vec![0; len as usize];
        self.input.read_exact(&mut bytes).map_err(|e| e.to_string())?;
        self.at += len;
        String::from_utf8(bytes).map_err(|_| "a name or path that is not UTF-8".to_owned())
    }

    /// The packed numbers in the `len` bytes that follow.
    pub(crate) fn numbers(&mut self, len: u64, take: &mut dyn FnMut(u64)) -> Result<(), String> {
        let end = self.at + self.checked(len)?;
        while self.at < end {
            take(self.varint()?);
        }
        if self.at == end { Ok(()) } else { Err("a list that ends within a number".to_owned()) }
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(format!("a number of more than 64 bits ends at byte {}", self.at))
    }

    fn byte(&mut self) -> Result<u8, String> {
        self.checked(1)?;
        let byte = self.input.fill_buf().map_err(|e| e.to_string())?.first().copied();
        self.input.consume(1);
        self.at += 1;
        byte.ok_or_else(ended)
    }

    fn skip(&mut self, len: u64) -> Result<(), String> {
        self.checked(len)?;
        let step = i64::try_from(len).map_err(|_| ended())?;
        self.input.seek_relative(step).map_err(|e: io::Error| e.to_string())?;
        self.at += len;
        Ok(())
    }

    /// `len`, if the message around has so many bytes left.
    fn checked(&self, len: u64) -> Result<u64, String> {
        if len <= self.end - self.at { Ok(len) } else { Err(ended()) }
    }
}

fn ended() -> String {
    "it ends early: it was cut short, or is no ONNX model".to_owned()
}
