"""Clips heard look by look: in an order, until the verdict on words is certain."""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporter.artifact import local_paths, report
from exporter.artifact.local_paths import LocalPaths
from exporter.artifact.report import Report
from exporter.artifact.store import read_manifest
from exporter.cli.validate import of_reports
from exporter.formats.clips import list_clips
from exporter.recipe import Data, Gate, Recipe, read
from exporter.system.progress import silent
from exporter.validate import subjects
from exporter.validate.corpus.index import sha256_of
from exporter.validate.corpus.order import drawn, order_of
from exporter.validate.corpus.unchanged import Rereader
from exporter.validate.gate import judge as gate
from exporter.validate.gate import looks
from exporter.validate.gate.looks import planned
from exporter.validate.measure.model import OpenModel
from exporter.validate.scoring.units import LEAST_UNITS, Units, units_of
from tests.support.judging import GATE, SENTENCE, case, listed
from tests.support.recordings import write_clips

Judge = Callable[..., list[Report]]


def clips_of(count: int) -> Units:
    return units_of([(None, None)] * count)


@pytest.mark.parametrize(
    ("clips", "least", "sizes"),
    [
        (300, 1, None),
        (449, 1, None),  # a look at nearly all is not worth its share of the level
        (450, 1, (300, 450)),
        (1_200, 1, (300, 1_200)),
        (1_500, 1, (300, 1_000, 1_500)),
        (30_000, 1, (300, 1_000, 3_000, 10_000, 30_000)),
        (30_000, 800, (800, 3_000, 10_000, 30_000)),
        (30_000, 25_000, None),
        (30_000, 40_000, None),
    ],
)
def test_looks_are_planned_for_the_clips_that_there_are(
    clips: int, least: int, sizes: tuple[int, ...] | None
) -> None:
    plan = planned(drawn(clips, clips_of(clips), seed=0), least)
    if sizes is None:
        assert plan is None
        return
    assert plan is not None
    assert plan.sizes == sizes
    assert plan.level == pytest.approx(1 - 0.05 / len(sizes))
    assert sorted(plan.order.places.tolist()) == list(range(clips))


def test_every_look_has_enough_speakers() -> None:
    """Of which one has nearly all clips, so that the first 300 are of few others."""
    clips = [
        replace(clip, speaker=f"speaker {place % 20 if place < 100 else 0}")
        for place, clip in enumerate(listed(6_000))
    ]
    order = order_of(clips, seed=3)
    plan = planned(order, 1)
    assert plan is not None
    first = plan.sizes[0]
    names = [clips[place].speaker for place in order.places.tolist()]
    assert first > 300
    assert len({*names[:first]}) == LEAST_UNITS
    assert len({*names[: first - 1]}) == LEAST_UNITS - 1
    again, other = (order_of(clips, seed) for seed in (3, 4))
    assert (order.places == again.places).all()
    assert (order.places != other.places).any()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks at 3 and 7 clips, two of them timed."""
    monkeypatch.setattr(subjects, "TIMED_CLIPS", 2)
    monkeypatch.setattr(subjects, "TIMED_BATCHES", 1)
    monkeypatch.setattr(looks, "FIRST", 3)


def with_gates(monkeypatch: pytest.MonkeyPatch, **limits: Gate) -> None:
    """Let artifacts have other gates than the one that is sealed in them."""
    read = subjects.read

    def other(path: Path) -> Recipe:
        recipe = read(path)
        found = limits.get(path.parent.name, recipe.gate)
        return recipe.model_copy(update={"gate": found})

    monkeypatch.setattr(subjects, "read", other)


def heard_in(folder: Path) -> list[str]:
    rows = (folder / "predictions.jsonl").read_text().splitlines()
    return [json.loads(row)["audio_filepath"] for row in rows]


@pytest.mark.usefixtures("small")
def test_a_gate_stops_when_it_is_sure(judged: Judge, tmp_path: Path) -> None:
    (told,) = judged("one")
    assert told.looks is not None
    assert told.looks.model_dump() == {
        "planned": (3, 7),
        "made": 1,
        "level": pytest.approx(0.975),
        "seed": 0,
    }
    assert told.data.clips == 3
    assert told.wer_difference.level == told.looks.level
    sentence = next(check.sentence for check in told.checks if check.name == "wer")
    assert "(97.5 % interval" in sentence
    assert "3 of 7 clips were heard (look 1 of 2)." in sentence
    assert report.read(tmp_path / "one") == told
    assert "97.5 %" in (tmp_path / "one" / "report.html").read_text()
    assert "points, 97.5 %" in "\n".join(of_reports([tmp_path / "one"], [told]).lines(200))
    heard = heard_in(tmp_path / "one")
    assert heard == sorted(heard) != ["0.wav", "1.wav", "2.wav"]
    assert told.data.sha256 == sha256_of(Data(clips="clips"), tmp_path, tmp_path, looks=(3,))


@pytest.mark.usefixtures("small")
def test_all_clips_are_heard_in_their_order_if_that_is_asked(judged: Judge, tmp_path: Path) -> None:
    (told,) = judged("one", until="all")
    assert told.looks is None
    assert told.wer_difference.level == 0.95
    assert heard_in(tmp_path / "one") == [f"{number}.wav" for number in range(7)]
    assert "looks" not in (tmp_path / "one" / "report.json").read_text()


def test_few_clips_are_judged_as_ever(judged: Judge, tmp_path: Path) -> None:
    judged("certain")
    judged("all", until="all")
    one, other = (
        json.loads((tmp_path / name / "report.json").read_text()) for name in ("certain", "all")
    )
    assert one["predictions_sha256"] == other["predictions_sha256"]
    assert one["data"] == other["data"]
    assert one["wer_difference"] == other["wer_difference"]
    assert other["reference"].pop("kept") == 7
    assert one["reference"] == other["reference"]
    assert one.keys() == other.keys()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("names", [("strict", "loose"), ("loose", "strict")])
def test_each_artifact_stops_by_itself(
    names: Sequence[str],
    workers: int,
    judged: Judge,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The original is heard as far as the one that needs most, and each clip once."""
    with_gates(monkeypatch, strict=Gate(max_wer_increase=0.1, min_clips=1, max_latency_ratio=100))
    originals: list[str] = []
    transcribe = OpenModel.transcribe
    monkeypatch.setenv("EXPORTER_CACHE", str(tmp_path / "cache"))

    def noted(self: OpenModel, batch: Sequence[Path], *how: Any) -> Any:
        originals.extend(path.name for path in batch if self.spec.original)
        return transcribe(self, batch, *how)

    monkeypatch.setattr(OpenModel, "transcribe", noted)
    reports = dict(zip(names, judged(*names, workers=workers), strict=True))
    made = {name: told.looks.made for name, told in reports.items() if told.looks}
    assert made == {"strict": 2, "loose": 1}
    assert (reports["strict"].data.clips, reports["loose"].data.clips) == (7, 3)
    assert heard_in(tmp_path / "strict")[:3] == heard_in(tmp_path / "loose")
    unheard = {path.name for path in (tmp_path / "clips").glob("*.wav")} - {*originals}
    assert not unheard
    later = heard_in(tmp_path / "strict")[3:]
    assert [originals.count(name) for name in later] == [1] * 4


