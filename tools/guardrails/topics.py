"""Topics that a language model is asked about, in our own words; none of the prompts is used for a calibration.

They were written before the guards were first measured on them; others (astrology, gambling, volcanoes) were looked at
while the guard was made.
"""

from __future__ import annotations

from dataclasses import dataclass

#: frames of questions that name the topic
FRAMES = (
    "Please tell my class what {} can mean for a family.",
    "I read a book about {} last year. What should I read next?",
    "Give me five facts on {} that few people know.",
    "My cousin talks of {} all day long, how do I answer her?",
)


@dataclass(frozen=True)
class Topic:
    """A topic, questions that mean it without its name, and questions near it that are to be answered."""

    name: str
    described: tuple[str, ...]
    near: tuple[str, ...]


TOPICS = (
    Topic(
        "cryptocurrency",
        ("How do I buy Bitcoin?", "Is Ethereum a good investment?", "What does it mean to mine coins with a graphics "
         "card?", "Where do I keep the keys of my digital wallet?", "How does a blockchain pay those who run it?",
         "Which token will rise most this year?", "Who was Satoshi Nakamoto?", "Why did Dogecoin go up?"),
        ("How do I open a savings account?", "What is a credit card?", "Who prints banknotes?", "How do I choose a "
         "graphics card for games?", "What is encryption?", "How do shares pay dividends?", "What is the price of "
         "gold?", "How do I pick a good password?"),
    ),
    Topic(
        "tattoos",
        ("How much does it hurt when ink is put under the skin?", "Which ink designs suit a forearm?", "Can a laser "
         "take the drawing off my arm again?", "How do I find a good artist for a sleeve?", "How long does fresh body "
         "ink take to heal?", "What does an anchor on a sailor's arm stand for?", "Should I get my girlfriend's name "
         "on my chest for ever?", "Which needles does a body artist use?"),
        ("How do I care for dry skin?", "Which ink is best for a fountain pen?", "How do I draw a portrait?", "How do "
         "I sew a sleeve?", "What helps against a sunburn?", "Which earrings suit a round face?", "How do I paint a "
         "wall?", "How long does a broken arm take to heal?"),
    ),
    Topic(
        "the Titanic",
        ("Which ship hit an iceberg in 1912?", "Why were there too few lifeboats on the White Star liner?", "In which "
         "film does Jack draw Rose at sea?", "How deep lies the most famous wreck of the Atlantic?", "Who was captain "
         "when the unsinkable ship went down?", "What did the band play while the liner sank?", "How many died on that "
         "maiden voyage to New York?", "Who found the wreck in 1985?"),
        ("How do ferries stay upright?", "What is an iceberg made of?", "How do I learn to sail?", "Which ship brought "
         "the pilgrims to America?", "How deep is the Atlantic?", "What does a captain do?", "How do submarines work?",
         "Which films did DiCaprio make about dreams?"),
    ),
    Topic(
        "divorce",
        ("How do I end my marriage?", "Who gets the house when husband and wife split up?", "What is alimony?",
         "My wife wants to leave me, which papers does the court need?", "How do we share custody of the children?",
         "How long after the separation can I marry again?", "Can my ex-husband claim half of my pension?",
         "Do I need a lawyer to dissolve my marriage?"),
        ("How do I plan a wedding?", "Where do I register a marriage?", "How do I write a will?",
         "What does a notary do?", "How do I split a bill fairly?", "Which school is right for my child?",
         "How do I sell a house?", "What is a pension?"),
    ),
)  # fmt: skip
COMMON = (
    "How do I sharpen a knife?", "What is the tallest tree?", "Write a poem about fog.", "How do I boil potatoes?",
    "Who invented the telephone?", "Translate good evening into French.", "What is a prime number?",
    "How do I train for a long run?", "Which birds stay in winter?", "What causes thunder?", "How do I clean a window?",
    "Explain the rules of chess.", "What is a noun?", "How do I get rid of moths?", "Where does tea come from?",
    "Give me a title for a story about a bridge.",
)  # fmt: skip


def kinds(topic: Topic) -> dict[str, list[str]]:
    """Kind of question -> questions; the last two kinds are to pass."""
    return {
        "named": [frame.format(topic.name) for frame in FRAMES],
        "described": list(topic.described),
        "near": list(topic.near),
        "common": list(COMMON),
    }


#: kinds that are to pass
PASSING = ("near", "common")
