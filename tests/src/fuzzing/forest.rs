//! Forests through the raw table: a status and a message for what breaks a rule, and for the rest the same bits as
//! scoring each path by itself.
#![allow(unsafe_code)] // Calls over the boundary, as a host makes them; each block states what it relies on.

use std::cell::OnceCell;
use std::fs;
use std::ptr;

use bheval_abi::{
    Dtype, Forest, LOGITS_EXTENSION, Logits, LogitsTable, Message, NO_PARENT, OpenOptions, RawModel, Scores,
    Status, Text,
};
use bheval_candle::HGRN2 as BACKEND;

use super::scratch::folder;
use super::tiny::{self, VOCAB};

/// The most nodes of a forest; enough for blocks of rows to fill.
const NODES: usize = 300;

/// The arrays of a forest as they cross the boundary.
#[derive(Default)]
struct Arrays {
    token: Vec<u32>,
    parent: Vec<u32>,
    wanted: Vec<u8>,
}

/// Scores a forest. The first byte breaks a rule of the call or none, then three bytes are a node.
///
/// # Panics
/// Where the backend panics, lets a broken rule pass, refuses a valid forest, or neighbours change a score.
pub fn forest(bytes: &[u8]) {
    let [broken, nodes @ ..] = bytes else { return };
    let arrays = Arrays::read(nodes);
    MODEL.with(|model| {
        let model = model.get_or_init(TinyModel::open);
        if broken % 8 == 1 {
            return model.broken_call(&arrays, broken / 8);
        }
        let (status, text, scores) = model.score(&arrays);
        if arrays.are_valid() {
            assert_eq!(status, Status::OK, "{text}");
            model.agrees_with_single_paths(&arrays, &scores);
        } else {
            assert!(status == Status::BAD_INPUT && !text.is_empty(), "{}: {text}", status.name());
        }
        model.logits(&arrays);
    });
}

impl Arrays {
    /// Token, parent as a distance, and flags that make the node wanted, its token huge or its parent any number.
    fn read(bytes: &[u8]) -> Self {
        let mut arrays = Self::default();
        for (node, &[token, parent, flags]) in bytes.as_chunks::<3>().0.iter().take(NODES).enumerate() {
            let huge = flags & 0x3e == 0x2a;
            arrays.token.push(if huge { u32::from(token) << 24 | VOCAB } else { u32::from(token) % VOCAB });
            arrays.parent.push(match (flags >> 6, u32::from(parent)) {
                (0, _) => (node as u32).wrapping_sub(1),
                (1 | 2, distance) => (node as u32).checked_sub(distance % 16 + 1).unwrap_or(NO_PARENT),
                (_, any) => any << 2 >> (any % 4),
            });
            arrays.wanted.push(flags & 1 | (flags & 0x10));
        }
        arrays
    }

    fn are_valid(&self) -> bool {
        (0..self.token.len()).all(|node| {
            let parent = self.parent[node];
            let root = parent == NO_PARENT;
            self.token[node] < VOCAB
                && (root || (parent as usize) < node)
                && !(root && self.wanted[node] != 0)
        })
    }

    fn raw(&self) -> Forest {
        Forest {
            size: size_of::<Forest>(),
            len: self.token.len(),
            token: self.token.as_ptr(),
            parent: self.parent.as_ptr(),
            wanted: self.wanted.as_ptr(),
        }
    }

    /// The path to a node as a forest of its own, the node alone wanted.
    fn path(&self, node: usize) -> Self {
        let mut tokens = vec![self.token[node]];
        let mut above = self.parent[node];
        while above != NO_PARENT {
            tokens.push(self.token[above as usize]);
            above = self.parent[above as usize];
        }
        tokens.reverse();
        let last = tokens.len() - 1;
        Self {
            parent: (0..tokens.len() as u32).map(|i| i.checked_sub(1).unwrap_or(NO_PARENT)).collect(),
            wanted: (0..tokens.len()).map(|i| u8::from(i == last)).collect(),
            token: tokens,
        }
    }
}

/// A model of the linked table; closed with its thread.
struct TinyModel {
    raw: *mut RawModel,
}

thread_local! {
    static MODEL: OnceCell<TinyModel> = const { OnceCell::new() };
}

