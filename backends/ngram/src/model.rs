//! A model in memory: a trie of n-grams, each with its probability, its back-off weight and its suffix.
//!
//! Probabilities are kept as they are and not as logarithms: rounding a probability p to f32 moves ln p by 6e-8, rounding
//! ln p itself by up to 1e-6. They multiply in f64, and one logarithm is taken at the end.

/// The n-grams of one order, sorted by the words from the first to the last: children of one context lie together.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Level {
    /// Last word of each n-gram. Empty for unigrams, whose index is their word.
    pub(crate) word: Vec<u32>,
    /// `p(last word | the words before it)`, all lower orders interpolated.
    pub(crate) prob: Vec<f32>,
    /// b: what lower orders weigh after this context where it has no such child. Empty in the highest order.
    pub(crate) backoff: Vec<f32>,
    /// Index, one order below, of the n-gram without its first word. Empty for unigrams and in the highest order.
    pub(crate) suffix: Vec<u32>,
    /// Index, one order above, of the first child; one more at the end. Empty in the highest order.
    pub(crate) child: Vec<u32>,
}

/// An interpolated back-off model. Every id of the vocabulary has a positive probability in every context.
#[derive(Clone, Debug, PartialEq)]
pub struct NgramModel {
    pub(crate) vocab: u32,
    /// Unigrams first; as many as the order.
    pub(crate) levels: Vec<Level>,
}

/// A context as the model sees it: the longest suffix of what was read that any n-gram continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Its words, 0 for the empty context.
    order: u32,
    /// Its index among the n-grams of its order.
    index: u32,
}

impl State {
    /// Nothing was read.
    pub const EMPTY: State = State { order: 0, index: 0 };
}

impl NgramModel {
    /// Number of ids; each of them has a probability.
    #[must_use]
    pub fn vocab(&self) -> u32 {
        self.vocab
    }

    /// The order N: a token is predicted from the N-1 before it.
    #[must_use]
    pub fn order(&self) -> u32 {
        self.levels.len() as u32
    }

    /// Number of n-grams of each order, unigrams first: one for each id.
    #[must_use]
    pub fn ngrams(&self) -> Vec<u64> {
        self.levels.iter().map(|level| level.prob.len() as u64).collect()
    }

    /// `p(token | context)` and the context that follows. `token` must be below the vocabulary.
    ///
    /// Where the context has no child `token`, its shorter forms are asked, each at the price of a back-off weight:
    /// p(w|c) = b(c) p(w|c') (Heafield et al. 2013, equation 2).
    #[must_use]
    pub fn step(&self, context: State, token: u32) -> (f64, State) {
        let (mut at, mut weight) = (context, 1.0);
        let found = loop {
            match self.child(at, token) {
                Some(found) => break found,
                None => (at, weight) = (self.shorter(at), weight * self.backoff(at)),
            }
        };
        let p = weight * f64::from(self.levels[at.order as usize].prob[found as usize]);
        (p, self.following(at, found, token))
    }

    /// `ln p(id | context)` of every id: the very bits that [`NgramModel::step`] leads to.
    pub fn log_probs(&self, context: State, row: &mut [f32]) {
        let (mut at, mut weight) = (context, 1.0);
        let mut chain = Vec::with_capacity(self.levels.len());
        while at.order > 0 {
            chain.push((at, weight));
            (at, weight) = (self.shorter(at), weight * self.backoff(at));
        }
        for (out, &p) in row.iter_mut().zip(&self.levels[0].prob) {
            *out = (weight * f64::from(p)).ln() as f32;
        }
        // Longer contexts overwrite what shorter ones said.
        for (at, weight) in chain.into_iter().rev() {
            let level = &self.levels[at.order as usize];
            for i in self.children(at) {
                row[level.word[i] as usize] = (weight * f64::from(level.prob[i])).ln() as f32;
            }
        }
    }

    /// The longest suffix of `at` and `token` that is a context; `found` is the index of both as an n-gram.
    fn following(&self, at: State, found: u32, token: u32) -> State {
        let mut next = State { order: at.order + 1, index: found };
        if next.order == self.order() {
            // N words are no context. Without the first one they are an n-gram, too, since every n-gram's suffix is one.
            next = self.suffix_by_search(at, token);
        }
        while next.order > 0 && self.children(next).is_empty() {
            next = self.shorter(next);
        }
        next
    }

    /// The n-gram of `context` without its first word, and `token`.
    fn suffix_by_search(&self, context: State, token: u32) -> State {
        let mut at = context;
        while at.order > 0 {
            at = self.shorter(at);
            if let Some(index) = self.child(at, token) {
                return State { order: at.order + 1, index };
            }
        }
        State::EMPTY
    }

    /// The context without its first word.
    fn shorter(&self, context: State) -> State {
        match context.order {
            0 | 1 => State::EMPTY,
            n => State { order: n - 1, index: self.levels[n as usize - 1].suffix[context.index as usize] },
        }
    }

    fn backoff(&self, context: State) -> f64 {
        match context.order {
            0 => 1.0,
            n => f64::from(self.levels[n as usize - 1].backoff[context.index as usize]),
        }
    }

    /// Indices of the n-grams that continue a context, one order above it; the context must not be empty.
    fn children(&self, context: State) -> std::ops::Range<usize> {
        let child = &self.levels[context.order as usize - 1].child;
        child[context.index as usize] as usize..child[context.index as usize + 1] as usize
    }

    fn child(&self, context: State, token: u32) -> Option<u32> {
        if context.order == 0 {
            return Some(token);
        }
        let range = self.children(context);
        let words = &self.levels[context.order as usize].word[range.clone()];
        words.binary_search(&token).ok().map(|i| (range.start + i) as u32)
    }
}
