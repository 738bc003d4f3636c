//! Tokenizers: any `tokenizer.json` gives a tokenizer that answers, or an error.

use std::fs;

use bheval_data::encode::Query;
use bheval_data::masked::{MaskedEncoder, Pll};
use bheval_data::protocol::Protocol;
use bheval_data::tokenizer::Tokenizer;

use super::scratch::folder;

const TEXTS: [&str; 4] = ["The cat sat on the mat.", " naïve 猫\u{301}\u{200d}🙂", "", "\0a\n\n  b"];

/// Loads the bytes as a tokenizer and cuts a few texts.
///
/// # Panics
/// Where offsets and ids do not fit together, where something hidden lies outside, and where the reader panics.
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
                assert_eq!(encoding.ids.len(), encoding.words.len());
            }
        }
        Pll::ALL.into_iter().for_each(|pll| masked(&tokenizer, pll, text));
    }
}

/// Whatever a tokenizer makes of a text, what is hidden and where it is read lies inside.
fn masked(tokenizer: &Tokenizer, pll: Pll, text: &str) {
    let Ok(encoder) = MaskedEncoder::new(tokenizer, Protocol::Bheval, pll) else { return };
    for query in [Query::sentence(text).with_answer(1, usize::MAX), Query::after("a", text)] {
        let Ok(request) = encoder.request(&query) else { continue };
        let len = request.ids.len() as u32;
        assert!(request.copies.windows(2).all(|pair| pair[0].target < pair[1].target));
        for copy in &request.copies {
            assert!(copy.target < copy.end && copy.end <= len && copy.read <= copy.target, "{copy:?}");
        }
    }
}
