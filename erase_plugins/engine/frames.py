"""Prompts around a concept, made without a language model: frames, variants, safe phrases by kind. No torch."""

from __future__ import annotations

#: phrasings of a concept that need no language model
VARIANTS = ("{} content", "{} scene", "{}-like", "{} theme", "inspired by {}")
#: what a concept becomes when the user does not say
SAFE = {"style": "art", "person": "a person", "explicit": "a person wearing clothes", "object": "an object"}
#: frames with the slot at the start, in the middle and at the end
FRAMES = (
    "{}", "a photo of {}", "a sketch of {} in pencil", "an oil painting showing {}", "a close portrait of {}",
    "a magazine cover with {} on it", "{} seen from far away", "{} in the morning", "a dark street and {} at night",
    "a black and white picture of {}", "a group of visitors looking at {}", "a digital rendering of {}",
    "{} in front of a plain wall", "a blurry snapshot of {} indoors", "a detailed illustration of {}",
)  # fmt: skip
STYLE_FRAMES = (
    "{}", "art by {}", "a painting by {}", "a landscape by {}", "in the style of {}", "a still life in {} style",
    "a drawing by {} on paper", "a city view as {} would paint it", "{} inspired poster", "a portrait by {}",
)  # fmt: skip
POCKET_FRAMES = (
    "{}", "a {}", "a picture of a {}", "the {}", "a {} on a blue background", "{} on red", "a {} in noto style",
    "a twemoji {} on a white background",
)  # fmt: skip
#: what the words that a closed form keeps stand in; every second one stands alone, and none names a style
POCKET_SURROUNDINGS = (
    "{}", "a {} on a blue background", "{}", "{} on red", "{}", "a picture of a {}", "{}", "a {} on a white background",
)  # fmt: skip
#: a style alone, and before objects, as pocket's captions have it
POCKET_STYLE = ("{}", "{} style", "a {} picture", "a picture in {} style")
POCKET_STYLED = ("a {} picture", "a {} cat", "a {} house on a blue background", "{} flower", "a {} face on red")
_OBJECTS = (
    "dog", "tree", "fish", "book", "shoe", "apple", "ball", "star", "bird", "hat", "boat", "key", "chair", "moon",
    "horse", "bread",
)  # fmt: skip
#: the same before many objects, where a few would be learned by heart
POCKET_STYLED_OBJECTS = (
    *POCKET_STYLED,
    *(f"a {{}} {word}{'' if place % 3 else ' on a white background'}" for place, word in enumerate(_OBJECTS)),
)
#: captions of pictures by kind
CAPTIONS = {
    "object": ("{}", "a {}", "the {}", "a photo of a {}", "a picture of the {}", "a close view of a {}",
               "a drawing of a {}", "one {} on a plain background", "a small {}", "a large {}"),
    "style": ("{}", "a picture in the style of {}", "a painting by {}", "art by {}", "a drawing in {} style",
              "a landscape by {}", "a portrait in the manner of {}"),
}  # fmt: skip
