"""The small files beside a checkpoint's weights, in the form that every loader reads.

transformers 5 writes two of them as transformers 4 cannot read them: the feature extractor's
settings inside `processor_config.json`, and special tokens as a list. Their content is converted to
the older form, which both releases read. Source: `ProcessorMixin.to_dict` and
`PreTrainedTokenizerBase.save_pretrained` of transformers 5.
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath
from shlex import quote
from typing import Any

from exporter.checkpoint.files import CONFIG
from exporter.errors import CheckpointError
from exporter.families.facts import Companions
from exporter.formats.config_json import is_regular_file, read_json, refuse_code

_TOKENIZER = "tokenizer_config.json"
_EXTRACTOR_KEYS = ("feature_extractor", "audio_processor")  # the second since release 5.2
_LIST, _OLDER_LIST = "extra_special_tokens", "additional_special_tokens"


def require(folder: Path, companions: Companions) -> dict[str, Path]:
    """Return the files that hold a checkpoint's companions, by the companions' names.

    Args:
        folder: The checkpoint.
        companions: What its family needs.

    Raises:
        CheckpointError: A loader needs more, or a file is a link out of the checkpoint, names code,
            or is damaged.
    """
    refuse_foreign(folder, companions.stored_names)
    found = present(folder, companions)
    if lacking := companions.missing(found):
        files = " ".join(name.split()[0] for name in lacking)
        msg = (
            f"{folder}: missing {', '.join(lacking)}.\n"
            "Copy from the model that it was trained from: "
            f"hf download ORG/NAME {files} --local-dir {quote(str(folder))}"
        )
        raise CheckpointError(msg)
    return found


def missing(
    names: Collection[str], bring: Callable[[str], Path], companions: Companions
) -> list[str]:
    """Return the companions that are neither among `names` nor inside another of these files.

    Args:
        names: The names of all files.
        bring: Returns the path of a file, which it may download first.
        companions: What their family needs.
    """
    inside = {
        name
        for name, outer in companions.nested.items()
        if name not in names and outer in names and _nested(bring(outer)) is not None
    }
    return companions.missing({*names, *inside})


def present(folder: Path, companions: Companions) -> dict[str, Path]:
    """Return the companions in a folder, as `require` does, also where some are missing."""
    found: dict[str, Path] = {}
    for name in companions.names:
        outer = folder / companions.nested.get(name, name)
        if (folder / name).is_file():
            found[name] = folder / name
            _refuse_two_versions(folder / name, outer)
        elif outer.is_file() and _nested(outer) is not None:
            found[name] = outer
    return found


def carried(folder: Path, companions: Companions) -> dict[str, Path]:
    """Return the files of a checkpoint that artifacts carry for other loaders, by POSIX path.

    Args:
        folder: The checkpoint.
        companions: What its family carries.

    Raises:
        CheckpointError: A file is a link out of the checkpoint, no regular file, or damaged JSON.
    """
    inside = {str(PurePosixPath(pattern).parent) for pattern in companions.carried}
    there = [
        f"{name}/{path.name}"
        for name in sorted(inside)
        if (folder / name).is_dir()
        for path in (folder / name).iterdir()
    ]
    names = companions.carries(there)
    refuse_foreign(folder, names)
    return {name: folder / name for name in names}


def converted(found: Mapping[str, Path], companions: Companions) -> dict[str, bytes]:
    """Return the content of the companions whose files have transformers 5's form.

    Args:
        found: The files by the companions' names.
        companions: What their family needs.
    """
    changed: dict[str, dict[str, Any]] = {}
    for name in companions.nested.keys() & found.keys():
        inner = _nested(found[name])
        if inner is not None:
            changed[name] = inner
    if _TOKENIZER in found:
        settings = read_json(found[_TOKENIZER])
        older = _older_tokenizer(found[_TOKENIZER], settings, companions.tokenizer_class)
        if older != settings:
            changed[_TOKENIZER] = older
    return {name: _text(values) for name, values in changed.items()}


def overlaid(
    companions: Companions, own: Mapping[str, Path], base: Mapping[str, Path]
) -> dict[str, Path]:
    """Return an adapter's companions, and the base's where it has none.

    A tokenizer's files are all the adapter's, if none is missing there, or all the base's.
    """
    tokenizer = base if companions.missing({*own, *companions.configs}) else own
    configs = {**base, **own, CONFIG: base[CONFIG]}
    return {name: configs[name] for name in companions.configs} | {
        name: path for name, path in tokenizer.items() if name in companions.tokenizer
    }


def refuse_foreign(folder: Path, names: Iterable[str]) -> None:
    """Refuse configs with code, and links out of the checkpoint, whose targets would be copied.

    Allowed are the links of the Hub's cache, which lead into `blobs` beside its snapshots.
    """
    here = folder.resolve()
    for name in names:
        path, own = folder / name, (here / name).parent
        if not is_regular_file(path):
            continue
        target = path.resolve()
        cached = target.parent == here.parent.parent / "blobs"
        if target.parent != own and not cached:
            msg = f"{path} is a link that leads out of the checkpoint: put the file there"
            raise CheckpointError(msg)
        if path.name.endswith("config.json"):
            refuse_code(path)
        elif path.suffix == ".json":
            read_json(path)  # some are only copied into artifacts, for other loaders


def _nested(path: Path) -> dict[str, Any] | None:
    """Return the feature extractor's settings inside a config of transformers 5, if it has them."""
    settings = read_json(path)
    inner = next((settings[key] for key in _EXTRACTOR_KEYS if settings.get(key)), None)
    if inner is None:
        return None
    if not isinstance(inner, dict):
        msg = f"{path}: the feature extractor's settings are no JSON object: save it again"
        raise CheckpointError(msg)
    return {key: settings[key] for key in ("processor_class",) if key in settings} | inner


def _refuse_two_versions(path: Path, outer: Path) -> None:
    """Refuse settings of which transformers 4 would read one version and transformers 5 another."""
    if outer == path or not outer.is_file():
        return
    older, newer = _nested(path) or read_json(path), _nested(outer) or {}
    for key in sorted(older.keys() & newer.keys()):
        if older[key] != newer[key]:
            msg = (
                f"{path} says {key}: {older[key]!r:.40}, {outer.name} says {newer[key]!r:.40}.\n"
                "Remove the file that is out of date."
            )
            raise CheckpointError(msg)


def _older_tokenizer(path: Path, settings: dict[str, Any], own_class: str) -> dict[str, Any]:
    """Return a tokenizer's settings as transformers 4 reads them."""
    older = dict(settings)
    if older.get(_LIST, {}) is None:
        del older[_LIST]
    if isinstance(older.get(_LIST), list):
        known = older.get(_OLDER_LIST) or []
        if not isinstance(known, list):
            msg = f"{path}: {_OLDER_LIST} is no list of tokens"
            raise CheckpointError(msg)
        added = [one for one in older.pop(_LIST) if one not in known]
        older[_OLDER_LIST] = [*known, *map(_token, added)]
    if str(older.get("tokenizer_class")).endswith("Backend"):
        older["tokenizer_class"] = own_class
    return older


def _token(token: Any) -> Any:
    """Return a special token in the form in which transformers 4 saves those with properties."""
    return {"__type": "AddedToken", **token} if isinstance(token, dict) else token


def _text(values: dict[str, Any]) -> bytes:
    return json.dumps(values, indent=2).encode() + b"\n"
