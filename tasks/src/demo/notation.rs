//! Two sentences written as one: `The cat [sleeps|sleep].` A pair is minimal by how it is written, and is read at a
//! glance. Spaces go inside the brackets where a side may be empty: `has[ not|] ever`.

/// The sentence with what stands before each bar, and the one with what stands behind it.
pub(super) fn sides(pattern: &str) -> [String; 2] {
    [side(pattern, 1), side(pattern, 2)]
}

/// Splitting at the three signs gives common text, first choice, second choice, common text, and so on.
fn side(pattern: &str, choice: usize) -> String {
    let parts = pattern.split(['[', '|', ']']).enumerate();
    parts.filter(|(i, _)| i % 3 == 0 || i % 3 == choice).map(|(_, part)| part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_takes_its_choices() {
        let [good, bad] = sides("He who has[| not] left has[ not|] ever [sung|sang].");
        assert_eq!(good, "He who has left has not ever sung.");
        assert_eq!(bad, "He who has not left has ever sang.");
    }
}
