"""YAML with positions: parsed safely, changed by `--set`, cited by line in errors.

`recipe.py` defines the keys of a recipe; this module reads the file and cites its lines.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from exporter.errors import RecipeError
from exporter.system.text import described, nearest

Loc = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)

MAX_BYTES = 256 * 1024
MAX_DEPTH = 20
MAX_COMPLAINTS = 3
_NO_ALIASES = (
    "anchors (&) and aliases (*) are not allowed: write the value out, "
    "and put text that begins with * in quotes"
)
_TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep"
_MAX_NUMBER = 40
_YAML = "tag:yaml.org,2002:"
_PLAIN = frozenset(_YAML + each for each in ("map", "seq", "str", "int", "float", "bool", "null"))

_WORDS = {
    "Input should be": "expected",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a finite number": "a finite number",
    "a valid string": "text",
    "a valid boolean": "true or false",
    "a valid array": "a list",
    "a valid tuple": "a list",
    "a valid dictionary": "a mapping",
    "an object": "a mapping",
}


@dataclass(frozen=True)
class Source:
    """Data with its origin: the file, its syntax tree and the overrides of `--set`."""

    path: Path
    text: str
    root: Node
    data: dict[str, Any]
    overrides: tuple[str, ...] = ()

    @property
    def effective_text(self) -> str:
        """The YAML of `data`: the file's text, or a dump of the data if there are overrides."""
        if not self.overrides:
            return self.text
        return dumped(self.data)

    def check(self, model: type[Model], data: object, prefix: Loc = ()) -> Model:
        """Return `data`, found at `prefix`, as a `model`; raise RecipeError with all mistakes."""
        try:
            # Strict JSON mode: no text becomes a number, but a list may become a tuple.
            return model.model_validate_json(json.dumps(data), strict=True)
        except ValidationError as error:
            details = error.errors(include_url=False)
        findings = [_finding(detail, model, prefix) for detail in details if _is_cause(detail)]
        findings.sort(key=lambda finding: self._position(finding.loc, of_key=finding.of_key))
        lines = [self.cite(f.loc, f.message, of_key=f.of_key) for f in findings[:MAX_COMPLAINTS]]
        if len(findings) > MAX_COMPLAINTS:
            lines[-1] += f" (and {len(findings) - MAX_COMPLAINTS} more)"
        raise RecipeError("\n".join(lines))

    def cite(self, loc: Loc, message: str, *, of_key: bool = False) -> str:
        """Return `message` with the file, line and column, or the `--set`, it is about."""
        for override in map(_place, self.overrides):
            if loc[: len(override)] == override:
                return _joined(f"--set {_dotted(override)}", _dotted(loc[len(override) :]), message)
        line, column = self._position(loc, of_key=of_key)
        return _joined(f"{self.path}:{line}:{column}", _dotted(loc), message)

    def _position(self, loc: Loc, *, of_key: bool) -> tuple[int, int]:
        """Return line and column, from 1, of the value at `loc`, or of what encloses it."""
        node, mark = self.root, self.root.start_mark
        for depth, part in enumerate(loc, start=1):
            child = _child(node, part)
            if child is None:
                break
            key, node = child
            mark = key.start_mark if of_key and depth == len(loc) else node.start_mark
        return mark.line + 1, mark.column + 1


def parse(path: Path, text: str, overrides: Sequence[str] = ()) -> Source:
    """Parse YAML 1.2 without tags, anchors, aliases or repeated keys, and apply overrides.

    Args:
        path: The file, for messages.
        text: Its content.
        overrides: Changes like `a.b.0=value`.

    Returns:
        The data with its positions.

    Raises:
        RecipeError: The text is not valid, is no mapping, or an override does not apply.
    """
    root, data = _load(text, str(path))
    if not isinstance(root, MappingNode) or not isinstance(data, dict):
        line, column = (root.start_mark.line, root.start_mark.column) if root else (0, 0)
        place = f"{path}:{line + 1}:{column + 1}"
        msg = f"{place}: a recipe is a mapping with `name`, `checkpoint` and `targets`"
        raise RecipeError(msg)
    for override in overrides:
        _override(data, override)
    return Source(path=path, text=text, root=root, data=data, overrides=tuple(overrides))


def dumped(data: object) -> str:
    """Return data as YAML, with keys in their own order: the first pattern that matches counts."""
    stream, yaml = StringIO(), _yaml()
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(data, stream)
    return stream.getvalue()


def _yaml() -> YAML:
    return YAML(typ="safe", pure=True)


def _load(text: str, name: str) -> tuple[Node | None, object]:
    try:
        yaml = _yaml()
        root = yaml.compose(text)
        if root is None:
            return None, None
        _refuse_tricks(root, name)
        return root, yaml.constructor.construct_document(root)
    except RecursionError:
        msg = f"{name}:1:1: {_TOO_DEEP}"
        raise RecipeError(msg) from None
    except AssertionError as error:  # of a directive `%YAML` with another version
        msg = f"{name}:1:1: {(str(error).splitlines() or ['not readable as YAML'])[0]}"
        raise RecipeError(msg) from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        problem = error.problem or error.context or ""
        # A pattern like *.fc2 without quotes is an undefined alias.
        msg = f"{place}: {_NO_ALIASES if 'undefined alias' in problem else problem}"
        raise RecipeError(msg) from None
    except YAMLError as error:
        at = getattr(error, "position", 0)
        line, column = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
        msg = f"{name}:{line}:{column}: {str(error).splitlines()[0]}"
        raise RecipeError(msg) from None


