"""Words, and their times by the frames that spell them.

Source: `output_word_offsets` of transformers' Wav2Vec2CTCTokenizer: a word lasts from the first
frame of its first letter to the last frame of its last one, without the blanks around it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from exporter.runtime.ctc.text import CLEANED, Alphabet
from exporter.runtime.transcript import Word


@dataclass(frozen=True)
class Run:
    """Consecutive frames of one token."""

    token: int
    begin: int
    end: int
    probability: float


@dataclass(frozen=True)
class _Letter:
    """A letter of the text, and the runs that it is spelled by."""

    text: str
    runs: Sequence[Run]


def words_of(
    alphabet: Alphabet, frames: Sequence[int], chances: Sequence[float], step_s: float
) -> tuple[Word, ...]:
    """Return the words of the likeliest token of each frame.

    Args:
        alphabet: What frames are spelled with.
        frames: The likeliest token of each frame.
        chances: Its probability.
        step_s: Seconds from one frame to the next.
    """
    runs = [run for run in _runs(frames, chances) if run.token in alphabet.spelled]
    letters = _stripped(list(_letters(alphabet, runs)))
    letters = _cleaned(letters, cleaned=alphabet.cleaned)
    words: list[Word] = []
    for space, group in groupby(letters, lambda letter: letter.text.isspace()):
        if space:
            continue
        spelled = list(group)
        text = "".join(letter.text for letter in spelled)
        used = list(dict.fromkeys(run for letter in spelled for run in letter.runs))
        begin_s, end_s = used[0].begin * step_s, used[-1].end * step_s
        chance = sum(run.probability for run in used) / len(used)
        text = text.lower() if alphabet.lower else text
        words.append(Word(begin_s, end_s, f" {text}" if words else text, chance))
    return tuple(words)


def _runs(frames: Sequence[int], chances: Sequence[float]) -> Iterator[Run]:
    """Yield the frames of each token together; a run's probability is its frames' on average."""
    begin = 0
    for token, group in groupby(frames):
        end = begin + sum(1 for _ in group)
        yield Run(token, begin, end, sum(chances[begin:end]) / (end - begin))
        begin = end


def _letters(alphabet: Alphabet, runs: Sequence[Run]) -> Iterator[_Letter]:
    done = 0
    for text, count in alphabet.pieces([run.token for run in runs]):
        used = runs[done : done + count]
        done += count
        yield from (_Letter(letter, used) for letter in text)


def _stripped(letters: list[_Letter]) -> list[_Letter]:
    """Leave out the spaces around a text."""
    spoken = [place for place, letter in enumerate(letters) if not letter.text.isspace()]
    return letters[spoken[0] : spoken[-1] + 1] if spoken else []


def _cleaned(letters: list[_Letter], *, cleaned: bool) -> list[_Letter]:
    """Leave out the spaces that the text's clean-up removes: it does nothing else."""
    for old, _ in CLEANED if cleaned else ():
        text = "".join(letter.text for letter in letters)
        place = text.find(old)
        while place >= 0:
            kept = [one for one in letters[place : place + len(old)] if one.text != " "]
            letters[place : place + len(old)] = kept
            text = "".join(letter.text for letter in letters)
            place = text.find(old, place + len(kept))
    return letters
