//! The backend as a library to load at run time.

bheval_abi::export!(bheval_ngram::Ngram);
