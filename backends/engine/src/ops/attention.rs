//! Causal attention with rotary positions.
