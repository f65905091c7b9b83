"""Checkpoints as transformers 5 saves them, made of those that transformers 4 saved.

The files are those of release 5.23's `save_pretrained` of model and processor.
"""

import json
from pathlib import Path
from typing import Any

_DROPPED = ("vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json")


def as_transformers_5(folder: Path) -> Path:
    """Rewrite a checkpoint in place."""
    extractor, names = folder / "preprocessor_config.json", folder / "tokenizer_config.json"
    inner = json.loads(extractor.read_text())
    outer = {"feature_extractor": inner, "processor_class": inner.pop("processor_class", None)}
    (folder / "processor_config.json").write_text(json.dumps(outer))
    extractor.unlink()
    settings = json.loads(names.read_text())
    listed = settings.pop("additional_special_tokens")
    settings.pop("added_tokens_decoder", None)  # which release 5 saves no longer
    newer = {"extra_special_tokens": listed, "backend": "tokenizers", "is_local": True}
    names.write_text(json.dumps({**settings, **newer, "local_files_only": False}))
    for name in _DROPPED:
        (folder / name).unlink(missing_ok=True)
    change(folder / "config.json", dtype="float32", transformers_version="5.23.0")
    return folder


def change(path: Path, **values: Any) -> None:
    """Change values of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
