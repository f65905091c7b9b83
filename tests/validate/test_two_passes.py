"""Validation in two passes: streamed from disk to disk, spread over workers, timed on a sample."""

import errno
import io
import json
import re
import shutil
import tarfile
import tracemalloc
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from exporter.artifact import report, store
from exporter.artifact.manifest import Gpu
from exporter.artifact.report import Report
from exporter.bench.clock import HostClock
from exporter.bench.timing import Opened
from exporter.engine import environment
from exporter.engine.executors import LocalExecutor
from exporter.engine.part_store import PartStore
from exporter.errors import DataError, MachineError, RecipeError
from exporter.formats import audio
from exporter.formats.clips import opening as reading
from exporter.recipe import Data, Decoding, Gate
from exporter.system import accelerators, hardware
from exporter.system.progress import Progress, silent
from exporter.validate import pipeline, subjects, validation
from exporter.validate.corpus.index import Corpora, Corpus, RowFile
from exporter.validate.gate import judge as gate
from exporter.validate.measure.latency import request_of
from exporter.validate.measure.model import ModelSpec, OpenModel
from exporter.validate.measure.run import ModelRun
from exporter.validate.measure.transcripts import Part, read_transcripts, transcribe_part
from exporter.validate.scoring.compare import ModelOutput, compare
from exporter.validate.shards.hearing import Hearing, Listener
from tests.support.golden import GOLDEN
from tests.support.judging import measurement
from tests.support.recordings import write_clips

READ_HERE = SimpleNamespace(here=True)


def open_corpus(folder: Path, index: Path) -> Corpus:
    index.mkdir()
    return Corpora(index, silent).open(Data(clips=str(folder)), Path())


class Model:
    """Stands for a recogniser; it hears the same in everything."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sampling_rate = 16_000

    def decode(self, sounds: Sequence[object], decoding: Decoding) -> list[SimpleNamespace]:
        return [SimpleNamespace(text=self.text, tokens=(1, 2)) for _ in sounds]


def opened(text: str, batch_size: int, monkeypatch: pytest.MonkeyPatch) -> OpenModel:
    stand_in = Opened(cast("Any", Model(text)), 0.0, HostClock(), None)
    monkeypatch.setattr("exporter.validate.measure.model.opened", lambda *_, **__: stand_in)
    decoding = Decoding(batch_size=batch_size)
    spec = ModelSpec(model=Path(), original=True, threads=1, decoding=decoding)
    return OpenModel(spec, silent)


def whole(corpus: Corpus, output: Path) -> Part:
    """A part that is all of a corpus."""
    total = len(corpus)
    index = corpus.index.path
    return Part(index=index, offset=0, first=0, clips=total, total=total, output=output)


def test_the_audio_of_one_batch_is_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = open_corpus(write_clips(tmp_path / "clips", 2000), tmp_path / "index")
    alive, most, read = 0, 0, audio.read

    def gone() -> None:
        nonlocal alive
        alive -= 1

    def noted(path: Path, rate: int) -> audio.Samples:
        nonlocal alive, most
        samples = read(path, rate)
        weakref.finalize(samples, gone)
        alive += 1
        most = max(alive, most)
        return samples

    monkeypatch.setattr(audio, "read", noted)
    model = opened("red", 4, monkeypatch)
    transcribe_part(model, whole(corpus, tmp_path / "out"), silent)
    assert len(list(read_transcripts(tmp_path / "out"))) == 2000
    assert (alive, most) == (0, 4)


def peak_bytes(clips: int, place: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """The most that Python held while a corpus was read, transcribed and scored."""
    text = " ".join(word * 250 for word in "abcd")
    place.mkdir()
    folder = write_clips(place / "clips", clips, text)
    model = opened(text[:-1], 1, monkeypatch)
    tracemalloc.start()
    corpus = open_corpus(folder, place / "index")
    outputs = []
    for side in ("original", "artifact"):
        transcribe_part(model, whole(corpus, place / side), silent)
        results = read_transcripts(place / side)
        outputs.append(ModelOutput(measurement(1), results, 1))
    rows = RowFile(place / "rows")
    with rows.writing() as write:
        one = compare(corpus, [0], *outputs, str.strip, rows=rows, write=write)
    assert len(gate.worst(one)) == gate.WORST
    peak = tracemalloc.get_traced_memory()[1] - interned_bytes()
    tracemalloc.stop()
    return peak


def interned_bytes() -> int:
    """What the interpreter's table of interned names took, if it was enlarged while traced.

    `pathlib` interns the parts of paths. How large the table is, all tests before decide.
    """
    paths = tracemalloc.Filter(inclusive=True, filename_pattern="*pathlib*")
    traces = tracemalloc.take_snapshot().filter_traces([paths]).traces
    return sum(trace.size for trace in traces if trace.size > 1 << 20)


def test_memory_grows_by_counts_and_not_by_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three texts of a kilobyte a clip, and audio of three to ten: of that, names and numbers.

    Both have more clips than two batches, which are held while the next one is read.
    """
    few, many = (peak_bytes(n, tmp_path / str(n), monkeypatch) for n in (600, 1100))
    assert (many - few) / 500 < 400


