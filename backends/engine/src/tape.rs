//! A forward pass that remembers how to go back.
//!
//! A value is a matrix with one row for each token of the batch: row `b * steps + t`. An operation writes its output,
//! keeps what it needs and is asked later, in reverse order, to turn the gradient of its output into those of its inputs.
//! A gradient is written once and added to after that; it is moved, not copied, where an operation passes it on.

use bheval_kernels::Isa;
use bheval_kernels::gemm::Store;
use bheval_kernels::product::Precision;

use crate::parameters::{Gradients, Parameter, Parameters};
use crate::pool::Pool;

/// A matrix on the tape.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Value(usize);

/// What all operations of a pass share.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Setting {
    /// Instruction set.
    pub isa: Isa,
    /// How operands of large products are rounded; sums are f32 in either.
    pub precision: Precision,
    /// Sequences.
    pub batch: usize,
    /// Tokens of each sequence.
    pub steps: usize,
    /// Where dropout draws from, or `None` outside training. A pass has a number of its own.
    pub dropout: Option<u64>,
}

impl Setting {
    /// Tokens of the batch.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.batch * self.steps
    }
}

/// What an operation keeps, and its way back.
pub trait Operation: Send {
    /// Turns the gradient of the output into gradients of the inputs and parameters.
    fn backward(self: Box<Self>, back: &mut Back<'_, '_>);
}

struct Slot {
    width: usize,
    data: Vec<f32>,
    gradient: Option<Vec<f32>>,
}

/// A pass in the making. Buffers come from, and go back to, the pool.
pub struct Tape<'a> {
    /// What all operations share.
    pub setting: Setting,
    parameters: &'a Parameters,
    pool: &'a mut Pool,
    slots: Vec<Slot>,
    /// Each with the first value that is its own: later ones are no longer needed once it has gone back.
    operations: Vec<(usize, Box<dyn Operation>)>,
    recording: bool,
}

impl<'a> Tape<'a> {
    /// A tape that records, for training, or does not, for reading a loss.
    #[must_use]
    pub fn new(setting: Setting, parameters: &'a Parameters, pool: &'a mut Pool, recording: bool) -> Self {
        Self { setting, parameters, pool, slots: vec![], operations: vec![], recording }
    }

    /// Number of values so far: the place of the next one.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // A place, not a size.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether operations need to keep anything.
    #[must_use]
    pub fn recording(&self) -> bool {
        self.recording
    }

    /// The values of a tensor.
    #[must_use]
    pub fn parameter(&self, parameter: Parameter) -> &'a [f32] {
        self.parameters.get(parameter)
    }

    /// The matrix `[rows, width]`, row by row.
    #[must_use]
    pub fn get(&self, value: Value) -> &[f32] {
        &self.slots[value.0].data
    }

    /// Columns of a matrix.
    #[must_use]
    pub fn width(&self, value: Value) -> usize {
        self.slots[value.0].width
    }

    /// A buffer of `len` values, to be written in full.
    #[must_use]
    pub fn buffer(&mut self, len: usize) -> Vec<f32> {
        self.pool.take(len)
    }

    /// A buffer for an output of `width` columns, to be written in full.
    #[must_use]
    pub fn output(&mut self, width: usize) -> Vec<f32> {
        self.pool.take(self.setting.rows() * width)
    }

    /// Takes a buffer back.
    pub fn recycle(&mut self, buffer: Vec<f32>) {
        self.pool.give(buffer);
    }

    /// Puts an output on the tape. `operation` makes what is kept for the way back, and is called only when recording.
    ///
    /// # Panics
    /// If `data` is not a whole number of columns for every row.
    pub fn push<O: Operation + 'static>(
        &mut self,
        data: Vec<f32>,
        operation: impl FnOnce(Value) -> O,
    ) -> Value {
        let rows = self.setting.rows();
        assert!(data.len().is_multiple_of(rows), "an output has ragged rows");
        let value = Value(self.slots.len());
        self.slots.push(Slot { width: data.len() / rows, data, gradient: None });
        if self.recording {
            self.operations.push((value.0, Box::new(operation(value))));
        }
        value
    }

    /// Takes a value out that nothing will read again: the end of a pass without a way back.
    #[must_use]
    pub fn take(&mut self, value: Value) -> Vec<f32> {
        std::mem::take(&mut self.slots[value.0].data)
    }

    /// Goes back from `output`, whose gradient is `gradient [rows, width]`, to all tensors.
    pub fn backward(mut self, output: Value, gradient: Vec<f32>, gradients: &mut Gradients) {
        self.slots[output.0].gradient = Some(gradient);
        while let Some((first, operation)) = self.operations.pop() {
            let mut back = Back { tape: &mut self, gradients };
            operation.backward(&mut back);
            for slot in self.slots.drain(first..) {
                self.pool.give(slot.data);
                slot.gradient.into_iter().for_each(|g| self.pool.give(g));
            }
        }
    }
}

