//! What a set of rows holds, in one number that does not depend on how it is packed.
//!
//! A row's key is the SHA-256 of its fields, each followed by a zero byte. A set's content is the SHA-256 over its
//! domains, sorted by name: the name, a zero byte, the number of rows in eight bytes, low byte first, and the keys of the
//! rows, sorted. So neither the order of rows nor other fields, file names or compression count.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::digest::hex;

/// The digest of a row's fields; rows in the order of their keys are in an order that packing can't change.
pub type RowKey = [u8; 32];

/// The key of a row.
pub fn row_key(fields: &[&str]) -> RowKey {
    let mut hasher = Sha256::new();
    for field in fields {
        hasher.update(field);
        hasher.update([0]);
    }
    hasher.finalize().into()
}

/// The content of a set: domains with the keys of their rows, in any order.
pub fn content_sha256(domains: &BTreeMap<&str, Vec<RowKey>>) -> String {
    let mut hasher = Sha256::new();
    for (name, keys) in domains {
        let mut keys = keys.clone();
        keys.sort_unstable();
        hasher.update(name);
        hasher.update([0]);
        hasher.update((keys.len() as u64).to_le_bytes());
        keys.iter().for_each(|key| hasher.update(key));
    }
    hex(&hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(rows: &[&[&str]]) -> String {
        let keys = rows.iter().map(|row| row_key(row)).collect();
        content_sha256(&BTreeMap::from([("d", keys), ("e", vec![])]))
    }

    // python3 -c "from hashlib import sha256 as s; k = sorted(s(r).digest() for r in (b'a\0b\0', b'c\0d\0'));
    // print(s(b'd\0' + (2).to_bytes(8, 'little') + b''.join(k) + b'e\0' + bytes(8)).hexdigest())"
    const TWO_ROWS: &str = "a7aac7d1b1d55559e5ef588c6bc581e7f2b98fbb3654c0abd1585ee58e77c756";

    #[test]
    fn the_order_of_rows_does_not_count_and_everything_else_does() {
        assert_eq!(content(&[&["a", "b"], &["c", "d"]]), TWO_ROWS);
        assert_eq!(content(&[&["c", "d"], &["a", "b"]]), TWO_ROWS);
        let others: [&[&[&str]]; 4] =
            [&[&["a", "b"], &["c", "D"]], &[&["ab", ""], &["c", "d"]], &[&["a", "b"]], &[]];
        for other in others {
            assert_ne!(content(other), TWO_ROWS);
        }
    }
}
