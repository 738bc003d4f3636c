//! The two things the compiler doesn't find by itself on x86-64: dot products of bf16 pairs, and transposing in registers.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::Isa;
use super::tile::{PANEL, STRIP, Sums};

/// `sums[STRIP][PANEL]`: what bf16 pairs `a[depth][STRIP]` and `b[depth][PANEL]` give.
///
/// # Panics
/// If `isa` has no dot products of bf16.
pub(crate) fn dot_pairs(isa: Isa, a: &[[f32; STRIP]], b: &[[f32; PANEL]], sums: &mut Sums) {
    assert!(isa.has_bf16(), "this instruction set does not multiply bf16");
    // SAFETY: only `Isa::available`, having detected the features, makes an `Isa` that has bf16.
    unsafe { dots(a, b, sums) }
}

/// Asks for the cache lines of `x` to be brought near, for they will be needed.
#[inline(always)]
pub(crate) fn prefetch(x: &[f32]) {
    for line in x.chunks(16) {
        // SAFETY: a prefetch has no effect but on time, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
}

#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512bf16,avx2,fma")]
fn dots(a: &[[f32; STRIP]], b: &[[f32; PANEL]], out: &mut Sums) {
    let mut sums = [[_mm512_setzero_ps(); 2]; STRIP];
    for (a, b) in a.iter().zip(b) {
        // SAFETY: 32 words are two registers of 16; a `__m512bh` is any 512 bits.
        let b: [__m512bh; 2] = unsafe { std::mem::transmute(*b) };
        for r in 0..STRIP {
            // SAFETY: as above.
            let a: __m512bh = unsafe { std::mem::transmute(_mm512_set1_ps(a[r])) };
            for v in 0..2 {
                sums[r][v] = _mm512_dpbf16_ps(sums[r][v], a, b[v]);
            }
        }
    }
    // SAFETY: a register is 16 f32.
    *out = unsafe { std::mem::transmute::<[[__m512; 2]; STRIP], Sums>(sums) };
}

/// Transposes 8 x 8 elements.
///
/// # Panics
/// If `isa` is [`Isa::PORTABLE`].
#[inline(always)]
pub(crate) fn transpose(isa: Isa, x: &mut [[f32; 8]; 8]) {
    assert!(isa != Isa::PORTABLE, "this instruction set has no registers of 8");
    // SAFETY: every other `Isa` has AVX2.
    unsafe { transpose_avx2(x) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn transpose_avx2(x: &mut [[f32; 8]; 8]) {
    // SAFETY: a register is 8 f32.
    let x_in: [__m256; 8] = unsafe { std::mem::transmute(*x) };
    let mut pairs = x_in;
    for i in 0..4 {
        pairs[2 * i] = _mm256_unpacklo_ps(x_in[2 * i], x_in[2 * i + 1]);
        pairs[2 * i + 1] = _mm256_unpackhi_ps(x_in[2 * i], x_in[2 * i + 1]);
    }
    let mut fours = pairs;
    for i in [0, 4] {
        fours[i] = _mm256_shuffle_ps::<0x44>(pairs[i], pairs[i + 2]);
        fours[i + 1] = _mm256_shuffle_ps::<0xEE>(pairs[i], pairs[i + 2]);
        fours[i + 2] = _mm256_shuffle_ps::<0x44>(pairs[i + 1], pairs[i + 3]);
        fours[i + 3] = _mm256_shuffle_ps::<0xEE>(pairs[i + 1], pairs[i + 3]);
    }
    let mut eights = fours;
    for i in 0..4 {
        eights[i] = _mm256_permute2f128_ps::<0x20>(fours[i], fours[i + 4]);
        eights[i + 4] = _mm256_permute2f128_ps::<0x31>(fours[i], fours[i + 4]);
    }
    // SAFETY: as above.
    *x = unsafe { std::mem::transmute::<[__m256; 8], [[f32; 8]; 8]>(eights) };
}
