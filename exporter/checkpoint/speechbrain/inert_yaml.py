"""HyperPyYAML as inert data: tags are words, nothing is imported, called or included.

Source of the tags: https://github.com/speechbrain/HyperPyYAML
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from exporter.errors import CheckpointError
from exporter.system.files import read_small

_MAX_BYTES = 256 << 10
_MAX_DEPTH = 20
_YAML = "tag:yaml.org,2002:"
_KINDS = ("map", "seq", "str", "int", "float", "bool", "null", "timestamp")
_PLAIN = frozenset(_YAML + each for each in _KINDS)
_REFERENCE, _CALL = "!ref", "!apply:"
_MADE = ("!new:", "!name:")
_DATA = frozenset({_REFERENCE, "!copy", "!tuple", "!PLACEHOLDER"})
_SEEDS = frozenset({"torch.manual_seed", "speechbrain.utils.seed_everything"})
_KEY = re.compile(r"<(\w+)>")
_NUMBER = re.compile(r"[0-9]{1,9}")
# What ruamel raises on other text than YAML, without a place in it.
_UNREADABLE = (YAMLError, ValueError, LookupError, TypeError, AttributeError, AssertionError)
_BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True)
class Entry:
    """One value of a file.

    Attributes:
        path: The file.
        key: The keys that lead to the value, joined by dots.
        node: The value.
        top: All values at the file's top, by key.
    """

    path: Path
    key: str
    node: Node
    top: dict[str, Node] = field(repr=False)

    def refuse(self, reason: str) -> NoReturn:
        """Raise CheckpointError about this value."""
        key = f"{_shown(self.key)}: " if self.key else ""
        msg = f"{self.path}:{self.node.start_mark.line + 1}: {key}{reason}"
        raise CheckpointError(msg)

    @property
    def made(self) -> str:
        """The name of the class or function that SpeechBrain would take, without its module."""
        tag = str(self.node.tag)
        return tag.rpartition(".")[2].rpartition(":")[2] if tag.startswith(_MADE) else ""

    def followed(self) -> "Entry":
        """Return the value that a reference to a whole key stands for, or this one."""
        here = self
        for _ in range(_MAX_DEPTH):
            if here.node.tag != _REFERENCE:
                return here
            found = _KEY.fullmatch(str(here.node.value))
            if found is None or found[1] not in self.top:
                told = _shown(str(here.node.value))
                self.refuse(f"`!ref {told}` names no key of this file, and is not computed")
            here = Entry(self.path, here.key, self.top[found[1]], self.top)
        return self.refuse("references that lead to one another")

    def entries(self) -> dict[str, "Entry"]:
        """Return the values of a mapping by key; there are none in an empty scalar."""
        if isinstance(self.node, ScalarNode) and not self.node.value:
            return {}
        if not isinstance(self.node, MappingNode):
            self.refuse("a mapping is expected")
        return {key.value: self._below(key.value, value) for key, value in self.node.value}

    def items(self) -> list["Entry"]:
        """Return the values of a list."""
        if not isinstance(self.node, SequenceNode):
            self.refuse("a list is expected")
        return [self._below(str(place), value) for place, value in enumerate(self.node.value)]

    def arguments(self, known: Collection[str], unused: Collection[str] = ()) -> dict[str, "Entry"]:
        """Return the arguments of what is made, followed.

        Args:
            known: The arguments that are returned if they are there.
            unused: Those that do not matter.

        Raises:
            CheckpointError: There is another one.
        """
        given = self.entries()
        for name, value in given.items():
            if name not in known and name not in unused:
                can = ", ".join(known) or "none"
                msg = f"{self.made} with this argument is not supported (supported: {can})"
                value.refuse(msg)
        return {name: given[name].followed() for name in known if name in given}

    def number(self) -> int:
        """Return a whole number that is not negative."""
        text = self._scalar()
        if not _NUMBER.fullmatch(text):
            self.refuse(f"a whole number is expected, not {_shown(text)!r}")
        return int(text)

    def boolean(self) -> bool:
        """Return a boolean."""
        text = self._scalar()
        if text.lower() not in _BOOLEANS:
            self.refuse(f"true or false is expected, not {_shown(text)!r}")
        return _BOOLEANS[text.lower()]

    def _scalar(self) -> str:
        if not isinstance(self.node, ScalarNode) or str(self.node.tag) not in _PLAIN:
            self.refuse("a plain value is expected")
        return str(self.node.value)

    def _below(self, key: str, node: Node) -> "Entry":
        return Entry(self.path, f"{self.key}.{key}" if self.key else key, node, self.top)


def read(path: Path) -> Entry:
    """Read a file of HyperPyYAML, of at most 256 KiB and 20 levels.

    Args:
        path: The file.

    Returns:
        The whole file.

    Raises:
        CheckpointError: It is no such file, has anchors, or a tag that is none of HyperPyYAML's or
            whose function would be called for an unknown purpose.
    """
    data = read_small(path, _MAX_BYTES, CheckpointError, "hyperparameters")
    try:
        root: Any = YAML(typ="safe", pure=True).compose(data.decode("utf-8"))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        msg = f"{place}: {str(error.problem or error.context).splitlines()[0]}"
        raise CheckpointError(msg) from None
    except (*_UNREADABLE, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        msg = f"{path}: not readable as YAML ({_shown((reason.splitlines() or [''])[0])})"
        raise CheckpointError(msg) from None
    if not isinstance(root, MappingNode):
        msg = f"{path}: a mapping is expected: this is no SpeechBrain's"
        raise CheckpointError(msg)
    top: dict[str, Node] = {}
    for entry in _all(Entry(path, "", root, top)):
        _require_inert(entry)
    top.update({key.value: value for key, value in root.value})
    return Entry(path, "", root, top)


def _all(entry: Entry, depth: int = 0) -> Iterator[Entry]:
    """Yield a value and all inside of it, each before what it contains."""
    if depth > _MAX_DEPTH:
        entry.refuse(f"nested more than {_MAX_DEPTH} levels deep")
    yield entry
    below: list[Entry] = []
    if isinstance(entry.node, MappingNode):
        below = list(entry.entries().values())
    elif isinstance(entry.node, SequenceNode):
        below = entry.items()
    for each in below:
        yield from _all(each, depth + 1)


def _require_inert(entry: Entry) -> None:
    """Refuse anchors, repeated keys, and tags that are not known to be harmless."""
    node, tag = entry.node, str(entry.node.tag)
    if node.anchor:
        entry.refuse("anchors (&) and aliases (*) are not read: write the value out")
    if isinstance(node, MappingNode) and node.value:
        if not all(isinstance(key, ScalarNode) and not key.anchor for key, _ in node.value):
            entry.refuse("a key is no text")
        key, times = Counter(str(key.value) for key, _ in node.value).most_common(1)[0]
        if times > 1:
            entry.refuse(f"the key {_shown(key)} is there twice")
    seed = tag.startswith(_CALL) and tag.removeprefix(_CALL) in _SEEDS
    if not (tag.startswith(_MADE) or tag in _PLAIN or tag in _DATA or seed):
        entry.refuse(
            f"`{_shown(tag)}` would run code, open files or is unknown: this is never done.\n"
            "If the model does not need it, remove it from the file."
        )


def _shown(text: str) -> str:
    """Return text of a file in one printable line."""
    short = text if len(text) <= 80 else f"{text[:77]}..."
    return short if short.isprintable() else ascii(short)