impl TinyModel {
    fn open() -> Self {
        let folder = folder("forest");
        let config = serde_json::Value::Object(tiny::config()).to_string();
        fs::write(folder.join("config.json"), config).expect("the temporary folder can be written");
        fs::write(folder.join("model.safetensors"), tiny::file(&tiny::tensors()))
            .expect("the temporary folder can be written");
        let options = OpenOptions {
            size: size_of::<OpenOptions<'_>>(),
            path: Text::new(folder.to_str().expect("temporary folders have plain names")),
            threads: 1,
            dtype: Dtype::F32,
            memory: 1 << 20,
        };
        let mut raw = ptr::null_mut();
        let open = BACKEND.open.expect("the table is whole");
        // SAFETY: options and result are valid for the length of the call.
        let (status, text) = told(|message| unsafe { open(&raw const options, &raw mut raw, message) });
        assert_eq!(status, Status::OK, "{text}");
        Self { raw }
    }

    fn score(&self, arrays: &Arrays) -> (Status, String, Vec<f32>) {
        let mut values = vec![f32::NAN; arrays.token.len()];
        let (status, text) = self.score_into(&arrays.raw(), &mut values);
        (status, text, values)
    }

    fn score_into(&self, forest: &Forest, values: &mut [f32]) -> (Status, String) {
        let mut scores =
            Scores { size: size_of::<Scores>(), log_prob: values.as_mut_ptr(), len: values.len(), fed: 0 };
        let score = BACKEND.score.expect("the table is whole");
        // SAFETY: an opened model; arrays are as long as they say, or null, and live through the call.
        told(|message| unsafe { score(self.raw, ptr::from_ref(forest), &raw mut scores, message) })
    }

    fn agrees_with_single_paths(&self, arrays: &Arrays, scores: &[f32]) {
        let mut checked = 0;
        for (node, &score) in scores.iter().enumerate() {
            if arrays.wanted[node] == 0 {
                assert!(score.is_nan(), "node {node} was not asked for and got {score}");
                continue;
            }
            assert!(score.is_finite() && score <= 1e-4, "node {node} got {score}");
            // A few suffice: the twin feeds each path anew, which is quadratic.
            if checked < 12 {
                let (status, text, alone) = self.score(&arrays.path(node));
                assert_eq!(status, Status::OK, "{text}");
                assert_eq!(alone.last().map(|x| x.to_bits()), Some(score.to_bits()), "node {node}");
            }
            checked += 1;
        }
    }

    fn broken_call(&self, arrays: &Arrays, how: u8) {
        let mut forest = arrays.raw();
        let mut values = vec![f32::NAN; arrays.token.len()];
        match how % 6 {
            0 => forest.token = ptr::null(),
            1 => forest.parent = ptr::null(),
            2 => forest.wanted = ptr::null(),
            3 => forest.size = usize::from(how) % size_of::<Forest>(),
            4 => forest.len = 0,
            _ => values.push(0.0),
        }
        if how % 6 < 3 && arrays.token.is_empty() {
            return;
        }
        let (status, text) = self.score_into(&forest, &mut values);
        let nothing_to_do = forest.len == 0 && values.is_empty() && how % 6 == 4;
        assert_eq!(status, if nothing_to_do { Status::OK } else { Status::BAD_INPUT }, "{text}");
        assert!(values.iter().take(arrays.token.len()).all(|x| x.is_nan()));
    }

    fn logits(&self, arrays: &Arrays) {
        let extension = BACKEND.extension.expect("the table is whole");
        // SAFETY: the id is readable text, and it names the type of the table.
        let table = unsafe { extension(Text::new(LOGITS_EXTENSION)).cast::<LogitsTable>().as_ref() };
        let logits = table.and_then(|table| table.logits).expect("the backend offers logits");
        let rows = arrays.wanted.iter().filter(|&&wanted| wanted != 0).count();
        let mut data = vec![f32::NAN; rows * VOCAB as usize];
        let mut out = Logits { size: size_of::<Logits>(), data: data.as_mut_ptr(), len: data.len() };
        let forest = arrays.raw();
        let (status, text) =
            // SAFETY: as in `score_into`.
            told(|message| unsafe { logits(self.raw, &raw const forest, &raw mut out, message) });
        match status {
            Status::OK => assert!(data.iter().all(|x| x.is_finite())),
            _ => assert!(status == Status::BAD_INPUT && !text.is_empty(), "{}: {text}", status.name()),
        }
    }
}

impl Drop for TinyModel {
    fn drop(&mut self) {
        if let Some(close) = BACKEND.close {
            // SAFETY: opened by this table and closed once.
            unsafe { close(self.raw) }
        }
    }
}

fn told(call: impl FnOnce(*mut Message) -> Status) -> (Status, String) {
    let mut buffer = [0; 512];
    let mut message = Message::over(&mut buffer);
    let status = call(&raw mut message);
    let length = message.len;
    (status, String::from_utf8(buffer[..length].to_vec()).expect("messages are UTF-8"))
}
