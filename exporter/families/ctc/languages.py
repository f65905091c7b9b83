"""The language of an MMS checkpoint: one vocabulary, adapter and head of a thousand.

Such a checkpoint's `vocab.json` holds a vocabulary for each language. A recipe names the one to
use, or else the tokenizer's `target_lang`, as in transformers. The adapters lie beside the weights.
"""

from difflib import get_close_matches
from pathlib import Path
from typing import Any

from exporter.errors import CheckpointError, RecipeError
from exporter.families.ctc.language_codes import matching
from exporter.families.language import OneLanguage
from exporter.formats.config_json import is_regular_file, read_json

_VOCABULARY, _TOKENIZER, TARGET = "vocab.json", "tokenizer_config.json", "target_lang"
_STORED = "eng"  # whose adapter the weights of facebook's checkpoints contain
_SHOWN = 8


def one_language(folder: Path, wanted: str | None) -> OneLanguage | None:
    """Return the language that a recipe or a checkpoint's tokenizer names; None without a choice.

    Raises:
        RecipeError: The checkpoint lacks the wanted one.
        CheckpointError: Its tokenizer names none that the vocabulary has.
    """
    if not is_regular_file(folder / _VOCABULARY):
        return None  # a whole tokenizer.json
    vocabularies = read_json(folder / _VOCABULARY)
    if not vocabularies or not all(isinstance(each, dict) for each in vocabularies.values()):
        return None
    path = folder / _TOKENIZER
    settings: dict[str, Any] = read_json(path) if is_regular_file(path) else {}
    told = settings.pop(TARGET, None) or _STORED
    name = wanted or told
    if name not in vocabularies:
        near = _near(str(name), [*vocabularies])
        if wanted:
            msg = f"the checkpoint has no language {wanted!r:.40}; {near}"
            raise RecipeError(msg)
        msg = f"{path}: {TARGET} {told!r:.40} has no vocabulary in {_VOCABULARY}; {near}"
        raise CheckpointError(msg)
    companions = {_VOCABULARY: vocabularies[name], _TOKENIZER: settings}
    return OneLanguage(str(name), f"adapter.{name}", name == _STORED, TARGET, companions)


def _near(name: str, known: list[str]) -> str:
    """Return a hint that names the nearest languages, or the first ones."""
    near = [*dict.fromkeys([*matching(name, known), *get_close_matches(name, known, n=4)])]
    shown = near[:_SHOWN] or sorted(known)[:_SHOWN]
    listed = ", ".join(shown) + (" ..." if len(known) > len(shown) else "")
    return f"{'the nearest are' if near else 'it has'} {listed}"
