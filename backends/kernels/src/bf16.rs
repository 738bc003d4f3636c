//! bf16: the upper half of an f32, rounded to nearest with ties to even.

/// The nearest bf16 in the upper half, anything in the lower; infinity stays infinite, a finite value may become so, NaN
/// stays NaN.
#[inline(always)]
fn upper(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1));
    // A NaN whose payload lies in the lower half would become an infinity: its quiet bit is set instead.
    if x.is_nan() { bits | 0x0040_0000 } else { rounded }
}

/// The nearest bf16, ties to even, as f32.
#[inline(always)]
#[must_use]
pub fn round(x: f32) -> f32 {
    f32::from_bits(upper(x) & 0xFFFF_0000)
}

/// Two rounded neighbours in one word, the first in the lower half: an operand of `vdpbf16ps`.
#[inline(always)]
pub(crate) fn pair([first, second]: [f32; 2]) -> f32 {
    f32::from_bits(upper(first) >> 16 | upper(second) & 0xFFFF_0000)
}
