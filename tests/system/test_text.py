"""Strangers' text is harmless on a terminal, and what scripts need stays as it is."""

import json
import unicodedata

import pytest

from exporter.system.text import harmless, in_markdown, listed, width_of

BIDI_CONTROLS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
KEPT = {
    "plain": "turn on the light, please! 25 % [v1] `x` <b>",
    "umlauts": "größer, naïve — “so”",
    "decomposed": "e\u0301 n\u0303",
    "persian with ZWNJ": "می\u200cخواهم",  # noqa: RUF001
    "persian at a word's end": "خانه\u200c ها",  # noqa: RUF001
    "hindi with ZWJ": "क्\u200dष",
    "sinhala with ZWJ": "ශ්\u200dරී",
    "malayalam": "അവന്\u200d",
    "khmer divided": "ខ្ញុំ\u200bទៅ",
    "thai": "สวัสดี\u200bครับ",
    "mongolian": "ᠪᠠᠢ\u180eᠠ",
    "hebrew with points": "שָׁלוֹם",
    "arabic number sign": "\u0600٢٣",
    "japanese with its space": "日本\u3000語",
    "variant of a han letter": "葛\U000e0100",
    "french spaces": "oui\u00a0! et\u202f: non",
    "family emoji": "👩\u200d👩\u200d👧",
    "emoji style and flag": "❤\ufe0f\u200d🔥 🇩🇪",
    "skin": "👩🏽\u200d🔬",
}
ESCAPED = {
    "colour": ("\x1b[31mred", "\\x1b[31mred"),
    "C1 CSI": ("\x9b2J", "\\x9b2J"),
    "title": ("\x1b]0;x\x07", "\\x1b]0;x\\x07"),
    "line end": ("a\nreport.verdict: passed", "a\\nreport.verdict: passed"),
    "carriage return": ("error\rfine", "error\\rfine"),
    "backspace": ("no\x08\x08ok", "no\\x08\\x08ok"),
    "NEL": ("a\x85b", "a\\x85b"),
    "line separators": ("a\u2028b\u2029c", "a\\u2028b\\u2029c"),
    "bidi override": ("gpj\u202eexe", "gpj\\u202eexe"),
    "bidi isolates": ("\u2066a\u2069", "\\u2066a\\u2069"),
    "bidi marks": ("a\u200e\u200f\u061c", "a\\u200e\\u200f\\u061c"),
    "zero width in latin": ("pass\u200bed\u200c\u200d", "pass\\u200bed\\u200c\\u200d"),
    "BOM and word joiner": ("\ufeffa\u2060b", "\\ufeffa\\u2060b"),
    "soft hyphen": ("a\u00adb", "a\\xadb"),
    "tags": ("\U000e0041", "\\U000e0041"),
    "many variation selectors": ("a\ufe0f\ufe0f", "a\ufe0f\\ufe0f"),
    "selector alone": ("\U000e0100", "\\U000e0100"),
    "lone surrogate": ("out\ud83d", "out\\ud83d"),
    "byte of a name": ("out\udcff", "out\\xff"),
    "filler": ("\u3164a\u2800", "\\u3164a\\u2800"),
    "private": ("\ue000", "\\ue000"),
    "two joiners": ("क्\u200d\u200d\u200dष", "क्\u200d\\u200d\u200dष"),
}


@pytest.mark.parametrize("text", KEPT.values(), ids=KEPT)
def test_text_that_people_write_stays(text: str) -> None:
    assert harmless(text) == text


@pytest.mark.parametrize(("text", "shown"), ESCAPED.values(), ids=ESCAPED)
def test_what_could_mislead_is_escaped(text: str, shown: str) -> None:
    assert harmless(text) == shown
    assert harmless(shown) == shown


def test_no_control_or_format_character_passes_alone() -> None:
    every = list(map(chr, range(0x3000))) + list(map(chr, range(0xD800, 0x10000)))
    bad = {"Cc", "Cs", "Co", "Cn", "Zl", "Zp"}
    unseen = [each for each in every if unicodedata.category(each) in bad]
    turning = [each for each in every if unicodedata.bidirectional(each) in BIDI_CONTROLS]
    assert harmless("a".join(unseen + turning)).isascii()


def test_every_letter_and_digit_stays() -> None:
    every = map(chr, range(0x10000))
    seen = "".join(each for each in every if unicodedata.category(each)[0] in "LN")
    fillers = {"\u115f", "\u1160", "\u3164", "\uffa0"}
    assert harmless(seen).count("\\") == len(fillers & set(seen)) == 4


@pytest.mark.parametrize("text", [*KEPT.values(), *(text for text, _ in ESCAPED.values())])
def test_escapes_of_json_keep_the_value(text: str) -> None:
    written = json.dumps(text, ensure_ascii=False)
    safe = harmless(written, escape=lambda character: json.dumps(character)[1:-1])
    assert json.loads(safe) == text
    assert harmless(safe) == safe


def test_markup_is_inert() -> None:
    assert in_markdown("WER -0.57 points (95 % interval)") == "WER -0.57 points (95 % interval)"
    hostile = "a|b\n# x <img src=x> [l](https://e.org) `c` **b** &lt; www.e.org"
    assert in_markdown(hostile) == (
        r"a\|b\\n# x \<img src=x\> \[l\](https\://e.org) \`c\` \*\*b\*\* \&lt; www\.e.org"
    )


def test_names_are_listed_in_one_harmless_line() -> None:
    assert listed(["b\n", "a"]) == "a, b\\n"
    assert listed("abcd") == "a, b, c ..."


def test_the_columns_of_a_text() -> None:
    assert [width_of(text) for text in ("ab", "日本", "e\u0301", "می\u200cخ")] == [2, 4, 1, 3]
