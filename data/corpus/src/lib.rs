//! From text files to a tokenizer and to token shards.
