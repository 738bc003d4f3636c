//! The mLSTM cell.