def _refuse_tricks(node: Node, name: str, depth: int = 0) -> None:
    """Refuse anything but plain data, before objects are constructed."""
    if problem := _problem(node, depth):
        _refuse(name, node, problem)
    if isinstance(node, MappingNode):
        for key, value in node.value:
            if key.tag != f"{_YAML}str" or not key.value.isprintable():
                _refuse(name, key, "a key must be text: put it in quotes")
            _refuse_tricks(value, name, depth + 1)
    elif isinstance(node, SequenceNode):
        for item in node.value:
            _refuse_tricks(item, name, depth + 1)


def _problem(node: Node, depth: int) -> str | None:
    if depth > MAX_DEPTH:
        return _TOO_DEEP
    if node.anchor:  # an alias refers to an anchor
        return _NO_ALIASES
    if node.tag == f"{_YAML}timestamp":
        return "a date must be text: put it in quotes"
    if node.tag not in _PLAIN:
        return f"tags are not allowed: remove {node.tag}"
    if node.tag in (f"{_YAML}int", f"{_YAML}float") and len(node.value) > _MAX_NUMBER:
        return f"a number has at most {_MAX_NUMBER} digits"
    return None


def _refuse(name: str, marked: Any, message: str) -> NoReturn:
    mark = marked.start_mark
    msg = f"{name}:{mark.line + 1}:{mark.column + 1}: {message}"
    raise RecipeError(msg)


def _place(override: str) -> Loc:
    """Return the position of an `a.b.0.c=value`; digits are indices, never keys of a recipe."""
    parts = override.partition("=")[0].split(".")
    return tuple(int(part) if part.isdecimal() else part for part in parts)


def _override(data: dict[str, Any], override: str) -> None:
    """Set one `a.b.0.c=value` in `data`, and create missing mappings."""
    dotted, equals, text = override.partition("=")
    if dotted.count(".") >= MAX_DEPTH:
        msg = f"--set {dotted[:60]}...: {_TOO_DEEP}"
        raise RecipeError(msg)
    if not equals or not all(dotted.split(".")):
        msg = f"--set {override}: write KEY=VALUE, like --set decoding.num_beams=5"
        raise RecipeError(msg)
    _, value = _load(text, f"--set {dotted}")
    here: Any = data
    loc: Loc = ()
    parts = dotted.split(".")
    for part in parts[:-1]:
        key = _key(here, part, loc, dotted)
        if isinstance(here, dict) and here.get(key) is None:
            here[key] = {}
        here, loc = here[key], (*loc, key)
    key = _key(here, parts[-1], loc, dotted)
    here[key] = value


def _key(here: object, part: str, loc: Loc, dotted: str) -> str | int:
    if isinstance(here, dict):
        return part
    if not isinstance(here, list):
        msg = f"--set {dotted}: `{_dotted(loc)}` is neither a mapping nor a list"
        raise RecipeError(msg)
    if not (part.isdecimal() and int(part) < len(here)):
        msg = f"--set {dotted}: `{_dotted(loc)}` has items 0 to {len(here) - 1}"
        raise RecipeError(msg)
    return int(part)


def _child(node: Node, part: str | int) -> tuple[Node, Node] | None:
    if isinstance(node, MappingNode):
        return next(((key, value) for key, value in node.value if key.value == part), None)
    if isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part]
    return None


def explain(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return messages about data that is in no file, one for each key."""
    details = filter(_is_cause, error.errors(include_url=False))
    findings = [_finding(detail, model, ()) for detail in details]
    return [_joined(_dotted(finding.loc), finding.message) for finding in findings[:MAX_COMPLAINTS]]


@dataclass(frozen=True)
class _Finding:
    loc: Loc
    message: str
    of_key: bool


def _is_cause(detail: ErrorDetails) -> bool:
    return detail["type"] != "default_factory_not_called"  # follows from another mistake


def _finding(detail: ErrorDetails, model: type[BaseModel], prefix: Loc) -> _Finding:
    """Turn one of pydantic's errors into a message about a recipe."""
    inner = detail["loc"]
    context = detail.get("ctx", {})
    loc = (*prefix, *inner, *context.get("below", ()))
    kind = detail["type"]
    if kind == "extra_forbidden":
        message = _unknown(str(inner[-1]), _fields(model, inner[:-1]))
    elif kind == "missing":
        message = "this key is required"
    elif "below" in context:
        message = detail["msg"]
    else:
        message = _expected(detail)
    return _Finding(loc, message.removeprefix("Value error, "), kind == "extra_forbidden")


def _unknown(word: str, known: Sequence[str]) -> str:
    guess = nearest(word, known)
    hint = f"did you mean `{guess}`?" if guess else f"known here: {', '.join(sorted(known))}"
    return f"unknown key; {hint}"


def _expected(detail: ErrorDetails) -> str:
    message, context = detail["msg"], detail.get("ctx", {})
    if detail["type"] == "too_short":
        return f"expected {context['min_length']} or more of them, got {context['actual_length']}"
    if detail["type"] == "too_long":
        return f"expected at most {context['max_length']} of them, got {context['actual_length']}"
    if not message.startswith("Input should"):
        return message
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    message += f", got {described(detail['input'])}"
    if detail["type"] == "literal_error":
        guess = nearest(str(detail["input"]), detail["ctx"]["expected"].split("'")[1::2])
        message += f"; did you mean {guess!r}?" if guess else ""
    return message


def _fields(model: type[BaseModel], loc: Loc) -> list[str]:
    """Return the key names that the model nested at `loc` knows."""
    for part in loc:
        inner = model.model_fields.get(str(part))
        model = _model_in(inner.annotation) or model if inner else model
    return list(model.model_fields)


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


def _dotted(loc: Loc) -> str:
    return ".".join(map(str, loc))


def _joined(*parts: str) -> str:
    return ": ".join(part for part in parts if part)
