"""The options of decoding: their defaults and limits, and checks of given values.

`exporter.recipe.Decoding` is made of this table, so recipes and calls take the same values.
"""

import json
import math
import operator
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from exporter.errors import RecipeError
from exporter.system.text import described, nearest

USABLE = r"[^\s\x00-\x1f](?:[^\x00-\x1f]*[^\s\x00-\x1f])?"
"""The pattern of a text in a recipe."""

Values = Mapping[str, Any]
"""Every option's value by name."""

_MOST_TOLD = 3
_usable = re.compile(USABLE)


@dataclass(frozen=True)
class Option:
    """An option of `decoding:`.

    Attributes:
        kind: The type of its values; tuple: a list of numbers.
        default: The value if it is left out; it may be None if that is.
        least: The least value.
        above: A number that every value is above.
        most: The greatest value.
        choices: All values, if they are few.
        longest: The most numbers of a list.
        late: Whether it is younger than the first reports. Those keep their bytes, because such an
            option is left out of data where it has its default.
    """

    kind: type
    default: Any
    least: float | None = None
    above: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    longest: int = 16
    late: bool = True

    @property
    def limits(self) -> dict[str, Any]:
        """The limits by pydantic's names, those that there are."""
        named = {"ge": self.least, "gt": self.above, "le": self.most}
        return {name: value for name, value in named.items() if value is not None}


OPTIONS: Mapping[str, Option] = {
    "language": Option(str, None, late=False),
    "task": Option(str, None, choices=("transcribe", "translate"), late=False),
    "multilingual": Option(bool, False),
    "language_detection_segments": Option(int, 1, least=1, most=64),
    "language_detection_threshold": Option(float, 0.5, least=0, most=1),
    "num_beams": Option(int, 1, least=1, most=64, late=False),
    "patience": Option(float, None, least=1, most=64),
    "best_of": Option(int, 1, least=1, most=64),
    "length_penalty": Option(float, 1.0, least=-10, most=10),
    "repetition_penalty": Option(float, 1.0, least=0.1, most=10),
    "no_repeat_ngram_size": Option(int, 0, least=0, most=1024),
    "max_new_tokens": Option(int, None, least=1),
    "chunk_length_s": Option(float, 30.0, above=0, most=600),
    "stride_length_s": Option(float, None, least=0, most=300),
    "timestamps": Option(bool, False, late=False),
    "batch_size": Option(int, 1, least=1, most=1024, late=False),
    "temperatures": Option(tuple, (0.0,), least=0, most=10),
    "compression_ratio_threshold": Option(float, None, least=0, most=1000),
    "logprob_threshold": Option(float, None, least=-1000, most=0),
    "no_speech_threshold": Option(float, None, least=0, most=1),
    "condition_on_previous": Option(bool, False),
    "initial_prompt": Option(str, None),
    "hotwords": Option(str, None),
    "prefix": Option(str, None),
    "long_form": Option(str, "sequential", choices=("sequential", "chunked")),
    "vad": Option(bool, False),
    "vad_threshold": Option(float, 0.5, above=0, most=1),
    "vad_min_speech_s": Option(float, 0.0, least=0, most=10),
    "vad_min_silence_s": Option(float, None, least=0, most=60),
    "vad_speech_pad_s": Option(float, 0.4, least=0, most=5),
    "clip_timestamps": Option(tuple, None, least=0, most=86_400, longest=2000),
    "word_timestamps": Option(bool, False),
    "hallucination_silence_threshold": Option(float, None, least=0, most=1000),
}


def complete(given: Values) -> dict[str, Any]:
    """Return every option's value: a given one, or the default.

    Raises:
        RecipeError: There is no such option, or a value is none that it can have.
    """
    if message := unknown_option(given):
        raise RecipeError(message)
    return _checked({name: option.default for name, option in OPTIONS.items()}, given)


def overlaid(values: Values, options: Values) -> dict[str, Any]:
    """Return values with some options changed.

    Args:
        values: Every option's value.
        options: Values of known options, as a caller gives them.

    Raises:
        RecipeError: A value is none that its option can have.
    """
    plain = {n: v.item() if isinstance(v, np.generic) else v for n, v in options.items()}
    try:
        # As in a recipe: what JSON cannot hold is no value, and a tuple is a list.
        given = json.loads(json.dumps(plain))
    except (TypeError, ValueError, RecursionError) as error:
        msg = f"options are text, numbers, true or false, as in a recipe: {error}"
        raise RecipeError(msg) from None
    return _checked(values, given)


