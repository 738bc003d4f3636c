//! Text fields of a row of JSON, without building the rest of it: a row of millions of small values takes no memory.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::Fault;

/// Names of fields that a message lists.
const LISTED: usize = 8;

/// The text of a field, or of a field within fields (`a.b`); one whose own name has full stops comes first. Where a name
/// occurs more than once, the last one counts, as in other readers.
pub(super) fn field(row: &str, path: &str) -> Result<String, Fault> {
    let parts: Vec<_> = path.split('.').collect();
    let mut found = Found::default();
    let mut reader = serde_json::Deserializer::from_str(row);
    let search = Search { whole: Some(path), parts: &parts, found: &mut found };
    search.deserialize(&mut reader).and_then(|()| reader.end()).map_err(|e| {
        let what = e.to_string();
        let what = what.rsplit_once(" at line ").map_or(what.clone(), |(what, _)| what.to_owned());
        Fault::Json { column: e.column(), what }
    })?;
    let field = path.to_owned();
    match found.whole.or(found.inner) {
        Some(Leaf::Text(text)) => Ok(text),
        Some(Leaf::Other) => Err(Fault::NoText { field }),
        None => Err(Fault::NoField { field, has: found.names }),
    }
}

/// What a search came upon.
#[derive(Default)]
struct Found {
    /// The field whose own name is the path.
    whole: Option<Leaf>,
    /// The field at the end of the path.
    inner: Option<Leaf>,
    /// The first names where the search went last.
    names: Vec<String>,
}

enum Leaf {
    Text(String),
    Other,
}

/// Goes down a path of fields.
struct Search<'a> {
    /// The path as one name, at the top.
    whole: Option<&'a str>,
    parts: &'a [&'a str],
    found: &'a mut Found,
}

impl<'de> DeserializeSeed<'de> for Search<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<(), D::Error> {
        value.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Search<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((next, rest)) = self.parts.split_first() else { return drain_map(map) };
        self.found.names.clear();
        let mut names = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if self.whole == Some(name.as_str()) {
                self.found.whole = Some(map.next_value_seed(ReadLeaf)?);
            } else if name == *next && rest.is_empty() {
                self.found.inner = Some(map.next_value_seed(ReadLeaf)?);
            } else if name == *next {
                self.found.inner = None;
                map.next_value_seed(Search { whole: None, parts: rest, found: self.found })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
            if names.len() < LISTED {
                names.push(format!("`{}`", name.chars().take(40).collect::<String>()));
            }
        }
        if self.found.names.is_empty() {
            self.found.names = names;
        }
        Ok(())
    }

    // What is no object has no fields.
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<(), A::Error> {
        drain_seq(seq)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
}

/// Reads a value that should be text.
struct ReadLeaf;

impl<'de> DeserializeSeed<'de> for ReadLeaf {
    type Value = Leaf;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<Leaf, D::Error> {
        value.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ReadLeaf {
    type Value = Leaf;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Leaf, E> {
        Ok(Leaf::Text(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Leaf, E> {
        Ok(Leaf::Text(text))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Leaf, A::Error> {
        drain_map(map).map(|()| Leaf::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Leaf, A::Error> {
        drain_seq(seq).map(|()| Leaf::Other)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Leaf, E> {
        Ok(Leaf::Other)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Leaf, E> {
        Ok(Leaf::Other)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Leaf, E> {
        Ok(Leaf::Other)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Leaf, E> {
        Ok(Leaf::Other)
    }

    fn visit_unit<E: Error>(self) -> Result<Leaf, E> {
        Ok(Leaf::Other)
    }
}

fn drain_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<(), A::Error> {
    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(())
}

fn drain_seq<'de, A: SeqAccess<'de>>(mut seq: A) -> Result<(), A::Error> {
    while seq.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// The slow twin: the whole row as a tree.
    fn by_tree(row: &str, path: &str) -> Option<Option<String>> {
        let row: Value = serde_json::from_str(row).ok()?;
        let inner = path.split('.').try_fold(&row, |value, name| value.get(name));
        let found = row.get(path).or(inner);
        Some(found.and_then(Value::as_str).map(str::to_owned))
    }

    #[test]
    fn the_last_of_equal_names_counts() {
        for (row, text) in
            [("{\"a\": {\"b\": \"x\"}, \"a\": 1}", None), ("{\"a\": 1, \"a\": {\"b\": \"x\"}}", Some("x"))]
        {
            assert_eq!(field(row, "a.b").ok().as_deref(), text);
            assert_eq!(by_tree(row, "a.b").flatten().as_deref(), text);
        }
    }

    #[test]
    fn millions_of_small_values_are_passed_over() {
        let row = format!("{{\"a\": [{}0], \"text\": \"t\"}}", "0,".repeat(1_000_000));
        assert_eq!(field(&row, "text").ok().as_deref(), Some("t"));
    }

    proptest! {
        #[test]
        fn agrees_with_the_tree(
            row in "(\\{(\"(a|b|a\\.b)\": ?(\"[x\\\\n]{0,2}\"|1|-2\\.5|null|true|\\[1\\]|\\{\"b\": (\"in\"|3|\\{\\})\\}),?){0,3}\\}|[\\[\\]{}\"a:,]{0,9})",
            path in "a|b|a\\.b",
        ) {
            let found = field(&row, &path);
            match by_tree(&row, &path) {
                None => prop_assert!(matches!(found, Err(Fault::Json { .. })), "{row}"),
                Some(text) => prop_assert_eq!(found.ok(), text, "{}", row),
            }
        }
    }
}
