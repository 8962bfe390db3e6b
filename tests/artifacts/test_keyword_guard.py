"""Guards by keyword: spellings that hit, neighbours that pass, files that name nobody."""

from __future__ import annotations

import json
import random

import pytest

from erase_plugins.artifacts.keyword_guard import KeywordGuard, distance, keyword_guard
from erase_plugins.errors import CorruptArtifact, RequestError, RunRefused
from erase_plugins.runtime.prompt_guard import Guarded

KEY = bytes(range(32))
HITS = {
    "as it is": "a portrait by van gogh",
    "case": "VAN GOGH",
    "leet": "a field by V4n G0gh",
    "spaced out": "v a n g o g h, sunflowers",
    "joined": "a vangogh print",
    "hyphens": "Vincent-van-Gogh-esque",
    "dots": "v.a.n.g.o.g.h",
    "Cyrillic letters": "van g\u043egh",
    "accents": "v\u00e1n g\u00f6gh",
    "zero width": "van go\u200bgh",
    "full width": "\uff56\uff41\uff4e \uff47\uff4f\uff47\uff48",
    "reversed": "gogh, van",
    "letters reversed": "a field by hgog nav",
    "letters of each word reversed": "nav hgog, sunflowers",
    "letters reversed, spaced out": "h g o g n a v",
    "letters reversed, leet": "hg0g n4v",
    "weight": "(van gogh:1.3), night",
    "tag between": "van <lora:night:0.8> gogh",
}
MISSES = ["a van parked on the street", "Dutch windmill", "savan goghurt", "Monet, water lilies", "", "go", "the gogh family's caravan"]  # fmt: skip


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("text", HITS.values(), ids=HITS)
def test_evasions_hit(text, private):
    guard = keyword_guard("painter", ["van Gogh"], key=KEY if private else b"")
    assert guard.check(text).hit
    assert guard.check(text).reason == "painter: keyword"


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("text", MISSES)
def test_neighbours_pass(text, private):
    assert not keyword_guard("painter", ["van Gogh"], key=KEY if private else b"").check(text).hit


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize(
    ("name", "text"),
    [("dessert", "a stressed woman"), ("desserts", "stressed, tired"), ("drawer", "a reward for the dog"), ("Leon", "noel"),
     ("Enid", "let us dine"), ("nametag", "a gateman at the gate")],
)  # fmt: skip
def test_words_that_are_others_backwards_pass(name, text, private):
    assert not keyword_guard("x", [name], key=KEY if private else b"").check(text).hit


def test_long_words_are_found_backwards():
    assert keyword_guard("x", ["Rembrandt"]).check("a light like tdnarbmer").hit
    assert not keyword_guard("x", ["Rembrandt"]).check("a light like tdnarmber").hit, "no slips in reverse"


def test_slips_are_found_by_public_guards_only():
    assert keyword_guard("x", ["rembrandt"]).check("a rembradnt light").hit
    assert not keyword_guard("x", ["rembrandt"], key=KEY).check("a rembradnt light").hit
    assert not keyword_guard("x", ["monet"]).check("money on the table").hit, "short words have no slips"


@pytest.mark.parametrize(
    ("one", "other", "steps"), [("ab", "ba", 1), ("abc", "abc", 0), ("abc", "axc", 1), ("abcd", "acd", 1), ("", "ab", 2), ("kitten", "sitting", 3)]
)  # fmt: skip
def test_distance(one, other, steps):
    assert distance(one, other) == distance(other, one) == steps


def test_no_slip_is_missed_by_looking_at_letters_first():
    """Of every keyword that slips lead to, as far away as it may be, and of words that are too far away."""
    draw, signs = random.Random(0), "abcdefgh\u0430\u0431\u0432\u03b1"
    for _ in range(300):
        mark = "".join(draw.choices(signs, k=draw.randint(6, 11)))
        guard, most = KeywordGuard("x", frozenset([mark])), 1 if len(mark) < 8 else 2
        form = list(mark)
        for _ in range(draw.randint(0, 4)):
            at, sign = draw.randrange(len(form) - 1), draw.choice(signs)
            form[at : at + 2] = draw.choice(
                [[form[at + 1], form[at]], [form[at]], [sign, form[at + 1]], [sign, *form[at : at + 2]]]
            )
        near = len(form) >= 5 and distance("".join(form), mark) <= most
        assert guard._meant("".join(form)) == near, (mark, form)


