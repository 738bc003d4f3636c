//! What is trained: named tensors in the layout that Hugging Face (for HGRN2: flash-linear-attention) stores, and their
//! gradients.

use bheval_abi::Failure;
use bheval_kernels::gemm::Store;
use bheval_kernels::random::Numbers;

/// How a tensor starts.
#[derive(Clone, PartialEq, Debug)]
pub enum Init {
    /// All the same value.
    Constant(f32),
    /// Normal with mean 0 and this standard deviation.
    Normal(f32),
    /// Uniform between minus and plus this bound.
    Uniform(f32),
    /// The natural logarithm of uniform numbers between these two: `A_log` of Mamba-2's own package.
    Logarithm(f32, f32),
    /// Mamba's step bias: `softplus⁻¹(max(Δ, floor))`, with `ln Δ` uniform between those of `least` and `most`.
    Steps {
        /// Smallest Δ.
        least: f32,
        /// Largest Δ.
        most: f32,
        /// What smaller ones are raised to.
        floor: f32,
    },
    /// These values: what an architecture's authors compute, such as `A_log`.
    Values(Vec<f32>),
    /// One part after the other, each of its own length and with a start of its own.
    Parts(Vec<(usize, Init)>),
}

impl Init {
    /// The values of a tensor, from a source that belongs to it alone.
    fn draw(&self, len: usize, numbers: &mut Numbers) -> Vec<f32> {
        match self {
            Self::Constant(value) => vec![*value; len],
            Self::Normal(deviation) => numbers.normal(len, *deviation),
            Self::Uniform(bound) => {
                (0..len).map(|_| ((2.0 * numbers.unit() - 1.0) * f64::from(*bound)) as f32).collect()
            }
            Self::Logarithm(low, high) => {
                let (low, high) = (f64::from(*low), f64::from(*high));
                (0..len).map(|_| (low + (high - low) * numbers.unit()).ln() as f32).collect()
            }
            Self::Steps { least, most, floor } => {
                let (least, most) = (f64::from(*least).ln(), f64::from(*most).ln());
                let step = |unit: f64| (least + (most - least) * unit).exp().max(f64::from(*floor));
                // softplus⁻¹(y) = y + ln(1 - e⁻ʸ)
                let bias = |y: f64| (y + (-(-y).exp_m1()).ln()) as f32;
                (0..len).map(|_| bias(step(numbers.unit()))).collect()
            }
            Self::Values(values) => values.clone(),
            Self::Parts(parts) => parts.iter().flat_map(|(len, init)| init.draw(*len, numbers)).collect(),
        }
    }
}

/// A tensor of a model.
#[derive(Clone, PartialEq, Debug)]
pub struct Spec {
    /// Name in the checkpoint.
    pub name: String,
    /// Shape in the checkpoint, row by row.
    pub shape: Vec<usize>,
    /// How it starts.
    pub init: Init,
    /// Whether weight decay applies where the plan leaves norms, biases and the like out.
    pub decay: bool,
}

/// A tensor of the model, by its place among them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parameter(pub(crate) usize);

/// All tensors of a model.
#[derive(Clone, Debug, Default)]
pub struct Parameters {
    specs: Vec<Spec>,
    values: Vec<Vec<f32>>,
}

impl Parameters {
    /// Adds a matrix or embedding, which weight decay applies to.
    pub fn matrix(&mut self, name: impl Into<String>, shape: &[usize], init: Init) -> Parameter {
        self.add(Spec { name: name.into(), shape: shape.to_vec(), init, decay: true })
    }

    /// Adds a norm's weight, a bias or another tensor that weight decay leaves alone by default.
    pub fn vector(&mut self, name: impl Into<String>, shape: &[usize], init: Init) -> Parameter {
        self.add(Spec { name: name.into(), shape: shape.to_vec(), init, decay: false })
    }

    fn add(&mut self, spec: Spec) -> Parameter {
        self.specs.push(spec);
        Parameter(self.specs.len() - 1)
    }

