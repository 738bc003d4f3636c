//! bf16: the upper half of an f32, rounded to nearest with ties to even.

/// The nearest bf16 as bits; infinity stays infinite, a finite value may become so, NaN stays NaN.
#[inline(always)]
#[must_use]
pub fn to_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1));
    // A NaN whose payload lies in the lower half would become an infinity: its quiet bit is set instead.
    let quiet = bits | 0x0040_0000;
    ((if x.is_nan() { quiet } else { rounded }) >> 16) as u16
}

/// The f32 of the same value.
#[inline(always)]
#[must_use]
pub fn from_bits(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The nearest bf16, as f32.
#[inline(always)]
#[must_use]
pub fn round(x: f32) -> f32 {
    from_bits(to_bits(x))
}

/// Two rounded neighbours in one word, the first in the lower half: an operand of `vdpbf16ps`.
#[inline(always)]
pub(crate) fn pair([first, second]: [f32; 2]) -> f32 {
    f32::from_bits(u32::from(to_bits(first)) | u32::from(to_bits(second)) << 16)
}