def test_a_private_file_names_nobody_and_needs_its_key(tmp_path):
    guard = keyword_guard(
        "request q1", ["Zorvane Ymbrook"], key=KEY, action="block", message="I cannot help with that."
    )
    guard.write(tmp_path / "guard.json")
    text = (tmp_path / "guard.json").read_text()
    assert not any(word in text.lower() for word in ("zorvane", "ymbrook", KEY.hex()))
    assert json.loads(text)["weight_level"] is False
    assert json.loads(text)["shareable"] is False
    assert KeywordGuard.read(tmp_path / "guard.json", KEY) == guard
    assert not KeywordGuard.read(tmp_path / "guard.json", bytes(32)[:-1] + b"x").check("Zorvane Ymbrook").hit
    with pytest.raises(RequestError, match="without its key"):
        KeywordGuard.read(tmp_path / "guard.json").check("Zorvane Ymbrook")


@pytest.mark.parametrize(
    "change",
    [{"weight_level": True}, {"schema": 2}, {"shareable": True}, {"action": "allow"}, {"stages": []}, {"stages": [{"type": "x"}]}],
    ids=str,
)  # fmt: skip
def test_changed_files_are_refused(tmp_path, change):
    keyword_guard("x", ["Zorvane"], key=KEY).write(tmp_path / "guard.json")
    data = json.loads((tmp_path / "guard.json").read_text())
    (tmp_path / "guard.json").write_text(json.dumps(data | change))
    with pytest.raises(CorruptArtifact):
        KeywordGuard.read(tmp_path / "guard.json", KEY)


SIGNS = {
    "two signs": ("\u68b5\u9ad8", "\u6211\u559c\u6b22\u68b5\u9ad8\u7684\u753b"),
    "two signs apart": ("\u68b5\u9ad8", "\u68b5 \u9ad8"),
    "in a sentence": ("\u5bae\u672c\u6b66\u8535", "\u5bae\u672c\u6b66\u8535\u306e\u7d75\u3092\u63cf\u3044\u3066"),
    "another order": ("\u5c71\u7530 \u592a\u90ce", "\u592a\u90ce\u5c71\u7530\u3068\u3044\u3046\u4eba"),
    "Korean with an ending": ("\uae40\uc5f0\uc544", "\uadf8\ub9bc \uc18d \uae40\uc5f0\uc544\ub294 \uc6c3\ub294\ub2e4"),
    "Korean of two syllables": ("\uc774\ub3c4", "\uc774\ub3c4\uac00 \uc654\ub2e4"),
    "half width": ("\u30b4\u30c3\u30db", "\uff7a\uff9e\uff6f\uff8e\u98a8\u306e\u7a7a"),
    "Latin beside them": ("van Gogh", "\u6211\u559c\u6b22vangogh\u7684\u753b"),
}  # fmt: skip


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize(("name", "text"), SIGNS.values(), ids=SIGNS)
def test_names_without_spaces_around_them_are_found(name, text, private):
    guard = keyword_guard("x", [name], key=KEY if private else b"")
    assert guard.check(text).hit
    assert not guard.check("\u4eca\u65e5\u306f\u826f\u3044\u5929\u6c17\u3067\u3059 \uc548\ub155\ud558\uc138\uc694").hit
    assert not keyword_guard("x", ["\uae40\uc5f0\uc544"]).check("\uae40\uc5f0\uc548\uc774").hit, "a syllable is whole"


