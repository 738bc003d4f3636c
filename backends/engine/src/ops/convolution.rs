//! Short causal convolutions, channel by channel.
