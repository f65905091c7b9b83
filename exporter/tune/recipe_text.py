"""Write a found plan into a recipe's text: comments stay, and the file builds without a search."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from exporter.quantization.groups import selecting
from exporter.quantization.plan import Match
from exporter.quantization.schemes.base import QuantizationScheme
from exporter.recipe import FolderName, Recipe

Rules = dict[str, Any]
"""The value of `quantization` in a recipe."""

_MOST_NAME = 96  # characters: see `FolderName`
_SUFFIX = "-tuned"


def tuned_name(name: FolderName) -> FolderName:
    """Return the name of the recipe that is written."""
    return f"{name[: _MOST_NAME - len(_SUFFIX)]}{_SUFFIX}"


def rules_of(
    matches: Sequence[Match],
    changed: Mapping[QuantizationScheme, Sequence[str]],
    names: Sequence[str],
    head: str,
) -> Rules:
    """Return the rules that give some modules other schemes, and all others what they had.

    Args:
        matches: What the recipe's own rules match, the default's last.
        changed: The modules that get another scheme, by the scheme.
        names: The names of all modules that a pattern could match.
        head: The name of the module that projects to the vocabulary.

    Returns:
        Few patterns for the changed modules, then those of the recipe that still decide anything.
    """
    moved = {name for names in changed.values() for name in names}
    modules = Rules()
    for scheme, some in changed.items():
        modules |= dict.fromkeys(selecting(some, names, head) if some else (), _told(scheme))
    *patterns, default = matches
    for match in patterns:
        if match.pattern is not None and set(match.modules) - moved:
            modules.setdefault(match.pattern, _told(match.scheme))
    return {"default": _told(default.scheme), **({"modules": modules} if modules else {})}


def _told(scheme: QuantizationScheme) -> object:
    parameters = scheme.model_dump(mode="json", exclude_defaults=True)
    return {"scheme": scheme.name, **parameters} if parameters else scheme.name


def overrides_of(recipe: Recipe, index: int, rules: Rules) -> tuple[str, ...]:
    """Return the overrides that build a target of a recipe with other rules."""
    flow = json.dumps(rules, ensure_ascii=False)
    return (*recipe.overrides, f"targets.{index}.quantization={flow}")


def tuned_text(recipe: Recipe, index: int, rules: Rules, note: str, place: Path) -> str:
    """Return a recipe's text with other rules and another name; all else stays as written.

    The rules replace those of the target where it has its own, else the recipe's.

    Args:
        recipe: The recipe.
        index: The target's index.
        rules: The rules.
        note: A comment for them, in one line.
        place: The path that the text is for, to which its own paths become relative.
    """
    wanted = _data(recipe.text)
    own = recipe.targets[index].quantization is not None
    loc = ("targets", index) if own else ()
    owner = wanted["targets"][index] if own else wanted
    owner["quantization"], wanted["name"] = rules, tuned_name(recipe.name)
    moved = dict(_moved(recipe, place))
    if "checkpoint" in moved:
        wanted["checkpoint"] = moved["checkpoint"]
    if "clips" in moved:
        wanted["data"]["clips"] = moved["clips"]
    edited = _edited(recipe.text, loc, wanted, rules, moved, note)
    try:
        if edited is not None and _data(edited) == wanted:
            return edited
    except YAMLError:
        pass  # an unusual text: it is written anew, without its comments
    stream = StringIO()
    YAML(typ="safe", pure=True).dump(wanted, stream)
    return f"# {note}\n{stream.getvalue()}"


def _moved(recipe: Recipe, place: Path) -> Iterator[tuple[str, str]]:
    """Yield the paths in a recipe that are relative to its folder, as they are from another."""
    base, other = recipe.path.parent.resolve(), place.parent.resolve()
    if base == other:
        return
    clips = recipe.data.clips if recipe.data else None
    for key, path in (("checkpoint", recipe.checkpoint), ("clips", clips)):
        if path and not Path(path).is_absolute() and (base / path).exists():
            yield key, os.path.relpath(base / path, other)


def _edited(
    text: str,
    loc: tuple[str | int, ...],
    wanted: Mapping[str, Any],
    rules: Rules,
    moved: Mapping[str, str],
    note: str,
) -> str | None:
    """Return the text with single values replaced; None where their places are not found."""
    root = YAML(typ="safe", pure=True).compose(text)
    changes = [_change(root, ("name",), json.dumps(wanted["name"]).strip('"'))]
    if "checkpoint" in moved:
        changes.append(_change(root, ("checkpoint",), json.dumps(moved["checkpoint"])))
    if "clips" in moved:
        changes.append(_change(root, ("data", "clips"), json.dumps(moved["clips"])))
    appended = ""
    node = _node(root, (*loc, "quantization"))
    if loc:  # within a list, where one line is valid in any style
        changes.append(_change(root, (*loc, "quantization"), _flow(rules)))
    elif not isinstance(root, MappingNode) or root.flow_style:
        return None
    elif node is None:
        appended = f"# {note}\n{_block(rules)}"
    else:
        key = next(key for key, _ in root.value if key.value == "quantization")
        changes.append((key.start_mark.index, _end(node), f"# {note}\n{_block(rules)}".rstrip()))
    if None in changes:
        return None
    for start, end, new in sorted(filter(None, changes), reverse=True):
        text = text[:start] + new + text[end:]
    return text if not appended else f"{text.rstrip()}\n{appended}"


def _change(root: Node, loc: tuple[str | int, ...], new: str) -> tuple[int, int, str] | None:
    node = _node(root, loc)
    return None if node is None else (node.start_mark.index, _end(node), new)


def _node(node: Node | None, loc: tuple[str | int, ...]) -> Node | None:
    for part in loc:
        if isinstance(node, MappingNode):
            node = next((value for key, value in node.value if key.value == part), None)
        elif isinstance(node, SequenceNode) and isinstance(part, int):
            node = node.value[part]
        else:
            return None
    return node


def _end(node: Any) -> int:
    """Return where a node's text ends: of a block, where its last value does."""
    if isinstance(node, ScalarNode) or node.flow_style or not node.value:
        end: int = node.end_mark.index
        return end
    last = node.value[-1]
    return _end(last[1] if isinstance(node, MappingNode) else last)


def _flow(rules: Rules) -> str:
    return json.dumps(rules, ensure_ascii=False)


def _block(rules: Rules) -> str:
    """Return rules as lines, with patterns in quotes, since `*` begins an alias."""
    lines = ["quantization:"]
    if "default" in rules:
        lines.append(f"  default: {_value(rules['default'])}")
    if rules.get("modules"):
        lines.append("  modules:")
        told = ((json.dumps(key), _value(value)) for key, value in rules["modules"].items())
        lines += [f"    {key}: {value}" for key, value in told]
    return "\n".join(lines) + "\n"


def _value(scheme: object) -> str:
    return scheme if isinstance(scheme, str) else json.dumps(scheme)


def _data(text: str) -> dict[str, Any]:
    data: dict[str, Any] = YAML(typ="safe", pure=True).load(text)
    return data
