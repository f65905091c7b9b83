"""Compare an artifact's small files with what a build writes from its checkpoint, value by value.

A build copies a checkpoint's configs and tokenizer, in the form of
`exporter.checkpoint.companions`, and its target writes some files of its own, which
`Target.records` gives. Any other difference is none that a build makes.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any

from exporter.artifact.manifest import RECIPE, Manifest
from exporter.artifact.report import Check
from exporter.checkpoint.checkpoint import Checkpoint
from exporter.errors import IntegrityError
from exporter.system.files import read_small, sha256_file
from exporter.system.text import harmless
from exporter.validate.evidence.effects import effect, severity

NAME = "companions"
# Graphs, code and weights, which other checks open.
_LARGE = (".onnx", ".onnx_data", ".pt2", ".safetensors")
_FOR_OTHERS = "what other loaders decode with"
_MAX_BYTES = 64 << 20
_MOST_SHOWN = 48
_REMEDY = "Build it again with --force."


@dataclass(frozen=True)
class Difference:
    """One value that differs from what the build writes.

    Attributes:
        file: The file, by its POSIX path inside the artifact.
        key: Keys and list positions that lead to the value, like `added_tokens.3.content`; for
            text, the line; empty where the whole file is missing or extra.
        artifact: The artifact's value, shortened.
        original: The value that the build writes, shortened.
        effect: A clause on what the value does.
        order: Sorts differences: what decoding reads first comes first.
        offset: The artifact's number minus the original's, where both are whole numbers.
    """

    file: str
    key: str
    artifact: str
    original: str
    effect: str
    order: tuple[int, int]
    offset: int | None = None

    @property
    def sentence(self) -> str:
        """The difference in words."""
        if not self.key:
            return f"{self.file} is {self.artifact}, {self.original} ({self.effect})"
        return f"{self.file}: {self.key} is {self.artifact}, {self.original} ({self.effect})"


class _Absent:
    """A value that is not there."""


_ABSENT = _Absent()


def compare_companions(
    folder: Path, manifest: Manifest, checkpoint: Checkpoint, own: Mapping[str, bytes]
) -> list[Difference]:
    """Compare every small file of an artifact with what its build writes.

    Args:
        folder: The artifact, whose bytes are verified.
        manifest: Its manifest.
        checkpoint: The checkpoint that it was built from.
        own: The files that its target writes itself, by POSIX path.

    Returns:
        The differences, those that decoding reads first at the beginning.

    Raises:
        IntegrityError: A small file is larger than any of its kind.
    """
    written = {name: checkpoint.companion(name) for name in checkpoint.companions} | dict(own)
    sealed = {file.path for file in manifest.files} - {RECIPE}
    small = {name for name in sealed if PurePosixPath(name).suffix not in _LARGE}
    small -= checkpoint.carried.keys()
    found = [*_missing(written.keys() - sealed), *_extra(small - written.keys())]
    found += _carried(manifest, checkpoint)
    for name in sorted(written.keys() & sealed):
        here = read_small(folder / name, _MAX_BYTES, IntegrityError, "a small file")
        if here != written[name]:
            found += _differences(name, here, written[name])
    return sorted(found, key=lambda one: (one.order, one.file, one.key))


def judged(differences: Sequence[Difference], files: int) -> Check:
    """Return the check of some differences.

    Args:
        differences: What `compare_companions` found.
        files: The number of small files that were compared.
    """
    if not differences:
        sentence = f"All {files} small files hold what a build writes from the checkpoint."
        return Check(name=NAME, passed=True, value=0, limit=0, sentence=sentence)
    first, *others = differences
    more = ""
    if others:
        names = sorted({one.file for one in others})
        listed = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
        noun = "value differs" if len(others) == 1 else "values differ"
        more = f" {len(others):,} more {noun}, in {listed}."
    return Check(
        name=NAME,
        passed=False,
        value=len(differences),
        limit=0,
        sentence=f"{first.sentence}.{more}",
        advice=f"{_cause(differences)} {_REMEDY}",
    )


def _carried(manifest: Manifest, checkpoint: Checkpoint) -> Iterator[Difference]:
    """Yield the files for other loaders that have other bytes, or are missing."""
    sealed = {file.path: file.sha256 for file in manifest.files}
    for name, path in checkpoint.carried.items():
        if name not in sealed:
            told = "missing", "the build copies it"
        elif sealed[name] != sha256_file(path):
            told = "other bytes", "unlike the original"
        else:
            continue
        yield Difference(name, "", *told, _FOR_OTHERS, severity(name, ()))


def _missing(names: set[str]) -> Iterator[Difference]:
    for name in names:
        yield Difference(
            name, "", "missing", "the build writes it", effect(name, ()), severity(name, ())
        )


def _extra(names: set[str]) -> Iterator[Difference]:
    for name in names:
        yield Difference(
            harmless(name)[:_MOST_SHOWN],
            "",
            "extra",
            "the checkpoint has none",
            effect(name, ()),
            severity(name, ()),
        )


def _differences(name: str, here: bytes, there: bytes) -> Iterator[Difference]:
    """Yield the differences of two files that have other bytes; equal values are none."""
    ours, theirs = _parsed(name, here), _parsed(name, there)
    if isinstance(ours, _Absent) or isinstance(theirs, _Absent):
        yield from _lines(name, here, there)
        return
    for path, one, other in _values(ours, theirs, ()):
        whole = type(one) is int and type(other) is int
        yield Difference(
            name,
            _cut(harmless(".".join(map(str, path))), 2 * _MOST_SHOWN),
            _shown(one, other),
            "absent in the original" if other is _ABSENT else f"{_shown(other, one)} originally",
            effect(name, path),
            severity(name, path),
            one - other if whole else None,
        )


def _parsed(name: str, content: bytes) -> Any:
    """Return the JSON value of a file; `_ABSENT` for other files and what is not JSON."""
    if not name.endswith(".json"):
        return _ABSENT
    try:
        return json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError):
        return _ABSENT


def _values(
    one: Any, other: Any, path: tuple[str | int, ...]
) -> Iterator[tuple[tuple[str | int, ...], Any, Any]]:
    """Yield path and both values where two JSON values differ.

    Lists are compared place by place if they are equally long, else as a whole.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *(key for key in other if key not in one)]:
            yield from _values(one.get(key, _ABSENT), other.get(key, _ABSENT), (*path, key))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for place, (mine, theirs) in enumerate(zip(one, other, strict=True)):
            yield from _values(mine, theirs, (*path, place))
    elif type(one) is not type(other) or one != other:  # in JSON, true is not 1, nor is 1.0
        yield path, one, other