    /// Draws the start of every tensor. Each has a source of its own, so that one more layer leaves the others as they are.
    pub fn initialise(&mut self, seed: u64) {
        let draw = |spec: &Spec| {
            let place = spec
                .name
                .bytes()
                .fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
            spec.init.draw(spec.shape.iter().product(), &mut Numbers::new(place))
        };
        self.values = self.specs.iter().map(draw).collect();
    }

    /// Fills the tensors with what `read` gives for each.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn load(&mut self, mut read: impl FnMut(&Spec) -> Result<Vec<f32>, Failure>) -> Result<(), Failure> {
        self.values = self.specs.iter().map(&mut read).collect::<Result<_, _>>()?;
        Ok(())
    }

    /// The tensors, in order.
    #[must_use]
    pub fn specs(&self) -> &[Spec] {
        &self.specs
    }

    /// Number of trained values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.specs.iter().map(|spec| spec.shape.iter().product::<usize>() as u64).sum()
    }

    /// The values of a tensor, row by row.
    #[must_use]
    pub fn get(&self, parameter: Parameter) -> &[f32] {
        &self.values[parameter.0]
    }

    /// The values of all tensors, to be changed.
    #[must_use]
    pub fn values_mut(&mut self) -> &mut [Vec<f32>] {
        &mut self.values
    }
}

/// The gradients of all tensors. What was not written counts as zero.
#[derive(Clone, Debug, Default)]
pub struct Gradients {
    each: Vec<Vec<f32>>,
    written: Vec<bool>,
}

impl Gradients {
    /// Room for the gradients of `parameters`.
    #[must_use]
    pub fn new(parameters: &Parameters) -> Self {
        let len = |spec: &Spec| spec.shape.iter().product();
        let each: Vec<_> = parameters.specs.iter().map(|spec| vec![0.0; len(spec)]).collect();
        Self { written: vec![false; each.len()], each }
    }

    /// Starts a new step.
    pub fn forget(&mut self) {
        self.written.fill(false);
    }

    /// Takes the room of a tensor's gradient out, and says whether to set or to add. [`Gradients::close`] puts it back.
    pub fn open(&mut self, parameter: Parameter) -> (Store, Vec<f32>) {
        let store = if self.written[parameter.0] { Store::Add } else { Store::Set };
        (store, std::mem::take(&mut self.each[parameter.0]))
    }

    /// Puts back what [`Gradients::open`] gave out, written.
    pub fn close(&mut self, parameter: Parameter, gradient: Vec<f32>) {
        self.each[parameter.0] = gradient;
        self.written[parameter.0] = true;
    }

    /// The gradients in the order of the tensors; zeros where none was written.
    pub fn finish(&mut self) -> &mut [Vec<f32>] {
        for (gradient, written) in self.each.iter_mut().zip(&mut self.written) {
            if !std::mem::replace(written, true) {
                gradient.fill(0.0);
            }
        }
        &mut self.each
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_lie_between_their_bounds_and_fill_them() {
        let softplus = |x: &f32| f64::from(*x).exp().ln_1p();
        let init = Init::Steps { least: 1e-3, most: 0.1, floor: 2e-3 };
        let steps: Vec<f64> = init.draw(4000, &mut Numbers::new(1)).iter().map(softplus).collect();
        assert!(steps.iter().all(|y| (1.999e-3..0.100_01).contains(y)));
        // ln Δ is uniform over ln 100, of which ln 2 lies below the floor and ln 10 above 0.01.
        let share = |range: std::ops::Range<f64>| {
            steps.iter().filter(|y| range.contains(y)).count() as f64 / steps.len() as f64
        };
        assert!((share(0.0..2.001e-3) - 2f64.ln() / 100f64.ln()).abs() < 0.03);
        assert!((share(0.01..1.0) - 0.5).abs() < 0.03);
    }

    #[test]
    fn parts_follow_each_other() {
        let parts = Init::Parts(vec![(2, Init::Constant(1.0)), (100, Init::Logarithm(1.0, 16.0))]);
        let drawn = parts.draw(102, &mut Numbers::new(2));
        assert_eq!((drawn.len(), &drawn[..2]), (102, &[1.0, 1.0][..]));
        assert!(drawn[2..].iter().all(|x| (0.0..16f32.ln()).contains(x)));
    }
}
