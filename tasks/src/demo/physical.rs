//! Scenes about where things are, what they are made of, and how many there are.

use super::scene::{ANTONYM, CONCEPT, Domain, NEGATION, NUMBER, direct, indirect};

/// Where things are.
pub(super) const SPACE: Domain = Domain {
    name: "spatial-layout",
    scenes: [
        direct(
            ["above", "below"],
            [ANTONYM, ANTONYM],
            "The lamp hangs [above|below] the shelf.",
            "The shelf is [below|above] the lamp.",
        ),
        direct(
            ["left", "right"],
            [ANTONYM, ANTONYM],
            "On the bench, Tim sits to the [left|right] of Rosa.",
            "Rosa sits to the [right|left] of Tim.",
        ),
        direct(
            ["in front", "behind"],
            [ANTONYM, ANTONYM],
            "In the line, Mia stands right [in front of|behind] Omar.",
            "Omar stands right [behind|in front of] Mia.",
        ),
        direct(
            ["north", "south"],
            [ANTONYM, ANTONYM],
            "The village lies [north|south] of the lake.",
            "From the village you go [south|north] to reach the lake.",
        ),
        direct(
            ["inside", "outside"],
            [ANTONYM, ANTONYM],
            "Nina was [inside|outside] the house when the rain poured down.",
            "Her hair was [dry|wet] afterwards.",
        ),
        indirect(
            ["near", "far"],
            [CONCEPT, ANTONYM],
            "Leo's school is [right across the street from|thirty miles away from] his home.",
            "Leo lives [near|far from] his school.",
        ),
        indirect(
            ["top", "bottom"],
            [ANTONYM, CONCEPT],
            "The other books in the pile are [under|on] the red one.",
            "You can take the red book [without lifting|only by lifting] the others.",
        ),
        indirect(
            ["up", "down"],
            [CONCEPT, ANTONYM],
            "On the stairs, Paul is on his way to the [attic|cellar].",
            "With each step, Paul gets [higher|lower].",
        ),
        indirect(
            ["between", "beside"],
            [CONCEPT, CONCEPT],
            "The bench stands [between the two trees|to the left of both trees].",
            "There is a tree on [both sides|one side] of the bench.",
        ),
        direct(
            ["open", "closed"],
            [ANTONYM, NEGATION],
            "The door between the two rooms is [open|closed].",
            "The dog [can|cannot] walk from one room to the other.",
        ),
    ],
};

/// What things are made of, and what becomes of them.
pub(super) const MATERIAL: Domain = Domain {
    name: "material-change",
    scenes: [
        direct(
            ["flexible", "stiff"],
            [ANTONYM, CONCEPT],
            "The stick is [flexible|stiff].",
            "When Ben pushes against it, the stick [bends|stays straight].",
        ),
        indirect(
            ["transparent", "opaque"],
            [CONCEPT, NEGATION],
            "The closed jar is made of [clear glass|thick clay].",
            "You [can|cannot] see what is in the jar.",
        ),
        direct(
            ["sharp", "dull"],
            [ANTONYM, ANTONYM],
            "The knife is very [sharp|dull].",
            "It is [easy|hard] to cut the bread with it.",
        ),
        indirect(
            ["freeze", "dry"],
            [CONCEPT, CONCEPT],
            "The puddle lay in [bitter cold|hot sunshine] all day.",
            "By evening the puddle had [frozen|dried up].",
        ),
        indirect(
            ["soft", "hard"],
            [ANTONYM, ANTONYM],
            "The butter stood [beside the hot stove|in the cold fridge] for hours.",
            "Afterwards the butter was [soft|hard].",
        ),
        indirect(
            ["brittle", "elastic"],
            [CONCEPT, CONCEPT],
            "Sam dropped a [glass|rubber] ball on the stone floor.",
            "The ball [shattered|bounced].",
        ),
        indirect(
            ["dry", "wet"],
            [CONCEPT, ANTONYM],
            "Eva left the towel [in the warm sun|in the full bathtub].",
            "An hour later the towel was [dry|wet].",
        ),
        indirect(
            ["heavy", "light"],
            [CONCEPT, ANTONYM],
            "The suitcase is full of [bricks|feathers].",
            "The suitcase is [heavy|light].",
        ),
        indirect(
            ["waterproof", "absorbent"],
            [CONCEPT, CONCEPT],
            "In the heavy rain Kim wore a [plastic raincoat|woolen sweater].",
            "The water [ran off|soaked into] it.",
        ),
        indirect(
            ["float", "sink"],
            [CONCEPT, CONCEPT],
            "Jack threw a [wooden|stone] block into the pond.",
            "The block [floated on the water|sank to the bottom].",
        ),
    ],
};

/// How many there are, and how much.
pub(super) const QUANTITY: Domain = Domain {
    name: "quantity-comparison",
    scenes: [
        direct(
            ["longer", "shorter"],
            [ANTONYM, ANTONYM],
            "The blue rope is [longer|shorter] than the green one.",
            "The green rope is [shorter|longer] than the blue one.",
        ),
        direct(
            ["full", "empty"],
            [ANTONYM, CONCEPT],
            "The bus was [full|empty] when it came.",
            "Iris [found no seat|could choose any seat].",
        ),
        direct(
            ["all", "none"],
            [ANTONYM, CONCEPT],
            "[All|None] of the eggs in the box were broken.",
            "There were [no|only] whole eggs in the box.",
        ),
        direct(
            ["raise", "lower"],
            [ANTONYM, ANTONYM],
            "The baker [raised|lowered] the price of a loaf.",
            "A loaf now costs [more|less] than before.",
        ),
        direct(
            ["double", "halve"],
            [ANTONYM, NUMBER],
            "The recipe makes ten pancakes, but Nora [doubled|halved] it.",
            "Nora made [twenty|five] pancakes.",
        ),
        direct(
            ["equal", "unequal"],
            [ANTONYM, ANTONYM],
            "Jon cut the cake into [equal|unequal] pieces.",
            "The pieces were [of the same size|of different sizes].",
        ),
        direct(
            ["add", "remove"],
            [ANTONYM, NUMBER],
            "There were four fish in the tank, and Ella [added|removed] two.",
            "Now there are [six|two] fish in the tank.",
        ),
        indirect(
            ["more", "fewer"],
            [NUMBER, ANTONYM],
            "Lena has [twelve|three] marbles, and Max has seven.",
            "Lena has [more|fewer] marbles than Max.",
        ),
        indirect(
            ["enough", "too few"],
            [NUMBER, CONCEPT],
            "For the five guests there were [six|two] chairs.",
            "[All|Only some] of the guests could sit down.",
        ),
        indirect(
            ["older", "younger"],
            [NUMBER, ANTONYM],
            "Carl is [nine|five], and his sister is seven.",
            "Carl is the [older|younger] of the two.",
        ),
    ],
};
