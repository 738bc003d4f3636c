//! Mamba's selective scan.
