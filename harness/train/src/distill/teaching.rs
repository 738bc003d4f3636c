//! Teachers as the loop knows them.

use super::{Asked, Distiller};
use crate::trainer::{Lesson, Teaching};
use crate::{Error, Teacher};

impl Teaching for Distiller {
    fn left_to_targets(&self) -> f64 {
        Distiller::left_to_targets(self)
    }

    fn teach(&mut self, lesson: &Lesson<'_>) -> Result<Teacher<'_>, Error> {
        let starts: Vec<u64> = lesson.windows.iter().map(|window| window.tokens.start).collect();
        let asked = Asked {
            starts: &starts,
            tokens: lesson.tokens,
            targets_of_step: lesson.targets_of_step,
            windows_of_step: lesson.windows_of_step,
        };
        Ok(Distiller::teach(self, &asked)?)
    }
}
