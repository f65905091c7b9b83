"""The language of an MMS checkpoint: one vocabulary, adapter and head of a thousand.

Such a checkpoint's `vocab.json` holds a vocabulary for each language, and the tokenizer's
`target_lang` names the one to use, as in transformers. The adapters lie beside the weights.
"""

from pathlib import Path
from typing import Any

from exporter.errors import CheckpointError
from exporter.families.language import OneLanguage
from exporter.formats.config_json import is_regular_file, read_json

_VOCABULARY, _TOKENIZER, _TARGET = "vocab.json", "tokenizer_config.json", "target_lang"
_STORED = "eng"  # whose adapter the weights of facebook's checkpoints contain
_SHOWN = 8


def one_language(folder: Path) -> OneLanguage | None:
    """Return the language that a checkpoint's tokenizer names; None if it has no choice.

    Raises:
        CheckpointError: It names none that the vocabulary has.
    """
    vocabularies = read_json(folder / _VOCABULARY)
    if not vocabularies or not all(isinstance(each, dict) for each in vocabularies.values()):
        return None
    path = folder / _TOKENIZER
    settings: dict[str, Any] = read_json(path) if is_regular_file(path) else {}
    name = settings.pop(_TARGET, None) or _STORED
    if name not in vocabularies:
        known = sorted(vocabularies)
        shown = ", ".join(known[:_SHOWN]) + (" ..." if len(known) > _SHOWN else "")
        msg = f"{path}: {_TARGET} {name!r:.40} has no vocabulary in {_VOCABULARY}: {shown}"
        raise CheckpointError(msg)
    companions = {_VOCABULARY: vocabularies[name], _TOKENIZER: settings}
    return OneLanguage(str(name), f"adapter.{name}", name == _STORED, companions)
