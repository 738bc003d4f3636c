//! Scenes about what people are to each other, when things happen, and what someone knows or wants.

use super::scene::{ANTONYM, CONCEPT, Domain, NEGATION, NUMBER, VARIABLE, direct, indirect};

/// What people are to each other.
pub(super) const ROLES: Domain = Domain {
    name: "social-roles",
    scenes: [
        direct(
            ["buy", "sell"],
            [ANTONYM, VARIABLE],
            "Dora [bought a bicycle from|sold a bicycle to] Felix.",
            "Now the bicycle belongs to [Dora|Felix].",
        ),
        direct(
            ["lend", "borrow"],
            [ANTONYM, VARIABLE],
            "Hugo [lent a ladder to|borrowed a ladder from] Iris.",
            "[Iris|Hugo] has to give the ladder back.",
        ),
        direct(
            ["teacher", "student"],
            [VARIABLE, VARIABLE],
            "[Vera is teaching Sam|Sam is teaching Vera] to play chess.",
            "[Vera|Sam] is the better player so far.",
        ),
        direct(
            ["praise", "scold"],
            [ANTONYM, ANTONYM],
            "The coach [praised|scolded] Ida in front of the team.",
            "Ida felt [proud|ashamed].",
        ),
        direct(
            ["keep", "break"],
            [ANTONYM, ANTONYM],
            "Mila promised to feed the cat, and she [kept|broke] her promise.",
            "In the evening the cat was [full|hungry].",
        ),
        direct(
            ["mother", "daughter"],
            [ANTONYM, ANTONYM],
            "Ruth is Ben's [mother|daughter].",
            "Ben is [younger|older] than Ruth.",
        ),
        indirect(
            ["host", "guest"],
            [VARIABLE, VARIABLE],
            "[Alma invited Theo|Theo invited Alma] over for dinner.",
            "They ate at [Alma's|Theo's] house.",
        ),
        indirect(
            ["kind", "mean"],
            [CONCEPT, CONCEPT],
            "When Lou fell off her bicycle, Joe [helped her up|laughed at her].",
            "Lou was [grateful to|angry with] Joe.",
        ),
        indirect(
            ["boss", "worker"],
            [VARIABLE, VARIABLE],
            "[Greta works for Paul|Paul works for Greta].",
            "At the end of the month, [Paul|Greta] pays the wages.",
        ),
        indirect(
            ["friend", "stranger"],
            [CONCEPT, CONCEPT],
            "Ed and Zoe [have been neighbors for years|had never met before].",
            "At the party they [talked about old times|told each other their names].",
        ),
    ],
};

/// When things happen, and how long they take.
pub(super) const TIME: Domain = Domain {
    name: "temporal-order",
    scenes: [
        direct(
            ["before", "after"],
            [ANTONYM, CONCEPT],
            "Lea brushed her teeth [before|after] breakfast.",
            "When she sat down to eat, she [had already|had not yet] brushed her teeth.",
        ),
        direct(
            ["first", "last"],
            [ANTONYM, ANTONYM],
            "Of the three runners, Ada finished [first|last].",
            "The other two finished [after|before] Ada.",
        ),
        indirect(
            ["past", "future"],
            [ANTONYM, CONCEPT],
            "Mark's exam [was yesterday|is tomorrow].",
            "Mark [no longer|still] has to study for it.",
        ),
        direct(
            ["begin", "end"],
            [ANTONYM, CONCEPT],
            "The film had just [begun|ended] when Amy came in.",
            "Amy saw [most|nothing] of the film.",
        ),
        indirect(
            ["older", "newer"],
            [ANTONYM, ANTONYM],
            "The church was built a century [before|after] the town hall.",
            "The town hall is the [newer|older] building.",
        ),
        indirect(
            ["early", "late"],
            [NUMBER, ANTONYM],
            "The train left at nine, and Ivo came to the station at [eight|ten].",
            "Ivo [caught|missed] the train.",
        ),
        indirect(
            ["day", "night"],
            [ANTONYM, ANTONYM],
            "The clock in the village struck [noon|midnight].",
            "Outside it was [bright|dark].",
        ),
        indirect(
            ["summer", "winter"],
            [CONCEPT, CONCEPT],
            "It was a [hot|freezing] day at the lake.",
            "The children went [swimming in|skating on] the lake.",
        ),
        indirect(
            ["short", "long"],
            [CONCEPT, ANTONYM],
            "The potatoes had been boiling for [one minute|one hour].",
            "The potatoes were [hard|soft].",
        ),
        indirect(
            ["fast", "slow"],
            [CONCEPT, ANTONYM],
            "Both girls left home at noon, Bea on her bicycle and Ina [by car|on foot].",
            "Ina reached the next town [before|after] Bea.",
        ),
    ],
};

/// What someone knows, wants or can do.
pub(super) const MIND: Domain = Domain {
    name: "agent-states",
    scenes: [
        direct(
            ["like", "fear"],
            [ANTONYM, ANTONYM],
            "Rob [loves|fears] dogs.",
            "When Rob sees a dog, he walks [toward|away from] it.",
        ),
        direct(
            ["awake", "asleep"],
            [ANTONYM, ANTONYM],
            "The baby is [awake|asleep].",
            "Her eyes are [open|closed].",
        ),
        direct(
            ["able", "unable"],
            [NEGATION, ANTONYM],
            "Lou [can|cannot] swim.",
            "Alone in deep water, Lou would be [fine|in danger].",
        ),
        direct(
            ["purpose", "accident"],
            [ANTONYM, NEGATION],
            "Max broke the vase [on purpose|by accident].",
            "Max [wanted|did not want] the vase to break.",
        ),
        direct(
            ["remember", "forget"],
            [ANTONYM, NEGATION],
            "Gus [remembered|forgot] his sister's birthday.",
            "His sister got [a present|no present] from Gus.",
        ),
        indirect(
            ["know", "not know"],
            [CONCEPT, NEGATION],
            "Olga was [watching|sleeping] while Pia hid the cookies.",
            "Olga [knows|does not know] where the cookies are.",
        ),
        indirect(
            ["hungry", "full"],
            [CONCEPT, ANTONYM],
            "Ken has eaten [nothing since yesterday|a huge dinner just now].",
            "Ken is [hungry|full].",
        ),
        indirect(
            ["true belief", "false belief"],
            [CONCEPT, CONCEPT],
            "Mia put her keys in a drawer. Jon moved them to a shelf [before her eyes|behind her back].",
            "Mia will look for her keys [on the shelf|in the drawer].",
        ),
        indirect(
            ["trust", "distrust"],
            [ANTONYM, ANTONYM],
            "Tess knows that Rudi [never|always] lies.",
            "When Rudi tells her something, Tess [believes|doubts] it.",
        ),
        indirect(
            ["interested", "bored"],
            [CONCEPT, ANTONYM],
            "During the talk Nell [took many notes|yawned and looked at the clock].",
            "Nell found the talk [interesting|boring].",
        ),
    ],
};
