//! The first reading of all sources: what documents there are, before one of them is cut.

use std::collections::{BTreeMap, HashSet};

use sha2::{Digest, Sha256};

use crate::Error;
use crate::coverage::domain;
use crate::sources::Source;
use crate::walk::{Effort, Read, walk};

/// The first 16 bytes of the SHA-256 of a document's words with single blanks between them: documents that differ in white
/// space only are the same.
pub(crate) type Content = [u8; 16];

/// A document that was seen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) content: Content,
    pub(crate) words: u32,
    pub(crate) domain: u32,
    pub(crate) source: u32,
}

/// All documents of some sources, in order.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    pub(crate) documents: Vec<Seen>,
    pub(crate) files: Vec<crate::source::Finished>,
}

/// Reads all sources. Numbers of domains are put into `domains` as they come.
pub(crate) fn survey(
    sources: &[Source],
    domains: &mut BTreeMap<String, u32>,
    effort: &Effort,
) -> Result<Survey, Error> {
    let mut documents = Vec::new();
    let work = |read: &Read| Ok(content(&read.document.text));
    let files = walk(
        sources,
        effort,
        |_| true,
        work,
        |read, (content, words)| {
            let name = domain(&sources[read.source], read);
            let next = domains.len() as u32;
            let domain = match domains.get(name) {
                Some(domain) => *domain,
                None => *domains.entry(name.to_owned()).or_insert(next),
            };
            documents.push(Seen { content, words, domain, source: read.source as u32 });
            Ok(())
        },
    )?;
    Ok(Survey { documents, files })
}

/// A document's content, and its words.
pub(crate) fn content(text: &str) -> (Content, u32) {
    let mut hasher = Sha256::new();
    let mut words = 0_u32;
    for word in text.split_whitespace() {
        if words > 0 {
            hasher.update(b" ");
        }
        hasher.update(word);
        words += 1;
    }
    let digest: [u8; 32] = hasher.finalize().into();
    (*digest.first_chunk().expect("a digest is longer"), words)
}

/// Marks the documents whose content was not in `known` yet, and adds it.
pub(crate) fn first_of(documents: &[Seen], known: &mut HashSet<Content>) -> Vec<bool> {
    documents.iter().map(|document| known.insert(document.content)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_the_words() {
        // printf 'a b' | sha256sum
        let expected = "c8687a08aa5d6ed2044328fa6a697ab8";
        let (found, words) = content(" a\n b\t");
        assert_eq!((bheval_data::digest::hex(&found).as_str(), words), (expected, 2));
        assert_ne!(content("ab").0, found);
    }
}
