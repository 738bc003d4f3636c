//! Random numbers: a counter through SplitMix64, the same on every machine.

/// A reproducible source.
#[derive(Clone, Debug)]
pub struct Numbers(u64);

impl Numbers {
    /// The source that `seed` stands for.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number from 0 (included) to 1 (excluded).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// `n` normal numbers with this standard deviation.
    pub fn normal(&mut self, n: usize, deviation: f32) -> Vec<f32> {
        let one = |s: &mut Self| {
            let radius = (-2.0 * (1.0 - s.unit()).ln()).sqrt();
            (radius * (std::f64::consts::TAU * s.unit()).cos()) as f32 * deviation
        };
        (0..n).map(|_| one(self)).collect()
    }
}
