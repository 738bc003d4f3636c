//! Training of language models on the CPU.
