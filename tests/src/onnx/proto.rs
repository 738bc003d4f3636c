//! ONNX files, written field by field as `onnx.proto3` numbers them.

/// A field that holds bytes: a text, a message, packed numbers.
#[must_use]
pub fn field(number: u64, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    [&varint(number << 3 | 2), &varint(bytes.len() as u64), bytes].concat()
}

/// A field that holds a whole number.
#[must_use]
pub fn number(number: u64, value: u64) -> Vec<u8> {
    [varint(number << 3), varint(value)].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// A `TensorProto`.
#[derive(Clone, Debug, Default)]
pub struct Tensor {
    /// Name.
    pub name: String,
    /// `DataType`: 1 is f32, 7 is i64, 10 is f16.
    pub kind: u64,
    /// Dimensions.
    pub dims: Vec<u64>,
    /// Values, unless they are external.
    pub raw: Vec<u8>,
    /// Entries of `external_data`; with any, the tensor is marked as external.
    pub external: Vec<(String, String)>,
}

impl Tensor {
    /// An f32 tensor with its values.
    #[must_use]
    pub fn f32(name: &str, dims: &[u64], values: &[f32]) -> Self {
        let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { name: name.into(), kind: 1, dims: dims.to_vec(), raw, external: Vec::new() }
    }

    /// The same with its values in another file.
    #[must_use]
    pub fn external(mut self, entries: &[(&str, &str)]) -> Self {
        self.raw.clear();
        self.external = entries.iter().map(|&(k, v)| (k.into(), v.into())).collect();
        self
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut out: Vec<u8> = self.dims.iter().flat_map(|&d| number(1, d)).collect();
        out.extend(number(2, self.kind));
        out.extend(field(8, &self.name));
        for (key, value) in &self.external {
            out.extend(field(13, [field(1, key), field(2, value)].concat()));
        }
        out.extend(if self.external.is_empty() { field(9, &self.raw) } else { number(14, 1) });
        out
    }
}

/// A `ValueInfoProto`: an input or output. A negative dimension is open.
#[derive(Clone, Debug)]
pub struct Value {
    /// Name.
    pub name: String,
    /// `DataType`.
    pub kind: u64,
    /// Dimensions.
    pub dims: Vec<i64>,
}

impl Value {
    /// A value of this name, number format and shape.
    #[must_use]
    pub fn new(name: &str, kind: u64, dims: &[i64]) -> Self {
        Self { name: name.into(), kind, dims: dims.to_vec() }
    }

    fn bytes(&self) -> Vec<u8> {
        let dim = |(i, &d): (usize, &i64)| match u64::try_from(d) {
            Ok(size) => field(1, number(1, size)),
            Err(_) => field(1, field(2, format!("open{i}"))),
        };
        let shape: Vec<u8> = self.dims.iter().enumerate().flat_map(dim).collect();
        let tensor = [number(1, self.kind), field(2, shape)].concat();
        [field(1, &self.name), field(2, field(1, tensor))].concat()
    }
}

/// An attribute of a node.
#[derive(Clone, Debug)]
pub enum Attribute {
    /// A whole number.
    Int(&'static str, u64),
    /// Anything else: number of the field in `AttributeProto`, its type, and the field's bytes.
    Other(&'static str, u64, u64, Vec<u8>),
}

impl Attribute {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Attribute::Int(name, value) => [field(1, name), number(3, *value), number(20, 2)].concat(),
            Attribute::Other(name, at, kind, bytes) => {
                [field(1, name), field(*at, bytes), number(20, *kind)].concat()
            }
        }
    }
}

/// A `ModelProto` with one graph.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// Inputs.
    pub inputs: Vec<Value>,
    /// Outputs.
    pub outputs: Vec<Value>,
    /// Initialisers.
    pub tensors: Vec<Tensor>,
    /// Nodes, as bytes.
    pub nodes: Vec<Vec<u8>>,
}

impl Model {
    /// Logits that depend on the token alone: row `i` of `table` follows token `i`. Both the number format of the ids and
    /// that of the table are the caller's.
    #[must_use]
    pub fn bigram(table: Tensor, ids: u64) -> Self {
        let vocab = table.dims[1] as i64;
        let mut model = Self {
            inputs: vec![Value::new("input_ids", ids, &[-1, -1])],
            outputs: vec![Value::new("logits", table.kind, &[-1, -1, vocab])],
            ..Self::default()
        };
        model.node("Gather", &[&table.name, "input_ids"], "logits", &[Attribute::Int("axis", 0)]);
        model.tensors.push(table);
        model
    }

    /// Adds a node.
    pub fn node(&mut self, op: &str, inputs: &[&str], output: &str, attributes: &[Attribute]) {
        let mut bytes: Vec<u8> = inputs.iter().flat_map(|i| field(1, i)).collect();
        bytes.extend([field(2, output), field(4, op)].concat());
        bytes.extend(attributes.iter().flat_map(|a| field(5, a.bytes())));
        self.nodes.push(bytes);
    }

    /// Bytes of the graph.
    #[must_use]
    pub fn graph(&self) -> Vec<u8> {
        let mut graph: Vec<u8> = self.nodes.iter().flat_map(|n| field(1, n)).collect();
        graph.extend(field(2, "made by hand"));
        graph.extend(self.tensors.iter().flat_map(|t| field(5, t.bytes())));
        graph.extend(self.inputs.iter().flat_map(|v| field(11, v.bytes())));
        graph.extend(self.outputs.iter().flat_map(|v| field(12, v.bytes())));
        graph
    }

    /// Bytes of the file.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        // Version 8 of the format, operators of version 17: what the golden files have.
        [number(1, 8), field(8, [field(1, ""), number(2, 17)].concat()), field(7, self.graph())].concat()
    }
}
