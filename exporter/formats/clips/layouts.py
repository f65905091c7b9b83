"""The layouts of data folders: manifests, audiofolder, Common Voice, LibriSpeech and Kaldi."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from exporter.errors import DataError
from exporter.formats.clips.tables import Row, lines_of, rows_of_file

# Taken in this order, whatever else is there: ours, and audiofolder's.
_MANIFESTS = ("manifest.jsonl", "metadata.jsonl", "metadata.csv")
_COMMON_VOICE = "test.tsv"
_KALDI_TEXT, _KALDI_AUDIO, _KALDI_SPEAKERS = "text", "wav.scp", "utt2spk"
_KALDI_SEGMENTS = "segments"
_TABLES = {".json", ".jsonl", ".csv", ".tsv"}
_KNOWN = (
    f"{', '.join(_MANIFESTS)}, a NeMo manifest, Common Voice's {_COMMON_VOICE}, Kaldi's "
    f"{_KALDI_AUDIO} and {_KALDI_TEXT}, or *.trans.txt of LibriSpeech's layout"
)

_LIBRISPEECH_ID = re.compile(r"(\d+)-(\d+)-\d+")

_Reader = Callable[[Path], Iterator[Row]]


def rows_of(source: Path) -> Iterator[Row]:
    """Yield the rows of a folder or manifest, by the reader for its layout.

    Raises:
        DataError: There is no known layout, or more than one list of clips.
    """
    try:
        is_folder, exists = source.is_dir(), source.exists()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        msg = f"no clips at {str(source)[:300]}: {reason}"
        raise DataError(msg) from error
    if not exists:
        msg = f"no clips at {source}: give a folder of audio with a manifest.jsonl, or a manifest"
        raise DataError(msg)
    if not is_folder:
        yield from rows_of_file(source)
        return
    reader, place = _layout(source)
    yield from reader(place)


def _layout(folder: Path) -> tuple[_Reader, Path]:
    """Return the reader for a folder, and the file or folder to give it."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        msg = f"{folder} cannot be read: {error.strerror}"
        raise DataError(msg) from error
    files = [name for name in names if (folder / name).is_file()]
    for name in _MANIFESTS:
        if name in files:
            return rows_of_file, folder / name
    if _COMMON_VOICE in files:  # of its other tables, nobody validates on
        files = [name for name in files if name == _COMMON_VOICE or not name.endswith(".tsv")]
    found: dict[str, tuple[_Reader, Path]] = {
        name: (rows_of_file, folder / name)
        for name in files
        if Path(name).suffix.lower() in _TABLES
    }
    if _KALDI_AUDIO in files:
        found[_KALDI_AUDIO] = (_kaldi, folder)
    if next(folder.rglob("*.trans.txt"), None):
        found["*.trans.txt"] = (_librispeech, folder)
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        shown = ", ".join([*found][:6]) + (" ..." if len(found) > 6 else "")
        msg = f"{folder} holds several lists of clips: {shown}\nName one of them as the data."
        raise DataError(msg)
    msg = f"{folder} has none of {_KNOWN}"
    raise DataError(msg)


def _librispeech(root: Path) -> Iterator[Row]:
    for path in sorted(root.rglob("*.trans.txt")):
        for where, line in lines_of(path):
            name, _, text = line.strip().partition(" ")
            audio_path = (path.parent / f"{name}.flac").relative_to(root).as_posix()
            fields = {"audio": audio_path, "text": text, "language": "en"}
            yield Row(where, root, {**fields, **_origin(name)})


def _origin(name: str) -> dict[str, str]:
    """Return speaker and chapter of a LibriSpeech id; a chapter is one recording session."""
    parts = _LIBRISPEECH_ID.fullmatch(name)
    return {"speaker": parts[1], "recording": parts[2]} if parts else {}


def _kaldi(folder: Path) -> Iterator[Row]:
    """Yield a Kaldi folder's utterances; paths in `wav.scp` are relative to the folder."""
    if (folder / _KALDI_SEGMENTS).exists():
        msg = (
            f"{folder / _KALDI_SEGMENTS}: segments of longer recordings are not supported; "
            "cut the audio first"
        )
        raise DataError(msg)
    texts = dict(_kaldi_pairs(folder / _KALDI_TEXT))
    speakers = _kaldi_speakers(folder)
    for name, (where, audio) in _kaldi_pairs(folder / _KALDI_AUDIO):
        if name not in texts:
            msg = f"{where}: {name[:80]} has no line in {_KALDI_TEXT}"
            raise DataError(msg)
        if speakers and name not in speakers:
            msg = f"{where}: {name[:80]} has no line in {_KALDI_SPEAKERS}"
            raise DataError(msg)
        text_where, text = texts.pop(name)
        fields = {"audio": audio, "text": text, "speaker": speakers.get(name)}
        yield Row(where, folder, fields, name, text_where)
    for name, (where, _) in texts.items():
        msg = f"{where}: {name[:80]} has no line in {_KALDI_AUDIO}"
        raise DataError(msg)


def _kaldi_speakers(folder: Path) -> dict[str, str]:
    """Return the speaker of each utterance; none where each is called after its utterance.

    That is what Kaldi's recipes write if speakers are unknown.
    """
    path = folder / _KALDI_SPEAKERS
    if not path.exists():
        return {}
    speakers = {}
    for name, (where, speaker) in _kaldi_pairs(path):
        if not speaker or " " in speaker:
            msg = f"{where}: expected an utterance and its speaker, not {speaker!r:.40}"
            raise DataError(msg)
        speakers[name] = speaker
    return {} if all(name == speaker for name, speaker in speakers.items()) else speakers


def _kaldi_pairs(path: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the utterances of a file: name, place and value."""
    seen: set[str] = set()
    for where, line in lines_of(path):
        name, *rest = line.strip().split(maxsplit=1)
        if name in seen:
            msg = f"{where}: {name[:80]} is listed twice; each clip must count once"
            raise DataError(msg)
        seen.add(name)
        yield name, (where, rest[0] if rest else "")
