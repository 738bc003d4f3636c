//! Scenes: two contexts, and two targets of which each fits one of them.

use super::{notation, physical, social};

/// An item in EWoK's schema: `target_1` fits `context_1` alone, `target_2` fits `context_2` alone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DemoScene {
    /// What kind of knowledge it takes.
    pub domain: &'static str,
    /// The concept behind the first context.
    pub concept_a: &'static str,
    /// The concept behind the second context.
    pub concept_b: &'static str,
    /// `direct` where the contexts name the concepts, `indirect` where they must be inferred.
    pub context_type: &'static str,
    /// How the contexts differ.
    pub context_diff: &'static str,
    /// How the targets differ.
    pub target_diff: &'static str,
    /// The first context.
    pub context_1: String,
    /// The second context.
    pub context_2: String,
    /// What is true in the first context.
    pub target_1: String,
    /// What is true in the second context.
    pub target_2: String,
}

/// The scenes of one kind of knowledge.
pub(super) struct Domain {
    pub(super) name: &'static str,
    pub(super) scenes: [Scene; 10],
}

/// A scene with both contexts, and both targets, in the notation `[first|second]`.
pub(super) struct Scene {
    concepts: [&'static str; 2],
    context_type: &'static str,
    /// Of the contexts, of the targets.
    diffs: [&'static str; 2],
    context: &'static str,
    target: &'static str,
}

/// A word against its opposite.
pub(super) const ANTONYM: &str = "antonym";
/// A word or phrase against another that is not its opposite.
pub(super) const CONCEPT: &str = "concept swap";
/// A statement against its denial.
pub(super) const NEGATION: &str = "negation";
/// A number against another.
pub(super) const NUMBER: &str = "number swap";
/// Two names trade places.
pub(super) const VARIABLE: &str = "variable swap";

/// A scene whose contexts name the concepts.
pub(super) const fn direct(
    concepts: [&'static str; 2],
    diffs: [&'static str; 2],
    context: &'static str,
    target: &'static str,
) -> Scene {
    Scene { concepts, context_type: "direct", diffs, context, target }
}

/// A scene whose concepts must be inferred.
pub(super) const fn indirect(
    concepts: [&'static str; 2],
    diffs: [&'static str; 2],
    context: &'static str,
    target: &'static str,
) -> Scene {
    Scene { concepts, context_type: "indirect", diffs, context, target }
}

impl Domain {
    fn scenes(&self) -> impl Iterator<Item = DemoScene> {
        self.scenes.iter().map(|scene| scene.written(self.name))
    }
}

impl Scene {
    fn written(&self, domain: &'static str) -> DemoScene {
        let [context_1, context_2] = notation::sides(self.context);
        let [target_1, target_2] = notation::sides(self.target);
        let [concept_a, concept_b] = self.concepts;
        let [context_diff, target_diff] = self.diffs;
        let context_type = self.context_type;
        DemoScene {
            domain,
            concept_a,
            concept_b,
            context_type,
            context_diff,
            target_diff,
            context_1,
            context_2,
            target_1,
            target_2,
        }
    }
}

const DOMAINS: [Domain; 6] =
    [physical::SPACE, physical::MATERIAL, physical::QUANTITY, social::ROLES, social::TIME, social::MIND];

/// All scenes, always the same and in the same order: 10 of each of 6 domains.
#[must_use]
pub fn scenes() -> Vec<DemoScene> {
    DOMAINS.iter().flat_map(Domain::scenes).collect()
}
