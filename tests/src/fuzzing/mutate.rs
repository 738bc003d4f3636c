//! Random changes to an input: what a fuzzer does when it has no coverage to go by.

/// A source of numbers: SplitMix64.
#[derive(Clone, Debug)]
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n.max(1) as u64) as usize
    }
}

/// What formats give a meaning to.
const PIECES: [&[u8]; 24] = [
    b"\"",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"null",
    b"true",
    b"-1",
    b"0",
    b"4294967295",
    b"18446744073709551615",
    b"1e999",
    b"-0.0",
    b"\\u0000",
    b"\n",
    b"\r\n",
    b"\xef\xbb\xbf",
    b"\xff",
    b"PK\x01\x02",
    b"PK\x05\x06",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
];

/// A seed with one to eight changes.
pub(super) fn mutated(seeds: &[Vec<u8>], numbers: &mut Numbers, most: usize) -> Vec<u8> {
    let mut input = pick(seeds, numbers).to_vec();
    for _ in 0..=numbers.below(8) {
        change(&mut input, seeds, numbers);
    }
    input.truncate(most);
    input
}

fn pick<'a>(seeds: &'a [Vec<u8>], numbers: &mut Numbers) -> &'a [u8] {
    seeds.get(numbers.below(seeds.len())).map_or(&[], Vec::as_slice)
}

fn change(input: &mut Vec<u8>, seeds: &[Vec<u8>], numbers: &mut Numbers) {
    let at = numbers.below(input.len() + 1);
    let end = at + numbers.below(input.len() - at + 1).min(1 + numbers.below(64));
    match numbers.below(9) {
        0 if at < input.len() => input[at] ^= 1 << numbers.below(8),
        1 if at < input.len() => input[at] = numbers.below(256) as u8,
        2 => drop(input.drain(at..end)),
        3 => insert(input, at, &[numbers.below(256) as u8]),
        4 => insert(input, at, PIECES[numbers.below(PIECES.len())]),
        5 => {
            let piece = PIECES[numbers.below(PIECES.len())];
            input.splice(at..end, piece.iter().copied());
        }
        6 => {
            let copy = input[at..end].to_vec();
            let to = numbers.below(input.len() + 1);
            insert(input, to, &copy.repeat(1 + numbers.below(4)));
        }
        7 => {
            let other = pick(seeds, numbers);
            let tail = &other[numbers.below(other.len() + 1)..];
            input.truncate(at);
            input.extend_from_slice(tail);
        }
        _ => number(input, at, numbers),
    }
}

fn insert(input: &mut Vec<u8>, at: usize, piece: &[u8]) {
    input.splice(at..at, piece.iter().copied());
}

/// Puts another number in the place of the first one after `at`.
fn number(input: &mut Vec<u8>, at: usize, numbers: &mut Numbers) {
    const NUMBERS: [&[u8]; 8] =
        [b"0", b"1", b"-1", b"255", b"65536", b"4294967295", b"18446744073709551615", b"0.5"];
    let Some(begin) = (at..input.len()).find(|&i| input[i].is_ascii_digit()) else { return };
    let end = (begin..input.len()).find(|&i| !input[i].is_ascii_digit()).unwrap_or(input.len());
    input.splice(begin..end, NUMBERS[numbers.below(NUMBERS.len())].iter().copied());
}
