"""Check batches of sizes and lengths that no graph was traced with."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np

from exporter.errors import ResourceError, exhausted
from exporter.formats import audio
from exporter.recipe import Decoding
from exporter.recognition.model import Model
from exporter.validate.measure.model import Frozen, OpenModel

_COMPARED_CHARACTERS = 1000


class ShapeCheck(Frozen):
    """The result for a batch of a shape unlike the traced one.

    `finite` is None if no output could be observed. `likeness` is the mean similarity, 0 to 1, of
    the batch's texts to those of the same clips transcribed singly.
    """

    lengths_s: tuple[float, ...]
    finite: bool | None = None
    likeness: float | None = None
    error: str | None = None


def check_shapes(
    model: OpenModel, clips: Sequence[Path], alone: Sequence[str], language: str | None = None
) -> tuple[ShapeCheck, ...]:
    """Try batches of one, two and three clips of several lengths, and one longer than the window.

    Args:
        model: The model to check.
        clips: A short, a median and a long clip.
        alone: The text of each clip when transcribed singly.
        language: The language of all of them, if the data name one.

    Returns:
        A check for each batch.
    """
    window = model.window
    sounds = [audio.head(model.read(path), window + 1) for path in clips]
    texts = [
        text if len(sound) <= window else None for text, sound in zip(alone, sounds, strict=True)
    ]
    shortest, middle, longest = (sound[:window] for sound in sounds)
    snippet = middle[: max(model.rate // 5, len(middle) // 3)]
    batches: list[tuple[list[audio.Samples], list[str | None]]] = [
        ([snippet], [None]),
        ([shortest, longest], [texts[0], texts[2]]),
        ([middle, snippet, shortest], [texts[1], None, texts[0]]),
        ([np.resize(middle, window + 1)], [None]),  # the shortest that is decoded as a long one
    ]
    decoding = model.decoding_in(language)
    return tuple(_check(model, decoding, batch, expected) for batch, expected in batches)


def _check(
    model: OpenModel,
    decoding: Decoding,
    batch: list[audio.Samples],
    expected: Sequence[str | None],
) -> ShapeCheck:
    lengths = tuple(round(len(samples) / model.rate, 3) for samples in batch)
    together = decoding.model_copy(update={"batch_size": len(batch)})
    try:
        with _watched(model.recogniser.opened) as finite:
            transcripts = model.recogniser.decode(batch, together)
        pairs = zip(transcripts, expected, strict=True)
        likeness = [_likeness(t.text, text) for t, text in pairs if text is not None]
    except ResourceError:
        raise
    except Exception as error:  # any other exception of a runtime is a result of the check
        if exhausted(error):
            raise
        lines = str(error).splitlines() or [""]
        return ShapeCheck(lengths_s=lengths, error=f"{type(error).__name__}: {lines[0][:200]}")
    return ShapeCheck(
        lengths_s=lengths,
        finite=all(finite) if finite else None,
        likeness=statistics.fmean(likeness) if likeness else None,
    )


def _likeness(text: str, other: str) -> float:
    # Quadratic in their lengths, and a model may write anything.
    texts = text[:_COMPARED_CHARACTERS], other[:_COMPARED_CHARACTERS]
    return SequenceMatcher(None, *texts, autojunk=False).ratio()


class _Observed:
    """Wraps a graph and records whether its logits are finite."""

    def __init__(self, run: Any, seen: list[bool]) -> None:
        self._run, self._seen = run, seen

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        outputs = self._run(*args, **kwargs)
        # Graphs that write into buffers of a card give nothing back.
        logits = outputs.get("logits") if isinstance(outputs, Mapping) else None
        if logits is not None:
            self._seen.append(_is_finite(logits))
        return outputs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run, name)


def _is_finite(logits: Any) -> bool:
    """Return whether an array, or a tensor on any device, is finite."""
    on_host = logits.cpu() if hasattr(logits, "cpu") else logits
    return bool(np.isfinite(np.asarray(on_host)).all())


@contextmanager
def _watched(opened: Model) -> Iterator[list[bool]]:
    """Record for every step of the model whether its logits are finite.

    Used only in these checks, because it takes time. Works for torch modules, and for models that
    compute with graphs.
    """
    seen: list[bool] = []
    functions, model = opened.functions or {}, getattr(opened, "model", None)
    originals = dict(functions)
    functions.update({name: _Observed(run, seen) for name, run in originals.items()})

    def look(_module: Any, _inputs: Any, output: Any) -> None:
        logits = getattr(output, "logits", None)
        if logits is not None:
            seen.append(_is_finite(logits.detach().float()))

    handle = None
    if model is not None and hasattr(model, "register_forward_hook"):
        handle = model.register_forward_hook(look)
    try:
        yield seen
    finally:
        functions.update(originals)
        if handle is not None:
            handle.remove()
