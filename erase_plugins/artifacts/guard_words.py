"""How a guard reads words, in all scripts: what is left out of a text, and where its words begin and end.

Marks that one may leave out are left out: accents, vowel points of Arabic and Hebrew, the dot below of Hindi. Marks
that are letters of their own stay: vowel signs of India's scripts, tones and vowels of Thai, the voicing of Japanese
kana. A mark of one script on a letter of another says nothing and goes.

Thai, Lao, Khmer, Burmese and Tibetan put no spaces between words: there a word is one letter with all that hangs on it,
so that a name is found inside a sentence and never ends within such a group. Arabic and Hebrew hang small words in
front of names ("and", "for", "with"), which `without_prefix` takes off.
"""

from __future__ import annotations

import re
import unicodedata

from erase_plugins.plain_text import SIGNS

ALIKE = dict(zip("аеорсухіјѕһԁԛԝкмтαεικνορτυχɑɡıʐᴢ", "aeopcyxijshdqwkmtaeikvoptuxagizz", strict=True))
#: letters that Persian, Urdu and Arabic write differently and readers take for the same
_ARABIC = dict(zip("یىکةہ", "ييكهه", strict=True))
#: marks, and the stretching of Arabic, that may be left out
_OPTIONAL = re.compile(
    "[\u0300-\u036f\u0483-\u0489\u0591-\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06ed\u0730-\u074a"
    "\u08d3-\u08ff\u093c\u0a3c\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe00-\ufe0f\ufe20-\ufe2f]"
)
_MARKED = "\u0780-\u089f\u0900-\u109f\u1700-\u1cff\ua800-\uabff\U00011000-\U00011fff"
#: a letter of a script whose marks carry meaning
_BEARER, _KANA = re.compile(f"[{_MARKED}]"), re.compile("[\u3040-\u30ff\u3099\u309a]")
TAG, WEIGHT = re.compile(r"<[^<>]*>"), re.compile(r":\s*-?\d+(\.\d+)?(?=\s*[)\]])")
#: one word: a sign of Chinese, Japanese or Korean, or a letter with what hangs on it where there are no spaces
_JOINED = "\u0e00-\u109f\u1780-\u17ff"
_THAI = (
    "[\u0e40-\u0e44\u0ec0-\u0ec4]?[\u0e01-\u0e2e\u0e81-\u0eae\u0edc-\u0edf]"
    "[\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece]*[\u0e30\u0e32\u0e45\u0eb0\u0eb2]*"
)
_HANGS = (
    "\u0f18\u0f19\u0f35\u0f37\u0f39\u0f3e\u0f3f\u0f71-\u0f87\u0f8d-\u0fbc\u102b-\u103e\u1056-\u1059\u105e-\u1060"
    "\u1062-\u1064\u1067-\u106d\u1071-\u1074\u1082-\u108d\u109a-\u109d\u17b4-\u17d3\u17dd"
)
_GROUP = f"{_THAI}|[{_JOINED}](?:[\u1039\u17d2][{_JOINED}]|[{_HANGS}])*"
_PARTS = re.compile(f"[{SIGNS}][\u3099\u309a]?|{_GROUP}|[^{SIGNS}{_JOINED}]+")
_SIGN, _WITHOUT_SPACES = re.compile(f"[{SIGNS}]"), re.compile(f"[{SIGNS}{_JOINED}]")
#: letters of scripts that leave vowels out
_CONSONANTS = re.compile("[\u0590-\u08ff]")
#: what Arabic and Hebrew hang in front of a name
_PREFIXED = re.compile("[\u0648\u0641\u0628\u0643\u0644](?=[\u0621-\u064a])|[והבכלמש](?=[א-ת])")
#: letters of a name behind such a prefix, at least: of shorter ones too many words are longer ones
_BEHIND = 4


#: what Bengali hangs behind a name: of, to, of several
_BENGALI = re.compile("(?:\u09c7\u09b0|\u0995\u09c7|\u09a6\u09c7\u09b0)$")
#: Tamil: to, of, at, with, by; and the object, one sign, which of short words makes others
_TAMIL = re.compile(
    "(?:\u0bc1\u0b95\u0bcd\u0b95\u0bc1|\u0bbf\u0ba9\u0bcd|\u0bbf\u0b9f\u0bae\u0bcd|\u0bc1\u0b9f\u0ba9\u0bcd|\u0bbe\u0bb2\u0bcd)$"
)
_OBJECT, _PULLI = "\u0bc8", "\u0bcd"
#: a name that ends in a vowel sign gets a consonant before the ending
_GLIDE = re.compile("(?<=[\u0bbe-\u0bcc])[\u0bb5\u0baf]$")


def normalised(text: str) -> str:
    """Lower case, without tags, weights, optional marks and signs that cannot be seen; look-alike letters are Latin."""
    plain = WEIGHT.sub("", TAG.sub(" ", text))
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", plain)).casefold()
    seen, base = [], ""
    for sign in plain:
        kind = unicodedata.category(sign)
        if kind == "Cf" or _OPTIONAL.match(sign):
            continue
        if kind[0] != "M":
            base = sign
        elif not _hangs(sign, base):
            continue
        seen.append(_ARABIC.get(sign, ALIKE.get(sign, sign)))
    return "".join(seen)


def _hangs(mark: str, base: str) -> bool:
    """Whether a mark belongs to a letter."""
    return any(script.match(mark) and script.match(base) for script in (_BEARER, _KANA))


def letters(text: str) -> str:
    """All letters of a text, with their marks."""
    return "".join(words(normalised(text)))


def words(plain: str) -> list[str]:
    """The words of a normalised text between spaces and punctuation."""
    return "".join(
        sign if sign.isalnum() or unicodedata.category(sign)[0] == "M" else " " for sign in plain
    ).split()  # fmt: skip


def parts(plain: str) -> tuple[str, ...]:
    """The same, and every sign or group by itself in scripts without spaces."""
    return tuple(part for word in words(plain) for part in _PARTS.findall(word))


def stands_alone(word: str) -> bool:
    """Whether a word of `parts` is none between spaces."""
    return _WITHOUT_SPACES.match(word) is not None


def enough(form: str, least: int, signs: int) -> bool:
    """Whether letters are enough for a keyword: ``least``, or ``signs`` of Chinese, Japanese and Korean.

    Without spaces between words they are at least two groups.
    """
    if all(map(_SIGN.match, form)):
        return len(form) >= signs
    return len(form) >= least and (not stands_alone(form) or len(_PARTS.findall(form)) > 1)


def exact(form: str) -> bool:
    """Whether one slip makes another name of it: where signs are words, marks are vowels, or vowels are not written."""
    return any(script.search(form) for script in (_SIGN, _BEARER, _CONSONANTS))


def without_prefix(form: str) -> str:
    """A name without the small word in front of it, or nothing where there is none."""
    return form[1:] if _PREFIXED.match(form) and len(form) > _BEHIND else ""


def without_ending(form: str) -> str:
    """A Bengali or Tamil name without the case that hangs on it, or nothing where there is none."""
    stem = _BENGALI.sub("", form)
    if stem != form:
        return stem if len(stem) >= _BEHIND else ""
    stem, least = _TAMIL.sub("", form), _BEHIND
    if stem == form and form.endswith(_OBJECT):
        stem, least = form[:-1], _BEHIND + 1
    if stem == form:
        return ""
    bare = _GLIDE.sub("", stem)
    stem = bare if bare != stem else stem + _PULLI
    return stem if len(stem) >= least else ""
