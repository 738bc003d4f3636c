//! Activation functions and the gated MLP.
