//! Chooses the instruction set once and runs a kernel compiled for it. The only place that calls such code.
//!
//! A kernel is ordinary safe Rust that the compiler vectorises. `f32::mul_add` is an exact fused multiply-add
//! everywhere and no sum is reordered, so every instruction set gives the same bits.
#![allow(unsafe_code)]

/// An instruction set that this machine has. Only [`Isa::best`] and [`Isa::available`] make one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Isa {
    set: Set,
    bf16: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Set {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// What any machine has; slow on x86-64, where a fused multiply-add is then a call.
    pub const PORTABLE: Isa = Isa::of(Set::Portable);

    const fn of(set: Set) -> Isa {
        Isa { set, bf16: false }
    }

    /// Everything this machine has, slowest first.
    #[must_use]
    pub fn available() -> Vec<Isa> {
        #[allow(unused_mut)]
        let mut sets = vec![Isa::PORTABLE];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq");
            let bf16 = is_x86_feature_detected!("avx512bf16");
            sets.extend(avx2.then_some(Isa::of(Set::Avx2)));
            sets.extend((avx2 && avx512).then_some(Isa { set: Set::Avx512, bf16 }));
        }
        sets
    }

    /// The widest this machine has.
    #[must_use]
    pub fn best() -> Isa {
        Isa::available().pop().unwrap_or(Isa::PORTABLE)
    }

    /// Whether a register holds 16 `f32` and there are 32 of them.
    #[inline(always)]
    pub fn is_wide(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self.set == Set::Avx512;
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Whether it has dot products of bf16 (`avx512bf16`). Only [`product`](super::product()) uses them; nothing else differs.
    #[must_use]
    pub fn has_bf16(self) -> bool {
        self.bf16
    }

    /// The same without dot products of bf16: to compare, or to get the rounding that every machine has.
    #[must_use]
    pub fn without_bf16(self) -> Isa {
        Isa { bf16: false, ..self }
    }
}

/// Work to be compiled once per instruction set. `run` and what it calls must be `#[inline(always)]`.
pub trait Kernel {
    /// Does the work. `isa` is a constant after inlining, for choosing tile sizes (it never says that it has bf16); it must not change a result.
    fn run(self, isa: Isa);
}

/// Runs `kernel` as compiled for `isa`.
#[inline]
pub fn launch<K: Kernel>(isa: Isa, kernel: K) {
    match isa.set {
        Set::Portable => kernel.run(Isa::PORTABLE),
        // SAFETY: an `Isa` of this set exists only where `Isa::available` detected its features.
        #[cfg(target_arch = "x86_64")]
        Set::Avx2 => unsafe { avx2(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Set::Avx512 => unsafe { avx512(kernel) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<K: Kernel>(kernel: K) {
    kernel.run(Isa::of(Set::Avx2));
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
fn avx512<K: Kernel>(kernel: K) {
    kernel.run(Isa::of(Set::Avx512));
}
