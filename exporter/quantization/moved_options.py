"""Refuse options that targets had before the common plan, with the line to write instead."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic_core import PydanticCustomError

from exporter.quantization.schemes import DEFAULT, FLOAT

_PLAIN = re.compile(r"[A-Za-z][\w.-]*")
_INT8 = {"scheme": DEFAULT}


def refuse_moved(*names: str) -> Callable[[Any], Any]:
    """Return a validator of a target's options that refuses the options `names`.

    The message has one `quantization` line that replaces all of them. It says to leave out an
    option that was at its default or has no equivalent.
    """

    def check(options: Any) -> Any:
        there = [name for name in options if name in names] if isinstance(options, dict) else []
        if there:
            rules = _rules({name: options[name] for name in there})
            moved = ", ".join(f"`{name}`" for name in there)
            line = f"now written `quantization: {_flow(rules)}`" if rules else "gone: leave it out"
            message = f"{moved} {'is' if len(there) == 1 else 'are'} {line}"
            context = {"message": message, "below": (there[0],)}
            kind = "mistake"
            raise PydanticCustomError(kind, "{message}", context)
        return options

    return check


def _rules(options: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the old options into the keys of `quantization`."""
    parameters = {}
    if options.get("reduce_range") is True:
        parameters["bits"] = 7
    if options.get("per_channel") is False:
        parameters["per_channel"] = False
    default: Any = {**_INT8, **parameters} if parameters else DEFAULT
    modules: dict[str, Any] = {}
    for graph, scheme in _by_graph(options):
        if graph is None:
            default = scheme
        else:
            modules[f"*{graph}.*"] = scheme
            modules |= {"lm_head": scheme} if graph == "decoder" else {}
    if options.get("include_lm_head") is False:
        modules.setdefault("lm_head", FLOAT)
    modules |= dict.fromkeys(_texts(options.get("exclude")), FLOAT)
    included = list(_texts(options.get("modules")))
    if included and included != ["*"]:
        modules |= dict.fromkeys(included, default)
        default = FLOAT
    return {
        **({} if default == DEFAULT else {"default": default}),
        **({"modules": modules} if modules else {}),
    }


def _by_graph(options: Mapping[str, Any]) -> Iterator[tuple[str | None, Any]]:
    """Yield graph and scheme of what `dtype` and `int8` left in float; the graph None is all."""
    for name, default in (("dtype", "int8"), ("int8", True)):
        value = options.get(name, default)
        for graph, each in value.items() if isinstance(value, dict) else [(None, value)]:
            if each in ("float16", "bfloat16"):
                yield graph, {"scheme": FLOAT, "dtype": each}
            elif each in ("float32", False):
                yield graph, FLOAT


def _texts(value: Any) -> Iterator[str]:
    yield from (each for each in value if isinstance(each, str)) if isinstance(value, list) else ()


def _flow(value: Any) -> str:
    """Return data as YAML on one line."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_flow(key)}: {_flow(each)}' for key, each in value.items())}}}"
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return value
    return json.dumps(value, ensure_ascii=False)
