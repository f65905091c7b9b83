"""The languages of clips: which of them a model is told, and what to tell the user."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from exporter.errors import DataError, RecipeError
from exporter.formats.clips import Clip

_SHOWN = 6


@dataclass(frozen=True)
class Spoken:
    """How the clips' languages are used.

    Attributes:
        codes: The code in which to decode, by each language that the data name; empty if the
            recipe or the model decides for all clips.
        notes: Sentences for the user.
    """

    codes: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def spoken_in(
    clips: Iterable[Clip],
    code_of: Callable[[str], str | None],
    chosen: str | None,
    only: str | None,
) -> Spoken:
    """Find out how to decode the languages that clips name.

    Args:
        clips: All clips.
        code_of: Returns a model's code for a language, or None if the model is told no language;
            raises RecipeError for a language that it lacks.
        chosen: The recipe's language, which is used for all clips.
        only: The model's language, if it has a single one.

    Raises:
        DataError: A clip names a language that the model lacks, and the recipe names none.
    """
    counts: Counter[str | None] = Counter()
    first: dict[str, str] = {}
    for clip in clips:
        counts[clip.language] += 1
        if clip.language:
            first.setdefault(clip.language, clip.where or clip.id)
    fixed = chosen or only
    if fixed:
        return Spoken(notes=_contradictions(counts, code_of, fixed, by_recipe=bool(chosen)))
    codes = {}
    for name, where in first.items():
        try:
            code = code_of(name)
        except RecipeError as error:
            msg = f"{where}: {error}\nCorrect it, or name one `language` for all in `decoding`."
            raise DataError(msg) from error
        if code is not None:
            codes[name] = code
    unnamed = counts[None] if _is_told(code_of) else 0
    return Spoken(codes, (_unnamed(unnamed, counts.total()),) if unnamed else ())


def _is_told(code_of: Callable[[str], str | None]) -> bool:
    """Return whether a model is told languages at all."""
    try:
        return code_of("en") is not None
    except RecipeError:
        return True


def _unnamed(clips: int, total: int) -> str:
    which = "No clip names" if clips == total else f"{clips} of {total} clips do not name"
    return f"{which} a language, nor does the recipe: it is left to the model."


def _contradictions(
    counts: Counter[str | None],
    code_of: Callable[[str], str | None],
    fixed: str,
    *,
    by_recipe: bool,
) -> tuple[str, ...]:
    """Return a sentence about the clips that name another language than the one that is used."""
    others = {name: n for name, n in counts.items() if name and not _same(name, fixed, code_of)}
    if not others:
        return ()
    shown = ", ".join(f"{name} ({clips})" for name, clips in [*others.items()][:_SHOWN])
    shown += " ..." if len(others) > _SHOWN else ""
    whose = "the recipe's language" if by_recipe else "the only language of the model"
    return (f"{sum(others.values())} clips name another language than {fixed}, {whose}: {shown}.",)


def _same(name: str, fixed: str, code_of: Callable[[str], str | None]) -> bool:
    """Return whether a language of the data is the one that is used; an unknown one is not."""
    if name.lower() == fixed.lower():
        return True
    try:
        code = code_of(name)
    except RecipeError:
        return False
    return (code or name.lower().replace("_", "-").split("-")[0]) == fixed.lower()
