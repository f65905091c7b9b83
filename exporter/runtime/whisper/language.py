"""The languages of Whisper: their names, and finding that of a recording."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from exporter.runtime.whisper.engine import Engine, Scores, Tokens

_NAMED = """
    af:afrikaans am:amharic ar:arabic as:assamese az:azerbaijani ba:bashkir be:belarusian
    bg:bulgarian bn:bengali bo:tibetan br:breton bs:bosnian ca:catalan ca:valencian cs:czech
    cy:welsh da:danish de:german el:greek en:english es:castilian es:spanish et:estonian
    eu:basque fa:persian fi:finnish fo:faroese fr:french gl:galician gu:gujarati ha:hausa
    haw:hawaiian he:hebrew hi:hindi hr:croatian ht:haitian ht:haitian_creole hu:hungarian
    hy:armenian id:indonesian is:icelandic it:italian ja:japanese jw:javanese ka:georgian
    kk:kazakh km:khmer kn:kannada ko:korean la:latin lb:letzeburgesch lb:luxembourgish
    ln:lingala lo:lao lt:lithuanian lv:latvian mg:malagasy mi:maori mk:macedonian ml:malayalam
    mn:mongolian mr:marathi ms:malay mt:maltese my:burmese my:myanmar ne:nepali nl:dutch
    nl:flemish nn:nynorsk no:norwegian oc:occitan pa:panjabi pa:punjabi pl:polish ps:pashto
    ps:pushto pt:portuguese ro:moldavian ro:moldovan ro:romanian ru:russian sa:sanskrit
    sd:sindhi si:sinhala si:sinhalese sk:slovak sl:slovenian sn:shona so:somali sq:albanian
    sr:serbian su:sundanese sv:swedish sw:swahili ta:tamil te:telugu tg:tajik th:thai tk:turkmen
    tl:tagalog tr:turkish tt:tatar uk:ukrainian ur:urdu uz:uzbek vi:vietnamese yi:yiddish
    yo:yoruba yue:cantonese zh:chinese zh:mandarin
"""

LANGUAGE_CODES = {
    name.replace("_", " "): code for code, _, name in (p.partition(":") for p in _NAMED.split())
}
"""The codes of languages by their English names. Source: openai-whisper, `tokenizer.py`."""


@dataclass(frozen=True)
class FoundLanguage:
    """A language that was found: its token, and its probability among the languages."""

    token: int
    probability: float


def find_languages(
    engine: Engine, encoded: Any, start: int, languages: Tokens
) -> tuple[Tokens, Scores]:
    """Return each window's most likely language, and its probability among the languages.

    It is what the model says after its first token, as in transformers' `detect_language`.

    Args:
        engine: What decodes.
        encoded: The windows, as `encode` returned them.
        start: The token <|startoftranscript|>.
        languages: The tokens of the checkpoint's languages, int64 [languages].

    Returns:
        One of `languages` for each window, int64 [windows], and probabilities [windows].
    """
    hypotheses = engine.start(encoded)
    try:
        logits = hypotheses.step(np.full((hypotheses.windows, 1), start))[:, -1]
        ordered = np.sort(languages)  # of equal ones the first, whatever the order in the config
        scores = logits[:, ordered]
    finally:
        hypotheses.release()
    found: Tokens = ordered[scores.argmax(-1)]
    most = scores.max(-1, keepdims=True)
    return found, 1 / np.exp(scores - most).sum(-1)