def unknown_option(options: Iterable[str]) -> str | None:
    """Return a message about the first unknown option; None if all are known."""
    known = sorted(OPTIONS)
    for name in options:
        if name not in OPTIONS:
            guess = nearest(name, known)
            hint = f"did you mean {guess!r}?" if guess else f"known: {', '.join(known)}"
            return f"an unknown option {name!r}; {hint}"
    return None


def changed(values: Values) -> dict[str, Any]:
    """Return the options that do not have their defaults, in the recipe's order."""
    return {
        name: values[name] for name, option in OPTIONS.items() if values[name] != option.default
    }


def foreign_options(values: Values, known: Collection[str]) -> list[str]:
    """Return the options that are set and not among `known`, in the recipe's order."""
    return [name for name in changed(values) if name not in known]


def foreign_option(name: str, known: Collection[str]) -> str:
    """Return a message that a kind of model lacks an option, with those that it has."""
    options = ", ".join(known) or "none"
    return f"this kind of model has no decoding option `{name}`: leave it out (it has: {options})"


def refuse_foreign(values: Values, known: Collection[str]) -> None:
    """Raise RecipeError for the first option that is set and not among `known`."""
    for name in foreign_options(values, known):
        raise RecipeError(foreign_option(name, known))


def _checked(values: Values, given: Values) -> dict[str, Any]:
    result, wrong = dict(values), []
    for name in (name for name in OPTIONS if name in given):
        option, value = OPTIONS[name], given[name]
        if problems := [*_problems_of_each(name, option, value)]:
            wrong += problems
        elif option.kind is tuple and value is not None:
            result[name] = tuple(map(float, value))
        elif option.kind is float and value is not None:
            result[name] = float(value)
        else:
            result[name] = value
    if wrong:
        raise RecipeError("\n".join(wrong[:_MOST_TOLD]))
    return result


def _problems_of_each(name: str, option: Option, value: Any) -> Iterator[str]:
    """Yield what is wrong with a value, or with each number of a list."""
    if option.kind is not tuple or (value is None and option.default is None):
        yield from (f"{name}: {each}" for each in [*_problems(option, value)][:1])
    elif not isinstance(value, list):
        yield f"{name}: expected a list, got {described(value)}"
    elif not value:
        yield f"{name}: expected 1 or more of them, got 0"
    elif len(value) > option.longest:
        yield f"{name}: expected at most {option.longest} of them, got {len(value)}"
    else:
        number = replace(option, kind=float, default=0.0)  # none of them may be missing
        for place, each in enumerate(value):
            yield from (f"{name}.{place}: {told}" for told in [*_problems(number, each)][:1])


def _problems(option: Option, value: Any) -> Iterator[str]:
    """Yield what is wrong with a value, the first thing first."""
    if value is None and option.default is None:
        return
    types, words = _KINDS[option.kind]
    if option.choices:
        if value not in option.choices:
            guess = nearest(str(value), option.choices)
            hint = f"; did you mean {guess!r}?" if guess else ""
            offered = " or ".join(map(repr, option.choices))
            yield f"expected {offered}, got {described(value)}{hint}"
    elif type(value) not in types:
        yield f"expected {words}, got {described(value)}"
    elif option.kind is str:
        if not _usable.fullmatch(value):
            yield f"{value[:60]!r} is not a usable text"
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"expected a finite number, got {described(value)}"
    else:
        yield from _beyond(option, value)


def _beyond(option: Option, value: Any) -> Iterator[str]:
    told = (
        ("greater than or equal to", option.least, operator.ge),
        ("greater than", option.above, operator.gt),
        ("less than or equal to", option.most, operator.le),
    )
    for words, limit, holds in told:
        if limit is not None and not holds(value, limit):
            yield f"expected {words} {limit:g}, got {described(value)}"


_KINDS: Mapping[type, tuple[tuple[type, ...], str]] = {
    str: ((str,), "text"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    bool: ((bool,), "true or false"),
}