@pytest.mark.usefixtures("small")
def test_the_first_look_has_as_many_clips_as_the_gate_asks_for(
    judged: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gates(
        monkeypatch,
        four=Gate(max_wer_increase=1, min_clips=4, max_latency_ratio=100),
        six=Gate(max_wer_increase=1, min_clips=6, max_latency_ratio=100),
    )
    four, six = judged("four", "six")
    assert four.looks is not None
    assert four.looks.planned == (4, 7)
    assert six.looks is None
    assert all(
        check.passed for told in (four, six) for check in told.checks if check.name == "clips"
    )


def pack(folder: Path, *damaged: str) -> Path:
    """Write the clips of a folder into an archive, those of some names as no audio."""
    packed = folder.with_name("packed")
    packed.mkdir(exist_ok=True)
    with tarfile.open(packed / "clips.tar", "w") as archive:
        for line in (folder / "manifest.jsonl").read_text().splitlines():
            row = json.loads(line)
            name = Path(row["audio"])
            broken = f"clips.tar/{name}" in damaged
            sound = b"no audio" if broken else (folder / name).read_bytes()
            for suffix, content in ((".wav", sound), (".txt", row["text"].encode())):
                member = tarfile.TarInfo(f"{name.stem}{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return packed


def test_of_an_archive_a_look_is_read_and_what_is_damaged_there_left_out(
    judged: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 460 clips, 300 are read, and one of these is no audio; nor is one of the others."""
    shown = ("one", "again")
    gate_of = Gate(max_wer_increase=1, min_clips=1, max_latency_ratio=100)
    with_gates(monkeypatch, **dict.fromkeys(shown, gate_of))
    monkeypatch.setattr(subjects, "TIMED_CLIPS", 2)
    monkeypatch.setattr(subjects, "TIMED_BATCHES", 1)
    packed = pack(write_clips(tmp_path / "many", 460))
    names = [clip.id for clip in list_clips(packed)]
    order = [names[place] for place in order_of(list_clips(packed), 0).places.tolist()]
    read_first, never = order[:300], order[-1]
    lost = read_first[7]
    pack(tmp_path / "many", lost, never)

    (told,) = judged("one", data=str(packed), skip_unreadable=True)
    assert told.looks is not None
    assert (told.looks.planned, told.looks.made) == ((300, 460), 1)
    assert (told.data.clips, told.data.unreadable) == (299, (lost,))
    assert heard_in(tmp_path / "one") == [
        name for name in names if name in read_first and name != lost
    ]
    checks = {check.name: check for check in told.checks}
    assert checks["readable"].passed
    assert "1 of 300 clips could not be read" in checks["readable"].sentence
    assert "299 of 460 clips were heard (look 1 of 2)" in checks["wer"].sentence
    (again,) = judged("again", data=str(packed), skip_unreadable=True)
    assert again.reference.kept == 299
    assert again.predictions_sha256 == told.predictions_sha256

    folder = tmp_path / "one"
    local_paths.write(folder, LocalPaths(recipe=str(tmp_path / "recipe.yaml"), checkpoint="x"))
    recipe = read(folder / "recipe.yaml").model_copy(update={"data": Data(clips="packed")})

    def now(judged: Report) -> str | None:
        return Rereader(silent)(folder, read_manifest(folder), recipe, judged)

    assert now(told) == told.data.sha256
    every = told.model_copy(update={"data": told.data.model_copy(update={"unreadable": ()})})
    assert now(every) != told.data.sha256
    pack(tmp_path / "many", lost)
    assert now(told) == told.data.sha256  # nobody heard the other one
    pack(tmp_path / "many", lost, never, read_first[8])
    assert now(told) != told.data.sha256


@pytest.mark.usefixtures("small")
def test_first_looks_at_the_same_clips_may_have_other_ones_after_them(
    judged: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fourth clip that is read cannot be, so that looks at three and four are alike."""
    strict = {"max_wer_increase": 0.1, "max_latency_ratio": 100}
    three, four = Gate(**strict, min_clips=3), Gate(**strict, min_clips=4)
    with_gates(monkeypatch, three=three, four=four)
    monkeypatch.setattr(looks, "_ladder", lambda _: iter([5]))
    clips = write_clips(tmp_path / "ten", 10)
    places = order_of(list_clips(clips), 0).places.tolist()
    (clips / f"{places[3]}.wav").write_text("no audio")
    reports = judged("three", "four", data=str(clips), skip_unreadable=True)
    assert [told.looks.planned for told in reports if told.looks] == [(3, 5, 10), (4, 10)]
    assert [told.looks.made for told in reports if told.looks] == [3, 2]
    assert [told.data.unreadable for told in reports] == [(f"{places[3]}.wav",)] * 2
    heard = {}
    for name in ("three", "four"):
        rows = map(json.loads, (tmp_path / name / "predictions.jsonl").read_text().splitlines())
        heard[name] = {row["audio_filepath"]: row["pred_text_reference"] for row in rows}
    assert len({*heard["three"].values()}) > 1
    assert heard["three"] == heard["four"]


def test_the_clips_of_a_look_are_in_the_order_of_the_data() -> None:
    order = drawn(600, clips_of(600), seed=0)
    read_order = list(order.by_looks((300, 600)))
    for look in (slice(0, 300), slice(300, 600)):
        assert read_order[look] == sorted(order.places[look].tolist())
    assert read_order[:300] != list(range(300))
    assert list(order.by_looks((300,))) == read_order[:300]


def test_a_look_without_enough_speakers_decides_nothing() -> None:
    """Some of whose clips could not be read: clips would count as independent."""
    clips = listed(600, speakers=LEAST_UNITS)
    order = order_of(clips, seed=0)
    units = units_of((clip.speaker, clip.recording) for clip in clips)
    fewer = [clip for clip in clips if clip.speaker != "speaker 0"]
    assert order.has_units(units)
    assert not order.has_units(units_of((clip.speaker, clip.recording) for clip in fewer))
    assert order_of(listed(600), seed=0).has_units(clips_of(599))


def test_words_are_certain_on_either_side_of_the_limit() -> None:
    worse = case(hear=lambda _: SENTENCE.replace("light", "lamp"))
    close = case(hear=lambda index: SENTENCE if index % 10 else "turn off" + SENTENCE[7:])
    empty = case(hear=lambda index: SENTENCE if index else "")
    for one, certain in ((case(), True), (worse, True), (close, False), (empty, True)):
        assert gate.settled(one, GATE, 0.95) is certain
    assert not gate.settled(case(), GATE, 0.9999)


def test_copies_do_not_make_enough_clips() -> None:
    one = case()
    assert one.contents is not None
    copies = replace(one, contents=replace(one.contents, sounds=np.arange(100) // 4))
    assert gate.settled(one, GATE, 0.95)
    assert not gate.settled(copies, GATE, 0.95)
