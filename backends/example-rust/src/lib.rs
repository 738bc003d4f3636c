//! A backend of bheval to start from: a bigram model read from `counts.txt`.
//!
//! p(t | s) = (c(s, t) + K p(t)) / (c(s) + K), with p(t) = (c(t) + 1) / (N + V): counts smoothed towards the unigram,
//! and that towards a uniform distribution (MacKay and Peto 1995, "A hierarchical Dirichlet language model").
//!
//! To make it yours, change `Bigram`: its name, how it opens, and `log_prob`. `bheval verify` says whether it still keeps
//! the contract.

use bheval_abi::{
    Dtype, Failure, ForestView, Info, Kind, LanguageModel, LogitsTable, Opening, Status, logits_table,
};

/// Weight of the unigram, as a number of tokens.
const K: f64 = 4.0;
/// Largest vocabulary: the counts are a table of `vocab` squared.
const VOCAB: usize = 4096;

static LOGITS: LogitsTable = logits_table::<Bigram>();

struct Bigram {
    info: Info,
    /// `pair[s * vocab + t]`: how often `t` followed `s`.
    pair: Vec<u32>,
    /// How often anything followed `s`.
    before: Vec<u64>,
    /// How often `t` followed anything.
    after: Vec<u64>,
    total: u64,
}

impl LanguageModel for Bigram {
    const NAME: &'static str = "mine";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const FOREST: bool = true;
    const LOGITS: Option<&'static LogitsTable> = Some(&LOGITS);

    fn open(options: &Opening) -> Result<Self, Failure> {
        if options.dtype != Dtype::F32 {
            return Err(Failure::new(Status::UNSUPPORTED, "counts have one number format; ask for f32"));
        }
        let path = options.path.join("counts.txt");
        let text = std::fs::read_to_string(&path)
            .map_err(|e| Failure::model(format!("{} can't be read: {e}", path.display())))?;
        Self::read(&text).map_err(|reason| Failure::model(format!("{}: {reason}", path.display())))
    }

    fn info(&self) -> &Info {
        &self.info
    }

    fn score(&mut self, forest: ForestView<'_>, log_prob: &mut [f32]) -> Result<u64, Failure> {
        forest.check_tokens(self.info.vocab)?;
        forest.check_causal()?;
        for node in (0..forest.len()).filter(|&node| forest.is_wanted(node)) {
            if let Some(parent) = forest.parent_of(node) {
                log_prob[node] = self.log_prob(forest.token[parent], forest.token[node]);
            }
        }
        Ok(forest.len() as u64)
    }

    fn logits(&mut self, forest: ForestView<'_>, out: &mut [f32]) -> Result<(), Failure> {
        forest.check_tokens(self.info.vocab)?;
        let wanted = (0..forest.len()).filter(|&node| forest.is_wanted(node));
        for (node, row) in wanted.zip(out.chunks_exact_mut(self.info.vocab as usize)) {
            for (token, logit) in (0..).zip(row) {
                *logit = self.log_prob(forest.token[node], token);
            }
        }
        Ok(())
    }
}

impl Bigram {
    /// Reads a line `vocab N`, then lines `previous token count`. Empty lines and those that begin with `#` are passed
    /// over.
    fn read(text: &str) -> Result<Self, String> {
        let mut lines = (1..).zip(text.lines()).filter(|(_, l)| !l.trim().is_empty() && !l.starts_with('#'));
        let head = lines.next().and_then(|(_, line)| line.strip_prefix("vocab ")?.trim().parse().ok());
        let vocab: usize = head
            .filter(|vocab| (2..=VOCAB).contains(vocab))
            .ok_or_else(|| format!("the first line is `vocab N`, with N from 2 to {VOCAB}"))?;
        let mut model = Self::empty(vocab);
        for (number, line) in lines {
            let fields: Option<Vec<u32>> = line.split_whitespace().map(|field| field.parse().ok()).collect();
            match fields.as_deref() {
                Some(&[previous, token, count])
                    if (previous as usize) < vocab && (token as usize) < vocab =>
                {
                    model.add(previous as usize, token as usize, count).ok_or_else(|| {
                        format!("line {number}: the counts of a pair add up to 2^32 or more")
                    })?;
                }
                _ => return Err(format!("line {number} is not `previous token count`, ids below {vocab}")),
            }
        }
        Ok(model)
    }

    fn empty(vocab: usize) -> Self {
        let info = Info {
            vocab: vocab as u32,
            context: 0,
            nodes: 65_536,
            kind: Kind::CAUSAL,
            parameters: 0,
            architecture: "bigram".to_owned(),
            dtype: "f32".to_owned(),
        };
        let (pair, before, after) = (vec![0; vocab * vocab], vec![0; vocab], vec![0; vocab]);
        Self { info, pair, before, after, total: 0 }
    }

    /// Counts a pair; `None` where that is more than there is room for.
    fn add(&mut self, previous: usize, token: usize, count: u32) -> Option<()> {
        let pair = &mut self.pair[previous * self.info.vocab as usize + token];
        self.info.parameters += u64::from(*pair == 0 && count > 0);
        *pair = pair.checked_add(count)?;
        self.before[previous] += u64::from(count);
        self.after[token] += u64::from(count);
        self.total += u64::from(count);
        Some(())
    }

    /// `ln p(token | previous)`.
    fn log_prob(&self, previous: u32, token: u32) -> f32 {
        let (s, t, vocab) = (previous as usize, token as usize, self.info.vocab as usize);
        let unigram = (self.after[t] as f64 + 1.0) / (self.total as f64 + vocab as f64);
        let pair = f64::from(self.pair[s * vocab + t]);
        (((pair + K * unigram) / (self.before[s] as f64 + K)).ln() as f32).min(0.0)
    }
}

bheval_abi::export!(Bigram);