#: name, sentence that names it, sentence with another word that is like it
SCRIPTS = {
    "Hindi": ("राहुल शर्मा", "कल राहुल शर्मा ने बाज़ार में आम खरीदे।", "कल रोहिल शर्म से बाज़ार में मिला।"),
    "Hindi, vowels alone tell names apart": ("कमल", "क्या कमल घर पर है?", "कोमल और कमाल घर पर हैं।"),
    "Hindi, a short name": ("राम", "मैंने राम को देखा।", "मैंने रामायण पढ़ी और आराम किया।"),
    "Hindi without the dot": ("ज़ाकिर हुसैन", "तबला जाकिर हुसैन बजाते हैं।", "तबला कोई और बजाता है।"),
    "Hindi, other order": ("राहुल शर्मा", "शर्मा, राहुल", "शर्मा जी आए।"),
    "Marathi": ("सचिन", "माझा मित्र सचिन आहे.", "त्याने सूचना दिली."),
    "Bengali": ("রবীন্দ্রনাথ", "কবি রবীন্দ্রনাথ গান লিখেছেন।", "কবি নজরুল গান লিখেছেন।"),
    "Tamil": ("கமல்", "நடிகர் கமல் வந்தார்.", "நடிகர் கோமல் வந்தார்; கமலா வந்தாள்."),
    "Bengali, of": ("রবীন্দ্রনাথ", "রবীন্দ্রনাথের গান শুনি।", "নজরুলের গান শুনি।"),
    "Bengali, to": ("রবীন্দ্রনাথ ঠাকুর", "রবীন্দ্রনাথ ঠাকুরকে চিনি।", "রবীন্দ্রনাথকে চিনি।"),
    "Bengali, a short name in a longer word": ("আলো", "আলো এল।", "আলোকে ভরা ঘর।"),
    "Tamil, of": ("கமல்", "கமலின் படம் நன்று.", "கமலாவின் படம் நன்று."),
    "Tamil, to": ("கமல்", "கமலுக்கு ஒரு கடிதம்.", "கமலாவுக்கு ஒரு கடிதம்."),
    "Tamil, behind a vowel": ("கமலா", "கமலாவிடம் சொன்னேன்.", "கமலிடம் சொன்னேன்."),
    "Tamil, the object": ("இராமன்", "இராமனை பார்த்தேன்.", "இராணியை பார்த்தேன்."),
    "Tamil, one sign makes another word": ("மால்", "மால் வந்தார்.", "மாலை வந்தது."),
    "Turkish, an apostrophe": ("Nazım Hikmet", "Nâzım Hikmet'in şiiri", "Nazım Hikmetyar'ın şiiri"),
    "Telugu": ("రాముడు", "నిన్న రాముడు వచ్చాడు.", "నిన్న రామడు వచ్చాడు."),
    "Thai": ("สมชาย", "เมื่อวานนายสมชายไปตลาดกับเพื่อน", "เมื่อวานนายสมชัยไปตลาดกับเพื่อน"),
    "Thai, tones tell names apart": ("แก้วตา", "ฉันชอบแก้วตามาก", "ฉันชอบแกวตามาก"),
    "Thai, within another group": ("ตาดาว", "เขาเห็นตาดาวที่บ้าน", "เขาเห็นตาเดาวที่บ้าน"),
    "Thai with a space": ("สมชาย ใจดี", "ผมรู้จักคุณสมชายใจดีครับ", "ผมใจดีครับ"),
    "Lao": ("ສົມສັກ", "ມື້ວານນີ້ສົມສັກໄປຕະຫຼາດ", "ມື້ວານນີ້ສົມສາກໄປຕະຫຼາດ"),
    "Khmer": ("សុខា", "ម្សិលមិញសុខាទៅផ្សារ", "ម្សិលមិញសខាទៅផ្សារ"),
    "Burmese": ("အောင်ဆန်း", "မနေ့ကအောင်ဆန်းလာတယ်", "မနေ့ကအောင်ဆုန်းလာတယ်"),
    "Japanese voicing": ("ばなな", "きのうばななをたべました", "きのうはななをたべました"),
    "Arabic with vowels": ("أحمد زكي", "رأيتُ أَحْمَد زَكِيّ في السوق.", "رأيت حمدي زكريا في السوق."),
    "Arabic without hamza": ("أحمد زكي", "رأيت احمد زكي في السوق", "رأيت محمد زكي في السوق"),
    "Arabic with a small word in front": ("أحمد", "هذه هدية لأحمد من أمه", "هذه هدية لأحمر من أمه"),
    "Arabic, and": ("سليمان", "جاء خالد وسليمان اليوم", "جاء خالد وسلمان اليوم"),
    "Arabic, stretched": ("فاطمة", "فاطـــمة", "فطم"),
    "Arabic, a short name in a longer word": ("سام", "جاء سام اليوم", "نال وسام اليوم"),
    "Persian letters": ("علیرضا", "دیروز عليرضا آمد", "دیروز علی آمد"),
    "Hebrew with vowels and a small word": ("אברהם", "סיפרתי לְאַבְרָהָם על זה", "סיפרתי לאביגיל על זה"),
    "an accent on Hindi": ("राहुल", "रा\u0301हुल", "रोहिल"),
    "a Thai mark on Latin": ("van Gogh", "v\u0e31an g\u0e34ogh", "a van"),
}  # fmt: skip


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize(("name", "named", "other"), SCRIPTS.values(), ids=SCRIPTS)
def test_names_of_all_scripts_are_found_in_sentences_and_other_words_are_not(name, named, other, private, tmp_path):
    guard = keyword_guard("x", [name], key=KEY if private else b"")
    guard.write(tmp_path / "guard.json")
    for item in (guard, KeywordGuard.read(tmp_path / "guard.json", KEY if private else b"")):
        assert item.check(named).hit
        assert not item.check(other).hit


