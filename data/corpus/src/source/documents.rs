//! From lines of text to documents: an empty line ends one, and so does reaching a number of words, where that is asked for.

/// Lines of a text put together to documents.
#[derive(Debug)]
pub(super) struct Gather {
    /// Words after which a document is cut at the line's end.
    cut: Option<u64>,
    limit: usize,
    text: String,
    /// The line that the document begins at.
    line: u64,
    words: u64,
}

/// A document would be longer than allowed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl Gather {
    pub(super) fn new(cut: Option<u64>, limit: usize) -> Self {
        Self { cut, limit, text: String::new(), line: 0, words: 0 }
    }

    /// Adds a line; gives the document that it ends, with the number of its first line.
    pub(super) fn push(&mut self, line: &str, number: u64) -> Result<Option<(u64, String)>, TooLong> {
        if line.trim().is_empty() {
            return Ok(self.take());
        }
        if self.text.is_empty() {
            self.line = number;
        } else {
            self.text.push('\n');
        }
        if self.text.len() + line.len() > self.limit {
            return Err(TooLong);
        }
        self.text.push_str(line);
        self.words += line.split_whitespace().count() as u64;
        let full = self.cut.is_some_and(|cut| self.words >= cut);
        Ok(full.then(|| self.take()).flatten())
    }

    /// The document that is open, at the end of the text.
    pub(super) fn take(&mut self) -> Option<(u64, String)> {
        self.words = 0;
        (!self.text.is_empty()).then(|| (self.line, std::mem::take(&mut self.text)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn documents(text: &str, cut: Option<u64>) -> Vec<(u64, String)> {
        let mut gather = Gather::new(cut, 1000);
        let mut all: Vec<_> =
            text.lines().zip(1..).filter_map(|(line, number)| gather.push(line, number).unwrap()).collect();
        all.extend(gather.take());
        all
    }

    fn texts(text: &str, cut: Option<u64>) -> Vec<String> {
        documents(text, cut).into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn empty_lines_end_documents() {
        let found = documents("\n\na b\n c\n\n \t\nd\n\n", None);
        assert_eq!(found, [(3, "a b\n c".to_owned()), (7, "d".to_owned())]);
        assert!(documents("\n \n", None).is_empty());
    }

    #[test]
    fn long_documents_are_cut_at_line_ends_where_asked() {
        assert_eq!(texts("a b\nc\nd e\nf\n\ng", Some(3)), ["a b\nc", "d e\nf", "g"]);
        assert_eq!(texts("a b c d\ne", Some(3)), ["a b c d", "e"]);
    }

    #[test]
    fn the_limit_is_exact() {
        let mut gather = Gather::new(None, 5);
        assert_eq!(gather.push("abc", 1), Ok(None));
        assert_eq!(gather.push("d", 2), Ok(None));
        assert_eq!(gather.take(), Some((1, "abc\nd".to_owned())));
        assert_eq!(gather.push("abc", 3), Ok(None));
        assert_eq!(gather.push("de", 4), Err(TooLong));
    }

    proptest! {
        /// The same as splitting the whole text at its blank lines.
        #[test]
        fn agrees_with_splitting_the_whole(text in "[ab \n]{0,60}") {
            let blank = |l: &&str| l.trim().is_empty();
            let lines: Vec<_> = text.lines().collect();
            let expected: Vec<_> =
                lines.split(blank).filter(|d| !d.is_empty()).map(|d| d.join("\n")).collect();
            prop_assert_eq!(texts(&text, None), expected);
        }

        /// Cutting drops nothing but line ends.
        #[test]
        fn cutting_keeps_every_word(text in "[ab \n]{0,80}", cut in 1_u64..5) {
            let words = |t: &[String]| t.iter().flat_map(|t| t.split_whitespace()).map(str::to_owned).collect::<Vec<_>>();
            prop_assert_eq!(words(&texts(&text, Some(cut))), words(&texts(&text, None)));
        }
    }
}
