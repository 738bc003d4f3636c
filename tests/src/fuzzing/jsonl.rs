//! JSON Lines: rows or an error that is the same whether or not it may quote.

use bheval_data::Error;
use bheval_data::jsonl::{Privacy, RowFault, rows};
use serde::Deserialize;
use serde::de::DeserializeOwned;

#[derive(Deserialize)]
#[allow(dead_code)] // Fields exist to be read.
struct Pair {
    sentence_good: String,
    sentence_bad: String,
    field: Option<String>,
    linguistics_term: Option<String>,
}

/// Reads the bytes as pairs and as any JSON.
///
/// # Panics
/// Where the two privacies disagree, or a protected message quotes.
pub fn jsonl(bytes: &[u8]) {
    both::<Pair>(bytes);
    both::<serde_json::Value>(bytes);
}

fn both<T: DeserializeOwned>(bytes: &[u8]) {
    let open = rows::<T>("x", bytes, Privacy::Open);
    let protected = rows::<T>("x", bytes, Privacy::Protected);
    match (open, protected) {
        (Ok(open), Ok(protected)) => assert_eq!(open.len(), protected.len()),
        (Err(open), Err(protected)) => {
            assert_eq!(place(&open).0, place(&protected).0, "the two name different lines");
            quotes_nothing(place(&protected).1);
        }
        _ => panic!("whether rows can be read depends on their privacy"),
    }
}

fn place(error: &Error) -> (u64, &RowFault) {
    match error {
        Error::Row { line, fault, .. } => (*line, fault),
        other => panic!("an error without a line: {other}"),
    }
}

/// The fixed sentences are all that may be said of a protected row.
fn quotes_nothing(fault: &RowFault) {
    const SAID: [&str; 3] =
        ["the row ends too soon", "not JSON", "a field is missing, unknown or of the wrong type"];
    if let RowFault::Json { what, .. } = fault {
        assert!(SAID.contains(&what.as_str()), "a protected row may be quoted");
    }
}
