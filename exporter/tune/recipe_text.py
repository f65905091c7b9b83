"""Write a found plan into a recipe's text: comments stay, and the file builds without a search."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from exporter.formats.yaml_source import Loc, dumped
from exporter.quantization.groups import selecting
from exporter.quantization.plan import Match
from exporter.quantization.schemes.base import QuantizationScheme
from exporter.recipe import FolderName, Quantization, Recipe

Rules = dict[str, Any]
"""The value of `quantization` in a recipe."""

QUANTIZATION, CALIBRATION, _CLIPS = "quantization", "calibration", "clips"
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
    """Return the overrides that leave a recipe one target, with other rules."""
    target = {**_data(recipe.text)["targets"][index], QUANTIZATION: rules}
    return (*recipe.overrides, f"targets={json.dumps([target], ensure_ascii=False)}")


def tuned_text(
    recipe: Recipe, index: int, rules: Rules, note: str, place: Path, needless: Loc | None = None
) -> str:
    """Return a recipe's text with other rules and another name; all else stays as written.

    The rules replace those of the target where it has its own, else the recipe's; a calibration
    beside them stays.

    Args:
        recipe: The recipe.
        index: The target's index.
        rules: The rules.
        note: A comment for them, in one line.
        place: The path that the text is for, to which its own paths become relative.
        needless: Where a calibration is written that the rules leave nothing to do.
    """
    wanted = _data(recipe.text)
    moved = dict(_moved(recipe, place))
    for path, value in moved.items():
        _at(wanted, path[:-1])[path[-1]] = value
    if needless is not None:
        del _at(wanted, needless[:-1])[needless[-1]]
    own = recipe.targets[index].quantization is not None
    loc: Loc = ("targets", index) if own else ()
    owner = _at(wanted, loc)
    kept = (owner.get(QUANTIZATION) or {}).get(CALIBRATION)
    rules = {**rules, **({CALIBRATION: kept} if kept else {})}
    owner[QUANTIZATION], wanted["name"] = rules, tuned_name(recipe.name)
    if needless is not None and _is_in(needless, (*loc, QUANTIZATION)):
        needless = None  # the rules are written anew, without it
    written = [(*loc, QUANTIZATION), *([needless] if needless else [])]
    moved = {path: to for path, to in moved.items() if not any(_is_in(path, w) for w in written)}
    edited = _edited(recipe.text, loc, wanted, rules, moved, needless, note)
    try:
        if edited is not None and _data(edited) == wanted:
            return edited
    except YAMLError:
        pass  # an unusual text: it is written anew, without its comments
    return f"# {note}\n{dumped(wanted)}"


def _at(data: Any, loc: Loc) -> Any:
    for part in loc:
        data = data[part]
    return data


def _is_in(loc: Loc, owner: Loc) -> bool:
    return loc[: len(owner)] == owner


def _moved(recipe: Recipe, place: Path) -> Iterator[tuple[Loc, str]]:
    """Yield the paths in a recipe that are relative to its folder, as they are from another."""
    base, other = recipe.path.parent.resolve(), place.parent.resolve()
    if base == other:
        return
    for loc, path in _paths(recipe):
        if not Path(path).is_absolute() and (base / path).exists():
            yield loc, os.path.relpath(base / path, other)


def _paths(recipe: Recipe) -> Iterator[tuple[Loc, str]]:
    yield ("checkpoint",), recipe.checkpoint
    if recipe.data and recipe.data.clips:
        yield ("data", _CLIPS), recipe.data.clips
    written: list[tuple[Loc, Quantization | None]] = [((), recipe.quantization)]
    written += [(("targets", n), each.quantization) for n, each in enumerate(recipe.targets)]
    for loc, each in written:
        if each and each.calibration:
            yield (*loc, QUANTIZATION, CALIBRATION, _CLIPS), each.calibration.clips


def _edited(
    text: str,
    loc: Loc,
    wanted: Mapping[str, Any],
    rules: Rules,
    moved: Mapping[Loc, str],
    needless: Loc | None,
    note: str,
) -> str | None:
    """Return the text with single values replaced; None where their places are not found."""
    root = YAML(typ="safe", pure=True).compose(text)
    changes = [_change(root, ("name",), json.dumps(wanted["name"]).strip('"'))]
    changes += [_change(root, path, json.dumps(value)) for path, value in moved.items()]
    if needless is not None:
        changes.append(_removal(root, needless))
    appended = ""
    node = _node(root, (*loc, QUANTIZATION))
    if loc:  # within a list, where one line is valid in any style
        changes.append(_change(root, (*loc, QUANTIZATION), _flow(rules)))
    elif not isinstance(root, MappingNode) or root.flow_style:
        return None
    elif node is None:
        appended = f"# {note}\n{_block(rules)}"
    else:
        key = _key(root, QUANTIZATION)
        changes.append((key.start_mark.index, _end(node), f"# {note}\n{_block(rules)}".rstrip()))
    if None in changes:
        return None
    for start, end, new in sorted(filter(None, changes), reverse=True):
        text = text[:start] + new + text[end:]
    return text if not appended else f"{text.rstrip()}\n{appended}"


def _change(root: Node, loc: Loc, new: str) -> tuple[int, int, str] | None:
    node = _node(root, loc)
    return None if node is None else (node.start_mark.index, _end(node), new)


def _removal(root: Node, loc: Loc) -> tuple[int, int, str] | None:
    """Return the change that leaves out a key of a mapping, with its value."""
    node, owner = _node(root, loc), _node(root, loc[:-1])
    if node is None or not isinstance(owner, MappingNode):
        return None
    return _key(owner, loc[-1]).start_mark.index, _end(node), ""


def _key(owner: MappingNode, name: str | int) -> Node:
    found: Node = next(key for key, _ in owner.value if key.value == name)
    return found


def _node(node: Node | None, loc: Loc) -> Node | None:
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
    lines = [f"{QUANTIZATION}:"]
    if "default" in rules:
        lines.append(f"  default: {_value(rules['default'])}")
    if rules.get("modules"):
        lines.append("  modules:")
        told = ((json.dumps(key), _value(value)) for key, value in rules["modules"].items())
        lines += [f"    {key}: {value}" for key, value in told]
    if CALIBRATION in rules:
        lines.append(f"  {CALIBRATION}: {_value(rules[CALIBRATION])}")
    return "\n".join(lines) + "\n"


def _value(scheme: object) -> str:
    return scheme if isinstance(scheme, str) else json.dumps(scheme)


def _data(text: str) -> dict[str, Any]:
    data: dict[str, Any] = YAML(typ="safe", pure=True).load(text)
    return data