@pytest.mark.parametrize("name", ["น้ำ", "ไม้", "ကြီး"])
def test_one_syllable_of_a_script_without_spaces_would_hit_everything(name):
    with pytest.raises(RequestError, match="more than one syllable"):
        keyword_guard("x", [name])


@pytest.mark.parametrize("private", [False, True])
def test_guards_of_the_former_normaliser_find_what_they_found(private):
    key = KEY if private else b""
    new = keyword_guard("x", ["\u5bae\u672c\u6b66\u8535", "van Gogh"], key=key)
    policy = new.to_policy()
    policy["stages"][0]["normaliser"] = 2
    old = KeywordGuard.from_policy(policy, key)
    assert old.to_policy() == policy
    assert old.check("v4n gogh").hit
    assert old.check("\u5bae\u672c\u6b66\u8535, a print").hit
    inside = "\u5bae\u672c\u6b66\u8535\u306e\u7d75"
    assert (old.check(inside).hit, new.check(inside).hit) == (False, True)
    policy["stages"][0]["normaliser"] = 3
    assert KeywordGuard.from_policy(policy, key).check(inside).hit
    policy["stages"][0]["normaliser"] = 4
    old = KeywordGuard.from_policy(policy, key)
    assert old.check(inside).hit
    assert (old.check("hgog nav").hit, new.check("hgog nav").hit) == (False, True)
    policy["stages"][0]["normaliser"] = 1
    with pytest.raises(CorruptArtifact):
        KeywordGuard.from_policy(policy, key)


@pytest.mark.parametrize(
    "words", [[], ["ab"], ["\u68b5"], ["\uae40"], ["a\u68b5"], ["one two three four five"], ["x" * 61]]
)
def test_keywords_that_would_hit_everything_are_refused(words):
    with pytest.raises(RequestError):
        keyword_guard("x", words)


class Pipe:
    """Counts its calls."""

    name, calls = "pipe", 0

    def __call__(self, prompt=None, **options):
        self.calls += 1
        return ["picture"] * (1 if isinstance(prompt, str) else len(prompt or [0]))


def blocking(**more):
    return Guarded(more.pop("pipe"), [keyword_guard("painter", ["van Gogh"], action="block", message="Not this one.")])


def test_a_blocked_prompt_reaches_no_model():
    pipe = Pipe()
    guarded = blocking(pipe=pipe)
    for given in (
        {"prompt": "by van gogh"},
        {"prompt": ["a cat", "v4n gogh"]},
        {"prompt": "a cat", "prompt_2": "van gogh"},
    ):
        with pytest.raises(RunRefused, match="Not this one"):
            guarded(**given)
    with pytest.raises(RunRefused, match="not_checkable"):
        guarded(prompt_embeds=object())
    assert pipe.calls == 0
    assert guarded("a cat") == ["picture"]
    assert (guarded.report, guarded.name) == ([], "pipe")


def test_a_flag_only_reports():
    guarded = Guarded(Pipe(), [keyword_guard("painter", ["van Gogh"])])
    assert guarded("by van gogh") == ["picture"]
    assert [verdict.reason for verdict in guarded.report] == ["painter: keyword"]


def test_answers_are_looked_at_too():
    guarded = blocking(pipe=lambda prompt: "It was Vincent van Gogh.")
    with pytest.raises(RunRefused, match="Not this one"):
        guarded("Who painted the sunflowers?")
