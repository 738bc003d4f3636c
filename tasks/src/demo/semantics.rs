//! Pairs in which a word lacks what licenses it: negation, an indefinite, an antecedent in the right place.

use super::Phenomenon;

/// `ever` and `any` need a licensor: `only` (first half), or a negation.
pub(super) const NPI_LICENSOR: Phenomenon = Phenomenon {
    uid: "demo_npi_licensor_present",
    field: "semantics",
    linguistics_term: "npi_licensing",
    pairs: [
        "[Only|Even] Clara has ever climbed that tower.",
        "[Only|Even] the nurses have ever met his wife.",
        "[Only|Even] my brother ever washes the car.",
        "[Only|Even] the oldest monks have ever seen the scroll.",
        "[Only|Even] the gardener ever speaks to the children.",
        "[Only|Even] the captain ever trusted the map.",
        "[Only|Even] her aunt would ever wear that hat.",
        "[Only|Even] the twins have ever tasted this soup.",
        "[Only|Even] the mayor has ever used this gate.",
        "[Only|Even] Paul ever remembers her birthday.",
        "[No|Some] students have ever failed this test.",
        "[Nobody|Somebody] has ever lived in that house.",
        "Anna has [never|always] had any fear of heights.",
        "Ben has [not|really] ever ridden a horse.",
        "The children have [not|surely] ever slept in a tent.",
        "We did [not|indeed] find any stamps in the drawer.",
        "The baby has [not|already] eaten any soup.",
        "[Neither|Each] of the boys has ever caught a fish.",
        "[Few|Many] visitors have ever found the cave.",
        "[None|Some] of the letters contained any money.",
    ],
};

/// The negation that licenses `ever` stands in the main clause, not in a relative clause before it.
pub(super) const NPI_SCOPE: Phenomenon = Phenomenon {
    uid: "demo_sentential_negation_npi_scope",
    field: "syntax_semantics",
    linguistics_term: "npi_licensing",
    pairs: [
        "The man who has[| not] met Julia has[ not|] ever sung in public.",
        "The women who have[| not] read the letter have[ not|] ever spoken to Mark.",
        "The house that has[| not] been sold has[ not|] ever had a garden.",
        "The students who were[| not] late were[ not|] ever punished.",
        "The boy who is[| not] sick is[ not|] ever alone.",
        "The teacher who has[| not] seen the film has[ not|] ever been to Paris.",
        "The dogs that are[| not] hungry are[ not|] ever quiet.",
        "The farmer who will[| not] sell the barn will[ not|] ever leave the valley.",
        "The songs that were[| not] recorded were[ not|] ever sung again.",
        "The actors who have[| not] forgotten the play have[ not|] ever worked together.",
        "The key that was[| not] lost was[ not|] ever used again.",
        "The neighbors who have[| not] bought a dog have[ not|] ever owned a cat.",
        "The doctor who had[| not] helped Peter had[ not|] ever asked for money.",
        "The guests who had[| not] arrived early had[ not|] ever tasted olives.",
        "The plan that the mayor has[| not] approved has[ not|] ever been explained to us.",
        "The child who was[| not] crying was[ not|] ever left alone.",
        "The sailors who have[| not] crossed the ocean have[ not|] ever been afraid of storms.",
        "The shop that is[| not] on the corner is[ not|] ever open on Mondays.",
        "The letters that Nora has[| not] answered have[ not|] ever been shown to Tim.",
        "The players who will[| not] join the team will[ not|] ever win a prize.",
    ],
};

/// `There is` introduces something new, so it goes with an indefinite and not with `every`, `each`, `most` or `both`.
pub(super) const EXISTENTIAL_THERE: Phenomenon = Phenomenon {
    uid: "demo_existential_there_quantifiers",
    field: "semantics",
    linguistics_term: "quantifiers",
    pairs: [
        "There was [a|every] spider in the bathtub.",
        "There were [some|both] children in the hall.",
        "There is [a|each] bakery near the station.",
        "There are [many|most] stars in the sky tonight.",
        "There were [three|both] dogs in the garden.",
        "There was [no|each] clock on the wall.",
        "There are [several|most] boats on the lake.",
        "There is [a|every] letter for you on the desk.",
        "There were [few|most] people on the beach.",
        "There was [one|each] candle on the table.",
        "There are [two|both] keys under the mat.",
        "There was [an|every] owl in the old oak.",
        "There were [four|both] soldiers at the gate.",
        "There is [a|each] nurse at the front desk.",
        "There have been [several|most] storms this month.",
        "There might be [a|every] bear in this forest.",
        "There will be [some|both] musicians at the wedding.",
        "There was [no|every] ladder in the shed.",
        "There are [five|most] apples in the basket.",
        "There used to be [a|every] mill by the river.",
    ],
};

/// The antecedent of a reflexive is its subject, not a noun inside the subject.
pub(super) const PRINCIPLE_A: Phenomenon = Phenomenon {
    uid: "demo_principle_a_c_command",
    field: "syntax_semantics",
    linguistics_term: "binding",
    pairs: [
        "The girl who met the sailors described [herself|themselves].",
        "The brothers of the queen blamed [themselves|herself].",
        "The woman who hired the guards trusts [herself|themselves].",
        "The boys who visited Anna introduced [themselves|herself].",
        "My uncle's daughter burned [herself|himself] on the stove.",
        "The actor that the girls followed hid [himself|themselves] in a taxi.",
        "The students who like the prince painted [themselves|himself].",
        "The father of the twins praised [himself|themselves].",
        "Emma's brother taught [himself|herself] to dance.",
        "The nuns who fed the old man warmed [themselves|himself] by the stove.",
        "The prince who the witches tricked saved [himself|themselves].",
        "The aunts of the boy dressed [themselves|himself] in black.",
        "The grandmother who raised the boys calls [herself|themselves] lucky.",
        "Peter's sisters bought [themselves|himself] a boat.",
        "The man who the reporters wrote about defended [himself|themselves].",
        "The waitresses who served the king enjoyed [themselves|himself].",
        "The mother of the groom looked at [herself|himself] in the mirror.",
        "The monks who protect the girl consider [themselves|herself] safe.",
        "Maria's son cut [himself|herself] with the scissors.",
        "The woman who married the king sees [herself|himself] as a leader.",
    ],
};
