//! The two things the compiler doesn't find by itself on x86-64: dot products of bf16 pairs, and transposing in registers.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::Isa;
use super::gemm::BLOCK;
use super::tile::{PANEL, Place, Rows, STRIP, put};

/// As [`tile::multiply`](super::tile::multiply), each word of `a` and `b` being two bf16.
///
/// # Panics
/// If `isa` has no dot products of bf16.
pub(crate) fn multiply_pairs<C: Rows>(
    isa: Isa,
    a: &[[f32; STRIP]],
    b: &[[f32; PANEL]],
    c: &mut C,
    place: Place,
) {
    assert!(isa.has_bf16(), "this instruction set does not multiply bf16");
    // SAFETY: only `Isa::available`, having detected the features, makes an `Isa` that has bf16.
    unsafe { multiply(a, b, c, place) }
}

#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512bf16,avx2,fma")]
fn multiply<C: Rows>(a: &[[f32; STRIP]], b: &[[f32; PANEL]], c: &mut C, mut place: Place) {
    for (a, b) in a.chunks(BLOCK / 2).zip(b.chunks(BLOCK / 2)) {
        put(&dots(a, b), c, place);
        place.add = true;
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512bf16,avx2,fma")]
fn dots(a: &[[f32; STRIP]], b: &[[f32; PANEL]]) -> [[f32; PANEL]; STRIP] {
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
    unsafe { std::mem::transmute(sums) }
}
