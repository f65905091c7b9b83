"""What people get and print: transcripts, and their `repr`; times end where the recording does."""

import json
import shutil
from pathlib import Path

import pytest

from exporter import Recogniser, Segment, Transcript, load, load_original
from exporter.families.whisper import family as whisper
from tests.support.golden import GOLDEN
from tests.support.whisper import multilingual, recut, sounds


def test_a_transcript_as_json() -> None:
    segments = (Segment(0.0, 1.23456789, "one"), Segment(1.9999, 2, "two"))
    transcript = Transcript("one two", (1, 2), segments)
    again = json.loads(json.dumps(transcript.to_dict()))
    assert again == {
        "text": "one two",
        "tokens": [1, 2],
        "segments": [
            {"start_s": 0.0, "end_s": 1.235, "text": "one"},
            {"start_s": 2.0, "end_s": 2, "text": "two"},
        ],
    }
    assert str(transcript) == "one two"
    assert repr(transcript) == "Transcript('one two', 2 segments, 2 tokens)"


def test_long_texts_are_shown_in_part() -> None:
    shown = repr(Transcript("word " * 9999, tuple(range(9999)), (Segment(0, 1, "x"),) * 999))
    assert len(shown) < 120
    assert "\n" not in repr(Transcript("a\nb", (), ()))


def test_a_recogniser_is_shown_in_a_line(tiny_whisper: Path, tmp_path: Path) -> None:
    golden = Path(shutil.copytree(GOLDEN / "v1-onnx-int8", tmp_path / "golden"))
    artifact, original = load(golden, threads=1), load_original(tiny_whisper, threads=1)
    assert isinstance(artifact, Recogniser)
    for shown in (repr(artifact), str(original), str(artifact.manifest), repr(artifact.manifest)):
        assert len(shown) < 160
        assert "\n" not in shown
    assert "onnx-int8" in repr(artifact)
    assert "original" in repr(original)
    assert "16000 Hz" in repr(original)


@pytest.mark.parametrize("kind", ["original", "dynamic", "static"])
@pytest.mark.parametrize("how", [{}, {"timestamps": True}, {"batch_size": 4, "num_beams": 2}])
def test_times_end_where_the_recording_ends(
    tiny_whisper: Path, kind: str, how: dict[str, object]
) -> None:
    """Recordings much shorter than a window, and the last window of longer ones."""
    model = whisper.open_original(tiny_whisper) if kind == "original" else None
    model = model or recut(tiny_whisper, kind)  # type: ignore[arg-type]
    audio = sounds(0.1234567, 1.7, 3.99999, 5.1234567)
    found = whisper.transcribe(model, whisper.processor(tiny_whisper), audio, multilingual(**how))
    for transcript, samples in zip(found, audio, strict=True):
        duration_s = len(samples) / 16000
        assert transcript.segments
        for segment in transcript.segments:
            assert 0 <= segment.start_s <= segment.end_s <= duration_s + 0.0005
            assert segment.end_s == round(segment.end_s, 3)
        if not how.get("timestamps") and duration_s < 4:
            assert transcript.segments[-1].end_s == round(duration_s, 3)
