"""Kaldi folders: `wav.scp` and `text`, with `utt2spk` and `segments` where they are there.

Source: https://kaldi-asr.org/doc/data_prep.html
"""

from collections.abc import Iterator
from pathlib import Path

from exporter.errors import DataError
from exporter.formats.audio.cutting import Excerpt
from exporter.formats.clips.fields import require_path, seconds
from exporter.formats.clips.names import Seen
from exporter.formats.clips.readers.tables import lines_of
from exporter.formats.clips.row import Place, Row

AUDIO, TEXT, SPEAKERS, SEGMENTS = "wav.scp", "text", "utt2spk", "segments"
_TO_THE_END = "-1"


def rows_of_kaldi(folder: Path, *, text: bool) -> Iterator[Row]:
    """Yield a folder's utterances; paths in `wav.scp` are relative to the folder.

    The files are read side by side. In memory is only what is not yet matched, so little where all
    have one order, which Kaldi asks for; with `segments`, also the paths of the recordings.

    Args:
        folder: The folder.
        text: Whether each utterance needs a line in `text`.

    Raises:
        DataError: A line is bad, or lacks its match in another file.
    """
    texts = _Lines(folder / TEXT) if text or (folder / TEXT).exists() else None
    speakers = _speakers(folder)
    segmented = (folder / SEGMENTS).exists()
    if texts is not None:
        texts.begin()
    for row in _segments(folder) if segmented else _files(folder):
        where, text_where, spoken = row.where, "", {}
        if texts is not None:
            text_where, spoken["text"] = texts.take(row.id, where)
        if speakers is not None:
            spoken["speaker"] = speakers.take(row.id, where)[1]
        yield Row(where, folder, {**row.fields, **spoken}, row.id, text_where, row.place)
    if texts is not None:
        texts.require_none_left(SEGMENTS if segmented else AUDIO)


class _Lines:
    """The lines of a file by their first word, each taken once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = pairs(path)
        self._waiting: dict[str, tuple[str, str]] = {}

    def begin(self) -> None:
        """Read the first line, so that a file that is missing is told first."""
        for name, value in self._lines:
            self._waiting[name] = value
            return

    def take(self, name: str, where: str) -> tuple[str, str]:
        """Return the place and the value of a name's line.

        Raises:
            DataError: There is none.
        """
        if name in self._waiting:
            return self._waiting.pop(name)
        for other, value in self._lines:
            if other == name:
                return value
            self._waiting[other] = value
        msg = f"{where}: {name[:80]} has no line in {self._path.name}"
        raise DataError(msg)

    def require_none_left(self, others: str) -> None:
        """Raise DataError for a line that was not taken."""
        for name, (where, _) in self._waiting.items() or self._lines:
            msg = f"{where}: {name[:80]} has no line in {others}"
            raise DataError(msg)


def _files(folder: Path) -> Iterator[Row]:
    for name, (where, audio) in pairs(folder / AUDIO):
        yield Row(where, folder, {"audio": audio}, name)


def _segments(folder: Path) -> Iterator[Row]:
    """Yield the segments of recordings, which `wav.scp` names."""
    recordings = dict(pairs(folder / AUDIO))
    for name, (where, rest) in pairs(folder / SEGMENTS):
        words = rest.split()
        if len(words) not in (3, 4):
            msg = f"{where}: expected an utterance, its recording, start and end, not {rest!r:.80}"
            raise DataError(msg)
        if len(words) == 4:
            msg = f"{where}: channels of a recording are not supported: take the last column out"
            raise DataError(msg)
        recording, start, end = words
        if recording not in recordings:
            msg = f"{where}: recording {recording[:80]} has no line in {AUDIO}"
            raise DataError(msg)
        scp_where, audio = recordings[recording]
        require_path(scp_where, audio)
        part = _excerpt(where, start, end)
        known = {"recording": recording, "duration": part.duration_s}
        yield Row(where, folder, known, name, place=Place(folder / audio, part))


def _excerpt(where: str, start: str, end: str) -> Excerpt:
    start_s = seconds(where, "the start", start) or 0.0
    if end == _TO_THE_END:
        return Excerpt(start_s)
    end_s = seconds(where, "the end", end) or 0.0
    if end_s <= start_s:
        msg = f"{where}: it ends at {end_s:g} s, and begins at {start_s:g} s"
        raise DataError(msg)
    return Excerpt(start_s, end_s - start_s)


def _speakers(folder: Path) -> _Lines | None:
    """Return the speakers of utterances; None where each is called after its utterance.

    That is what Kaldi's recipes write if speakers are unknown.
    """
    path = folder / SPEAKERS
    if not path.exists():
        return None
    known = False
    for name, (where, speaker) in pairs(path):
        if not speaker or " " in speaker:
            msg = f"{where}: expected an utterance and its speaker, not {speaker!r:.40}"
            raise DataError(msg)
        known = known or name != speaker
    return _Lines(path) if known else None


def pairs(path: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the lines of a file by their first word: its place, and what follows.

    Raises:
        DataError: A word begins two lines, or the file cannot be read.
    """
    seen = Seen()
    for where, line in lines_of(path):
        name, *rest = line.strip().split(maxsplit=1)
        if not seen.add(name):
            msg = f"{where}: {name[:80]} is listed twice; each clip must count once"
            raise DataError(msg)
        yield name, (where, rest[0] if rest else "")
