//! Mamba-2's recurrence.
