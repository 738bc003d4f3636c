//! The LSTM cell over a sequence.
