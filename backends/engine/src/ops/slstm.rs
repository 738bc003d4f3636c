//! The sLSTM cell.
