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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Numbers;

    /// What the crate `half` makes of it.
    fn peer(x: f32) -> u32 {
        half::bf16::from_f32(x).to_f32().to_bits()
    }

    #[test]
    fn rounds_as_half_does() {
        let mut numbers = Numbers::new(5);
        let random = (0..100_000).map(|_| numbers.bits() as u32);
        let ties = (0..=u16::MAX).map(|upper| u32::from(upper) << 16 | 0x8000);
        for x in random.chain(ties).chain([0, 1, 0x8000_0000, 0x7F7F_FFFF]).map(f32::from_bits) {
            if x.is_nan() {
                assert!(round(x).is_nan(), "{x:?}");
            } else {
                assert_eq!(round(x).to_bits(), peer(x), "{x:e}");
            }
        }
    }

    #[test]
    fn what_is_not_finite_stays_visible() {
        let hidden = f32::from_bits(0x7F80_0001);
        assert!(hidden.is_nan() && round(hidden).is_nan() && round(-f32::NAN).is_nan());
        assert_eq!([round(f32::INFINITY), round(f32::NEG_INFINITY)], [f32::INFINITY, f32::NEG_INFINITY]);
        assert_eq!(round(f32::MAX), f32::INFINITY, "the nearest bf16 is beyond the largest one");
    }

    #[test]
    fn a_pair_holds_both() {
        let word = pair([1.5, -2.0]).to_bits();
        assert_eq!([f32::from_bits(word << 16), f32::from_bits(word & 0xFFFF_0000)], [1.5, -2.0]);
    }
}
