//! The program as a user meets it: arguments, files, exit codes, and what survives a crash.

mod corpus;
mod eval;
mod faults;
mod invariance;
mod isolate;
mod kit;
mod masked;
mod ngram;
mod onnx;
mod plugins;
mod resume;
mod score;
mod shipped;
mod students;
mod summary;
mod train;
mod verify;
