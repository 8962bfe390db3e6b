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
#: captions of pictures by kind
CAPTIONS = {
    "object": ("{}", "a {}", "the {}", "a photo of a {}", "a picture of the {}", "a close view of a {}",
               "a drawing of a {}", "one {} on a plain background", "a small {}", "a large {}"),
    "style": ("{}", "a picture in the style of {}", "a painting by {}", "art by {}", "a drawing in {} style",
              "a landscape by {}", "a portrait in the manner of {}"),
}  # fmt: skip
