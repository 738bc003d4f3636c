//! Models, one file each; a second file holds the packed form that scores forests.

pub mod hgrn2;
pub mod hgrn2_forest;