def test_clips_that_cannot_be_read_are_counted_and_do_not_pass(
    judged: Callable[..., list[Report]], tmp_path: Path
) -> None:
    """One of eight is more than one in a hundred."""
    manifest = tmp_path / "clips" / "manifest.jsonl"
    row = json.dumps({"audio": "gone.wav", "text": "x"})
    manifest.write_text(f"{row}\n{manifest.read_text()}")
    with pytest.raises(DataError, match=r"manifest\.jsonl:1: .*gone\.wav does not exist"):
        judged("one")
    (told,) = judged("two", skip_unreadable=True)
    assert (told.data.clips, told.data.unreadable) == (7, ("gone.wav",))
    (check,) = [check for check in told.checks if check.name == "readable"]
    assert check.passed is None
    assert "1 of 8 clips could not be read" in check.sentence
    assert told.verdict != "passed"
    assert "1 of 8 clips could not be read" in (tmp_path / "two" / "report.html").read_text()


def test_clips_of_an_archive_are_judged_as_those_of_a_folder(
    judged: Callable[..., list[Report]], tmp_path: Path
) -> None:
    (one,) = judged("one")
    lines = (tmp_path / "clips" / "manifest.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    with tarfile.open(tmp_path / "clips.tar", "w") as archive:
        for row in rows:
            name = Path(row["audio"])
            archive.add(tmp_path / "clips" / name, name)
            text = row["text"].encode()
            member = tarfile.TarInfo(f"{name.stem}.txt")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    shutil.rmtree(tmp_path / "clips")
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips.tar").rename(tmp_path / "clips" / "x.tar")
    (other,) = judged("other")
    assert other.figures.wer == one.figures.wer
    assert other.data.audio_s == one.data.audio_s
    texts = [
        re.findall('"pred_text": "[^"]*"', (tmp_path / name / "predictions.jsonl").read_text())
        for name in ("one", "other")
    ]
    assert len(texts[0]) == 7
    assert texts[0] == texts[1]


def test_however_many_workers_the_predictions_are_the_same_bytes(
    judged: Callable[..., list[Report]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    machine = replace(hardware.describe(), cores=2)
    monkeypatch.setattr(hardware, "describe", lambda: machine)
    (one,) = judged("one")
    assert "share" not in caplog.text
    (many,) = judged("many", workers=3)
    assert "3 workers of 1 threads share 2 cores" in caplog.text
    predictions = [(tmp_path / name / "predictions.jsonl").read_bytes() for name in ("one", "many")]
    assert predictions[0] == predictions[1]
    assert one.predictions_sha256 == many.predictions_sha256
    rows = [json.loads(line) for line in predictions[0].splitlines()]
    assert [row["audio_filepath"] for row in rows] == [f"{number}.wav" for number in range(7)]
    assert all(row["pred_text"] and row["pred_text_reference"] for row in rows)
    assert one.timed_clips == many.timed_clips == 7
    assert report.read(tmp_path / "many") == many
    assert one.figures.wer == many.figures.wer


def test_an_artifact_whose_card_is_not_here_costs_no_other_its_report(
    judged: Callable[..., list[Report]],
    tmp_path: Path,
    tiny_whisper: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(accelerators, "LIBCUDA", "libno-such-driver.so.1")
    gpu = Gpu(capability="9.0", match="exact", cuda="13.0", memory_bytes=1)
    for name in ("gpu", "one"):
        shutil.copytree(GOLDEN / "v1-torch-int8", tmp_path / "all" / name)
    manifest = store.read_manifest(tmp_path / "all" / "gpu")
    sealed = {file.path for file in manifest.files}
    for path in (tmp_path / "all" / "gpu").iterdir():
        if path.name not in sealed:
            path.unlink()
    needs = manifest.needs.model_copy(update={"device": "cuda", "gpu": gpu})
    store.seal(tmp_path / "all" / "gpu", manifest.model_copy(update={"needs": needs}))
    how: dict[str, Any] = {"reference": str(tiny_whisper), "data": str(tmp_path / "clips")}
    with pytest.raises(MachineError, match=r"all/gpu needs an NVIDIA GPU .* no NVIDIA driver here"):
        pipeline.validate([tmp_path / "all"], threads=1, **how)
    assert report.read(tmp_path / "all" / "one").device == "cpu"
    assert not (tmp_path / "all" / "gpu" / "report.json").exists()
    (only,) = pipeline.validate([tmp_path / "all"], threads=1, device="cpu", **how)
    assert only.artifact.name == "one"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_reads_its_corpus_once_and_hears_the_original_once(
    workers: int, judged: Callable[..., list[Report]], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    opening = OpenModel.__init__

    def noted(self: OpenModel, spec: ModelSpec, progress: Progress) -> None:
        calls.append("original" if spec.original else spec.model.name)
        opening(self, spec, progress)

    real = reading.sha256_file

    def hashed(path: Path) -> str:
        calls.append(path.name)
        return real(path)

    monkeypatch.setattr(OpenModel, "__init__", noted)
    monkeypatch.setattr(reading, "sha256_file", hashed)
    reports = judged("a", "b", workers=workers)
    assert len({each.data.sha256 for each in reports}) == 1
    assert [calls.count(f"{number}.wav") for number in range(7)] == [1] * 7
    # Workers wait until all is timed: what they do would be told as a load on the machine.
    # The second artifact has the bytes of the first, whose transcripts are therefore its own.
    shared = [] if workers == 1 else [name for name in ("original", "a") for _ in range(2)]
    assert [name for name in calls if name[-4:] != ".wav"] == ["original", "a", "b", *shared]


def test_a_sample_is_timed_and_the_report_says_of_how_many(
    judged: Callable[..., list[Report]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subjects, "TIMED_CLIPS", 3)
    monkeypatch.setattr(subjects, "TIMED_BATCHES", 1)
    (told,) = judged("sampled")
    assert (told.data.clips, told.timed_clips) == (7, 3)
    rows = [json.loads(line) for line in (tmp_path / "sampled/predictions.jsonl").open()]
    timed = [row["audio_filepath"] for row in rows if row["time"] is not None]
    assert len(timed) == 3
    assert timed == [row["audio_filepath"] for row in rows if row["time_reference"] is not None]
    page = (tmp_path / "sampled" / "report.html").read_text()
    assert "3 of the 7 clips were timed" in page
    judged("again")
    rows = [json.loads(line) for line in (tmp_path / "again/predictions.jsonl").open()]
    assert timed == [row["audio_filepath"] for row in rows if row["time"] is not None]


def test_a_report_goes_where_it_is_asked_to(
    judged: Callable[..., list[Report]], tmp_path: Path, tiny_whisper: Path
) -> None:
    (told,) = judged("one", into=tmp_path / "reports" / "of one")
    names = {"report.json", "report.html", "predictions.jsonl"}
    assert {path.name for path in (tmp_path / "reports/of one").iterdir()} == names
    assert report.read(tmp_path / "reports/of one") == told
    assert not (tmp_path / "one/report.html").exists()
    for name in names - {"report.html"}:  # the earlier release's
        kept = GOLDEN / "v1-torch-int8" / name
        assert (tmp_path / "one" / name).read_bytes() == kept.read_bytes()
    before = (*judged("two", "three"), *sorted(tmp_path.glob("t*/report.json")))
    again = [tmp_path / "two", tmp_path / "three"]
    how = {"data": str(tmp_path / "clips"), "reference": str(tiny_whisper)}
    pipeline.validate(again, threads=1, into=tmp_path / "several", **how)
    assert {path.name for path in (tmp_path / "several").iterdir()} == {"two", "three"}
    assert report.read(tmp_path / "two") == before[0]


@pytest.mark.parametrize("place", ["/proc", "clips/0.wav", "one", "one/inside"])
def test_where_no_report_can_be_written_nothing_is_measured(
    place: str, judged: Callable[..., list[Report]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "open_subject", None)  # not called
    into = tmp_path / place
    if place == "one":
        into = None
        monkeypatch.setattr(report, "PAGE", "graphs.html")
        monkeypatch.setattr(report, "make_folder", lambda _: _read_only())
    with pytest.raises((DataError, RecipeError), match=r"written to|in a sealed one"):
        judged("one", into=into)


def _read_only() -> None:
    raise OSError(errno.EROFS, "Read-only file system")


def test_gates_that_cannot_pass_are_told_before_anything_is_measured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = open_corpus(write_clips(tmp_path / "clips", 7), tmp_path / "index")
    recipe = SimpleNamespace(gate=Gate())
    subject: Any = SimpleNamespace(
        corpus=corpus, recipe=recipe, data=Data(clips="clips"), looks=None, reader=READ_HERE
    )
    validation.warn_of_gates([subject, subject])
    fewer, words = (record.getMessage() for record in caplog.records)
    assert fewer == "the gate cannot pass: 7 clips are fewer than gate.min_clips, 50"
    assert "with 21 words, the interval of unchanged texts ends at +" in words


def test_copies_do_not_fill_a_gate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    corpus = open_corpus(write_clips(tmp_path / "clips", 60), tmp_path / "index")
    recipe = SimpleNamespace(gate=Gate(max_wer_increase=0.9))
    subject: Any = SimpleNamespace(
        corpus=corpus, recipe=recipe, data=Data(clips="clips"), looks=None, reader=READ_HERE
    )
    validation.warn_of_gates([subject])
    (told,) = (record.getMessage() for record in caplog.records)
    assert told == (
        "the gate cannot pass: 60 clips are 10 different recordings, fewer than gate.min_clips, 50"
    )


def test_texts_without_words_are_refused_before_anything_is_measured(tmp_path: Path) -> None:
    corpus = open_corpus(write_clips(tmp_path / "clips", 2, "  "), tmp_path / "index")
    subject: Any = SimpleNamespace(
        corpus=corpus,
        recipe=SimpleNamespace(gate=Gate()),
        data=Data(clips="clips"),
        looks=None,
        reader=READ_HERE,
    )
    with pytest.raises(DataError, match="no clip has a word"):
        validation.warn_of_gates([subject])


@pytest.mark.slow
def test_real_workers_write_what_one_process_writes(tmp_path: Path, tiny_whisper: Path) -> None:
    corpus = open_corpus(write_clips(tmp_path / "clips", 7), tmp_path / "index")
    decoding = Decoding(language="en", task="transcribe", batch_size=2)
    spec = ModelSpec(model=tiny_whisper, original=True, threads=1, decoding=decoding)
    transcribe_part(OpenModel(spec, silent), whole(corpus, tmp_path / "here"), silent)
    reader = Corpora(tmp_path, silent)
    listed = reader.listed(Data(clips=str(tmp_path / "clips")), Path())
    store = PartStore(tmp_path / "parts")
    reading = reader.reader(listed, (7,))
    reading.at(0)
    listener = Listener(spec, "0" * 64, "original", 100)
    hearing = Hearing(listener, reading, store, environment.describe(), least=2)
    request = request_of(spec, corpus, [])
    run = ModelRun(hearing, request, tmp_path / "out", LocalExecutor(2), silent)
    heard = list(run.transcripts(0))
    assert [len(shard.numbers) for shard in hearing.shards(0)] == [4, 3]
    assert len(store.names()) == 2
    assert not list(tmp_path.glob("out*"))
    assert heard == list(read_transcripts(tmp_path / "here"))