def _lines(name: str, here: bytes, there: bytes) -> Iterator[Difference]:
    """Yield the first line of two texts that differs, and how many do in its `key`."""
    pairs = list(zip_longest(here.splitlines(), there.splitlines()))
    unequal = [place for place, (one, other) in enumerate(pairs) if one != other]
    if not unequal:  # only the ends of lines differ
        return
    place = unequal[0]
    one, other = (_ABSENT if line is None else _text(line) for line in pairs[place])
    yield Difference(
        name,
        f"line {place + 1:,} of {len(pairs):,}",
        _shown(one, other),
        "absent in the original" if other is _ABSENT else f"{_shown(other, one)} originally",
        effect(name, ()),
        severity(name, ()),
    )


def _text(line: bytes) -> str:
    return line.decode("utf-8", errors="backslashreplace")


def _shown(value: Any, other: Any) -> str:
    """Return a value in one short line, which shows where two long ones differ."""
    if value is _ABSENT:
        return "absent"
    if isinstance(value, list) and isinstance(other, list):
        return f"a list of {len(value):,}{_members(value, other)}"
    if isinstance(value, dict):
        return f"an object of {len(value):,} keys"
    return _cut(harmless(_json(value)), _MOST_SHOWN)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def _members(value: list[Any], other: list[Any]) -> str:
    """Return up to three members that only the first of two lists has."""
    known = {_json(each) for each in other}
    only = [shown for shown in map(_json, value) if shown not in known]
    listed = ", ".join(harmless(shown)[:20] for shown in only[:3])
    return f" (with {listed}{' ...' if len(only) > 3 else ''})" if only else ""


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _cause(differences: Sequence[Difference]) -> str:
    """Return what usually makes such differences."""
    offsets = [one.offset for one in differences if one.offset is not None]
    by_one = [offset for offset in offsets if abs(offset) == 1]
    if len(by_one) > 1 and len(by_one) == len(offsets) and len(set(by_one)) == 1:
        return (
            "Token ids that all differ by one are those of an English-only model beside a "
            "multilingual one, or of large-v3 beside an older one: the files are another model's."
        )
    keys = {one.key for one in differences}
    if keys & {"num_mel_bins", "feature_size", "d_model", "encoder_layers", "decoder_layers"}:
        return "It was most likely copied from another size or version of the model."
    if all(one.order >= severity("", ("transformers_version",)) for one in differences):
        return "The file was saved again by another release, which changes nothing that is decoded."
    return (
        "Usual causes: files copied from another model, saved again by another release of "
        "transformers, or edited by hand."
    )
