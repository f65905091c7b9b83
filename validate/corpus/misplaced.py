"""Find true texts that belong to other clips, by what the original hears."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exporter.validate.scoring.wer import score

Counts = NDArray[np.int64]
# A clip is suspect if more than this share of its words is wrong.
_SUSPECT = 0.5
# It is misplaced if another text leaves at most this share wrong, and half of its own errors.
_FITS, _BETTER = 0.34, 0.5
_LEAST_WORDS = 3  # of a transcript: two words fit many texts
_MOST_SUSPECTS = 200
_MOST_TEXTS = 20_000  # compared, 1 to 4 s of a thread in which nothing else is wrong
_MOST_WORDS = 300


@dataclass(frozen=True)
class Misplaced:
    """Clips whose text fits another clip better.

    Attributes:
        clips: Their number, estimated where more are suspect than are compared.
        pairs: Of those found, the index of the clip and that of the clip whose text it speaks.
    """

    clips: int = 0
    pairs: tuple[tuple[int, int], ...] = ()


def misplaced(
    errors: Counts,
    words: Counts,
    truth: Callable[[int], str],
    heard: Callable[[int], str],
) -> Misplaced:
    """Compare what the original hears, where it is mostly wrong, with the other clips' texts.

    Nothing is read unless at least two clips are suspect.

    Args:
        errors: The original's errors, int64 [clips].
        words: Words of the true texts, int64 [clips].
        truth: Returns the normalised true text of a clip by its index.
        heard: Returns the original's normalised transcript of a clip.
    """
    wrong = np.flatnonzero((words > 0) & (errors > _SUSPECT * words))
    near = wrong[wrong < _MOST_TEXTS]
    if len(near) < 2:
        return Misplaced()
    steps = np.linspace(0, len(near) - 1, min(len(near), _MOST_SUSPECTS)).astype(np.int64)
    suspects = near[np.unique(steps)]
    texts = {int(place): heard(int(place)) for place in suspects}
    nearest = _nearest(texts, truth, min(len(words), _MOST_TEXTS))
    pairs = tuple(
        (place, other)
        for place, (other, text) in nearest.items()
        if _fits(texts[place], text, errors[place] / words[place])
    )
    return Misplaced(round(len(pairs) * len(wrong) / len(suspects)), pairs)


def _nearest(
    texts: dict[int, str], truth: Callable[[int], str], clips: int
) -> dict[int, tuple[int, str]]:
    """Return for each transcript the clip with another text that shares most words, and its text.

    Texts are compared as sets of words, by twice the shared ones over all of both.
    """
    bags = {
        place: {*text.split()[:_MOST_WORDS]}
        for place, text in texts.items()
        if len(text.split()) >= _LEAST_WORDS
    }
    places = list(bags)
    known = {word: column for column, word in enumerate(sorted(set().union(*bags.values())))}
    holds = np.zeros((len(known), len(places)), dtype=np.int64)
    for row, bag in enumerate(bags.values()):
        holds[[known[word] for word in bag], row] = 1
    sizes = np.array([len(bag) for bag in bags.values()], dtype=np.int64)
    best = np.zeros(len(places))
    found: dict[int, tuple[int, str]] = {}
    own = {place: truth(place) for place in places}
    for other in range(clips):
        text = truth(other)
        bag = {*text.split()[:_MOST_WORDS]}
        shared = holds[[known[word] for word in bag if word in known]].sum(axis=0)
        likeness = 2 * shared / (sizes + len(bag))
        for row in np.flatnonzero(likeness > best).tolist():
            if own[places[row]] != text:
                best[row] = likeness[row]
                found[places[row]] = other, text
    return found


def _fits(heard: str, text: str, own_rate: float) -> bool:
    """Return whether a transcript fits a text well, and far better than its clip's own."""
    scores = score([text], [heard])
    rate = float(scores.errors.sum() / max(1, int(scores.words.sum())))
    return rate <= min(_FITS, _BETTER * own_rate)
