//! Tokenizers: any `tokenizer.json` gives a tokenizer that answers, or an error.

use std::fs;

use bheval_data::tokenizer::Tokenizer;

use super::scratch::folder;

const TEXTS: [&str; 4] = ["The cat sat on the mat.", " naïve 猫\u{301}\u{200d}🙂", "", "\0a\n\n  b"];

/// Loads the bytes as a tokenizer and cuts a few texts.
///
/// # Panics
/// Where offsets and ids do not fit together, and where the reader panics.
pub fn tokenizer(bytes: &[u8]) {
    let folder = folder("tokenizer");
    fs::write(folder.join("tokenizer.json"), bytes).expect("the temporary folder can be written");
    let tokenizer = match Tokenizer::load(&folder) {
        Ok(tokenizer) => tokenizer,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let _ = (tokenizer.vocab(), tokenizer.piece(0), tokenizer.piece(u32::MAX));
    for text in TEXTS {
        let _ = tokenizer.ids(text);
        for special in [false, true] {
            if let Ok(encoding) = tokenizer.encode(text, special) {
                assert_eq!(encoding.ids.len(), encoding.offsets.len());
                assert_eq!(encoding.ids.len(), encoding.special.len());
            }
        }
    }
}