impl Drop for Tape<'_> {
    fn drop(&mut self) {
        for slot in self.slots.drain(..) {
            self.pool.give(slot.data);
        }
    }
}

/// The way back, as an operation sees it.
pub struct Back<'t, 'a> {
    tape: &'t mut Tape<'a>,
    gradients: &'t mut Gradients,
}

impl Back<'_, '_> {
    /// What all operations share.
    #[must_use]
    pub fn setting(&self) -> Setting {
        self.tape.setting
    }

    /// The values of a tensor.
    #[must_use]
    pub fn parameter(&self, parameter: Parameter) -> &[f32] {
        self.tape.parameters.get(parameter)
    }

    /// A matrix of the forward pass: an input of this operation, or its output.
    #[must_use]
    pub fn get(&self, value: Value) -> &[f32] {
        &self.tape.slots[value.0].data
    }

    /// Columns of a matrix.
    #[must_use]
    pub fn width(&self, value: Value) -> usize {
        self.tape.slots[value.0].width
    }

    /// Takes the gradient of this operation's output, or `None` where nothing depended on it.
    #[must_use]
    pub fn gradient(&mut self, output: Value) -> Option<Vec<f32>> {
        self.tape.slots[output.0].gradient.take()
    }

    /// Takes the room for an input's gradient, and says whether to set or to add. [`Back::close`] puts it back.
    #[must_use]
    pub fn open(&mut self, input: Value) -> (Store, Vec<f32>) {
        match self.tape.slots[input.0].gradient.take() {
            Some(gradient) => (Store::Add, gradient),
            None => {
                let len = self.tape.slots[input.0].data.len();
                (Store::Set, self.tape.pool.take(len))
            }
        }
    }

    /// Puts back what [`Back::open`] gave out, written.
    pub fn close(&mut self, input: Value, gradient: Vec<f32>) {
        self.tape.slots[input.0].gradient = Some(gradient);
    }

    /// Passes a whole gradient on to an input: moved where it is the first, added where it is not.
    pub fn pass(&mut self, input: Value, gradient: Vec<f32>) {
        let Some(mut sum) = self.tape.slots[input.0].gradient.take() else {
            return self.close(input, gradient);
        };
        crate::ops::rows::add(&mut sum, &gradient);
        self.tape.pool.give(gradient);
        self.close(input, sum);
    }

    /// Takes the room of a tensor's gradient. [`Back::close_parameter`] puts it back.
    #[must_use]
    pub fn open_parameter(&mut self, parameter: Parameter) -> (Store, Vec<f32>) {
        self.gradients.open(parameter)
    }

    /// Puts back what [`Back::open_parameter`] gave out, written.
    pub fn close_parameter(&mut self, parameter: Parameter, gradient: Vec<f32>) {
        self.gradients.close(parameter, gradient);
    }

    /// A buffer of `len` values, to be written in full.
    #[must_use]
    pub fn buffer(&mut self, len: usize) -> Vec<f32> {
        self.tape.pool.take(len)
    }

    /// Takes a buffer back.
    pub fn recycle(&mut self, buffer: Vec<f32>) {
        self.tape.pool.give(buffer);
    }
}
