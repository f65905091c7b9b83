"""Timing artifacts: what is timed in which order, how often, and what is made of the seconds."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from exporter.artifact import store
from exporter.bench import run as benching
from exporter.bench import timing
from exporter.bench.clock import HostClock
from exporter.bench.timing import Request
from exporter.build.pipeline import build
from exporter.cli import main
from exporter.errors import MachineError, RecipeError
from exporter.recipe import Decoding, read
from exporter.recognition.load import load, load_original
from exporter.recognition.recogniser import Recogniser
from exporter.system import hardware, worker
from exporter.system.progress import silent
from tests.support import sealed
from tests.support.in_process import steps_in_process
from tests.support.rounds import round_
from tests.support.tiny import make_whisper

RECIPE = "name: speech\ncheckpoint: org/model\ntargets: [{kind: aoti}]\ndecoding: {num_beams: 2}\n"


def test_clocks_are_taken_out_again() -> None:
    def twice(number: int, wanted: int | None = None) -> int:
        return 2 * number

    functions: dict[str, Any] = {"encoder": twice, "decoder": twice, "unused": twice}

    def call() -> None:
        assert functions["encoder"](3) == 6
        assert functions["encoder"].__name__ == "twice"
        assert [functions["decoder"](n, wanted=n) for n in range(5)] == [0, 2, 4, 6, 8]

    found = timing.profile(functions, call, HostClock())
    assert found is not None
    assert {name: graph.calls for name, graph in found.graphs.items()} == {
        "encoder": 1,
        "decoder": 5,
    }
    assert sum(graph.seconds for graph in found.graphs.values()) < found.seconds
    assert set(functions.values()) == {twice}
    assert timing.profile(None, call, HostClock()) is None


@pytest.fixture
def artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two sealed folders with nothing but a recipe: enough to be timed by a stand-in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
    here = hardware.describe()
    four = hardware.Machine(here.cpu, 4, here.memory_bytes, here.features)
    monkeypatch.setattr(hardware, "describe", lambda: four)
    for name, threads in (("a", None), ("b", 3)):
        folder = tmp_path / "built" / name
        folder.mkdir(parents=True)
        (folder / "recipe.yaml").write_text(RECIPE)
        manifest = sealed.manifest("aoti")
        origin = manifest.checkpoint.model_copy(update={"source": "org/model"})
        told = {"name": name, "options": {"threads": threads}, "checkpoint": origin}
        store.seal(folder, manifest.model_copy(update=told))
    return tmp_path / "built"


Refusal = Callable[[Request], Exception | None]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> tuple[list[Request], list[Refusal]]:
    """The requests made of child processes, which answer with made-up seconds or refuse."""
    requests: list[Request] = []
    refusals: list[Refusal] = []

    def run(step: str, request: dict[str, Any], progress: Any, **how: Any) -> dict[str, Any]:
        assert step == "exporter.bench.timing:time_model"
        wanted = Request.model_validate(request)
        assert how["threads"] == wanted.threads
        requests.append(wanted)
        progress("run 1 of 2", 0.5)
        for refuse in refusals:
            if error := refuse(wanted):
                raise error
        measured = round_(*[(0.1 * (n + 1),) for n in range(wanted.runs)])
        return {"round": measured.model_dump(mode="json")}

    monkeypatch.setattr(worker, "run", run)
    return requests, refusals


def test_rounds_go_through_all_models_to_and_fro(
    artifacts: Path, asked: tuple[list[Request], list[Refusal]]
) -> None:
    told: list[float] = []
    rows = benching.bench(
        [artifacts],
        benching.Workload(runs=7, tokens=5),
        threads=(1, 2),
        progress=lambda _what, done: told.append(done or 0),
    )
    order = [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    made = [(request.model.name, request.threads) for request in asked[0]]
    assert made == [*order, *reversed(order), *order]
    assert [request.runs for request in asked[0]] == [3] * 4 + [2] * 8
    assert {request.tokens for request in asked[0]} == {5}
    assert [len(row.rounds) for row in rows] == [3] * 4
    assert told == sorted(told)
    assert 0 < told[0] < told[-1] < 1


def test_each_artifact_has_its_own_threads_and_decoding(
    artifacts: Path, asked: tuple[list[Request], list[Refusal]]
) -> None:
    rows = benching.bench([artifacts], benching.Workload(runs=1))
    assert [row.threads for row in rows] == [4, 3]  # all cores; those compiled in
    assert {row.decoding for row in rows} == {Decoding(num_beams=2)}
    benching.bench([artifacts / "a"], benching.Workload(runs=1, beams=5, batch=8))
    assert asked[0][-1].decoding == Decoding(num_beams=5, batch_size=8)
    assert len(asked[0]) == 3


def test_what_cannot_be_timed_says_why_beside_the_others(
    artifacts: Path,
    asked: tuple[list[Request], list[Refusal]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    asked[1].append(
        lambda request: MachineError("compiled for 3\ndo this") if request.threads == 1 else None
    )
    call = ["bench", "built/a", "--threads", "1,2", "--runs", "3"]
    assert main(call) == 6
    out, err = capfd.readouterr()
    lines = out.splitlines()
    assert lines[2].split() == ["built/a", "1", *"-" * 12, str(len(RECIPE)), "B"]
    assert lines[3].split()[:4] == ["built/a", "2", "100", "ms"]
    assert lines[4] == (
        "Samples in, text out: a window of 10 s of noise and 8 tokens; beams 2, batch 1, 3 runs, "
        "fresh processes in 3 rounds."
    )
    assert lines[5] == "built/a, threads 1: compiled for 3"
    assert err == "error: compiled for 3\n  do this\n"
    assert [request.threads for request in asked[0]] == [1, 2, 2, 2]  # not tried again

    assert main([*call, "--json"]) == 6
    document = json.loads(capfd.readouterr().out)
    failed, timed = document["rows"]
    assert failed["error"] == {"kind": "MachineError", "message": "compiled for 3\ndo this"}
    assert timed["latency_s"]["p50"] == 0.1
    assert [each["seconds"] for each in timed["rounds"]] == [[[0.1]]] * 3
    assert document["load"] == {"audio": [], "tokens": 64, "runs": 3}
    assert document["machine"]["isa"] == hardware.describe().isa


def test_where_nothing_can_be_timed_there_is_no_table(
    artifacts: Path,
    asked: tuple[list[Request], list[Refusal]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    asked[1].append(lambda _request: MachineError("no such machine"))
    assert main(["bench", "built"]) == 6
    assert capfd.readouterr() == ("", "error: no such machine\n")


def test_a_busy_machine_and_unlike_recipes_are_warned_of(
    artifacts: Path,
    asked: tuple[list[Request], list[Refusal]],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (1.25, 0.0, 0.0))
    manifest = store.read_manifest(artifacts / "b")
    (artifacts / "b" / "recipe.yaml").write_text(RECIPE.replace("num_beams: 2", "num_beams: 1"))
    (artifacts / "b" / "manifest.json").unlink()
    store.seal(artifacts / "b", manifest)
    assert main(["bench", "built", "--runs", "1"]) == 0
    out, err = capfd.readouterr()
    assert err == (
        "warning: this machine is not idle (load average 1.2): times will be too long\n"
        "warning: recipes differ in beams or batch: give --beams and --batch to compare\n"
    )
    assert "; beams 1 or 2, batch 1, 1 runs" in out


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["nowhere"], 5, "nowhere is not an artifact: it does not exist.\n  Build one"),
        (["empty"], 5, "empty is not an artifact: it has no manifest.json.\n  Build one"),
        (["built", "--audio", "x.wav"], 3, "audio file x.wav does not exist"),
        (["built", "--audio", "bad.wav"], 3, "bad.wav cannot be read as audio"),
        (["built", "--audio", "empty.wav"], 3, "empty.wav holds no audio"),
        (["built", "--threads", "1,9"], 6, "--threads 9: this machine has 4 cores"),
        (["built", "--threads", "1,x"], 2, "Invalid value for '--threads': '1,x' is not a list"),
        (["built", "--threads", "0"], 2, "Invalid value for '--threads': '0' is not a list"),
        (["built", "--runs", "0"], 2, "Invalid value for '--runs'"),
        (["built", "--original"], 3, "built/a: its original is not at /"),
        ([], 2, "Missing argument 'PATHS...'"),
    ],
)
def test_bad_input_is_told_before_anything_is_timed(
    artifacts: Path,
    asked: tuple[list[Request], list[Refusal]],
    arguments: list[str],
    code: int,
    told: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    Path("bad.wav").write_text("no audio")
    Path("empty").mkdir()
    soundfile.write("empty.wav", np.zeros(0), 16000)
    assert main(["bench", *arguments]) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f"error: {told}")
    assert len(err.splitlines()) <= 3
    assert not asked[0]


def test_recordings_fill_their_batches(tmp_path: Path, tiny_whisper: Path) -> None:
    recogniser = load_original(str(tiny_whisper), threads=1)
    paths = tuple(tmp_path / f"{n}.wav" for n in range(3))
    for n, path in enumerate(paths):
        soundfile.write(path, np.zeros(1600 * (n + 1)), 16000)

    def lengths(**how: Any) -> list[list[int]]:
        request = Request(model=tiny_whisper, original=True, threads=1, **how)
        return [[len(sound) for sound in batch] for batch in timing._batches(request, recogniser)]

    two = Decoding(batch_size=2)
    assert lengths(audio=paths, decoding=two) == [[1600, 3200], [4800, 1600]]
    assert lengths(audio=paths, decoding=Decoding()) == [[1600], [3200], [4800]]
    assert lengths(decoding=two) == [[64000, 64000]]


def test_noise_is_the_same_for_everybody(tiny_whisper: Path) -> None:
    recogniser = load_original(str(tiny_whisper), threads=1)
    request = Request(model=tiny_whisper, original=True, threads=1, decoding=Decoding(batch_size=2))
    ((one, other),) = timing._batches(request, recogniser)
    ((again, _),) = timing._batches(request, recogniser)
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert 0.005 < one.std() < 0.02


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of random weights that hears one second pass, over and over, in anything."""
    folder = make_whisper(tmp_path_factory.mktemp("bench") / "chatty", certainty=0.0)
    settings = json.loads((folder / "generation_config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    second = settings["no_timestamps_token_id"] + 1 + 50
    favoured = weights["model.decoder.embed_tokens.weight"][second]
    weights["model.decoder.embed_positions.weight"] += 6 * favoured / favoured.norm()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, chatty: Path) -> dict[str, Path]:
    """Its artifacts that need no compiler, by kind."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "recipe.yaml").write_text(
        f"name: chatty\ncheckpoint: {chatty}\ndecoding: {{language: en, task: transcribe}}\n"
        "targets: [{kind: onnx-int8}, {kind: torch-int8}]\n"
    )
    with steps_in_process():
        made = build(read(folder / "recipe.yaml"), output=folder / "artifacts", progress=silent)
    return {one.manifest.kind: one.path for one in made}


def steps(recogniser: Recogniser, tokens: int, decoding: Decoding) -> list[int]:
    """Force tokens; the rows of every step that follows a prompt."""
    assert recogniser.opened.force_tokens(tokens)
    seen: list[int] = []

    def look(_module: Any, _inputs: Any, output: Any) -> None:
        seen.append(output.logits.shape[0])

    handle = recogniser.model.register_forward_hook(look)
    request = Request(model=Path(), original=False, threads=1, decoding=decoding)
    (batch,) = timing._batches(request, recogniser)
    recogniser.decode(batch, decoding)
    handle.remove()
    return seen


ENGLISH = {"language": "en", "task": "transcribe"}


@pytest.mark.parametrize("tokens", [1, 7, 60])
@pytest.mark.parametrize("how", [{}, {"batch_size": 3}, {"num_beams": 2}], ids=str)
def test_exactly_so_many_tokens_are_decoded(chatty: Path, tokens: int, how: dict[str, int]) -> None:
    decoding = Decoding(**ENGLISH, **how)
    seen = steps(load_original(str(chatty), threads=1), tokens, decoding)
    assert len(seen) == tokens
    assert seen[-1] == decoding.batch_size * decoding.num_beams


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx-int8", "torch-int8"])
@pytest.mark.parametrize("how", [{}, {"batch_size": 3, "num_beams": 2}], ids=str)
def test_artifacts_decode_exactly_so_many_too(
    built: dict[str, Path], kind: str, how: dict[str, int]
) -> None:
    recogniser, decoding = load(built[kind], threads=1), Decoding(**ENGLISH, **how)
    assert recogniser.opened.force_tokens(7)
    functions, seen = recogniser.opened.functions, list[int]()
    assert functions is not None
    (name,) = {"step", "decoder"} & functions.keys()
    decode = functions[name]

    def counted(given: Any, wanted: Any = None) -> Any:
        seen.append(getattr(given, "arrays", given)["input_ids"].shape[1])
        return decode(given) if wanted is None else decode(given, wanted)

    functions[name] = counted
    request = Request(model=Path(), original=False, threads=1, decoding=decoding)
    (batch,) = timing._batches(request, recogniser)
    recogniser.decode(batch, decoding)
    assert seen.count(1) == 6  # the prompt gives the first


def test_more_tokens_than_places_are_refused(chatty: Path) -> None:
    opened = load_original(str(chatty), threads=1)
    with pytest.raises(RecipeError, match="--tokens 61: this model decodes at most 60 at a time"):
        opened.family.force_tokens(opened.model, 61)


@pytest.mark.slow
def test_artifacts_beside_their_original(
    built: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    """Real processes: figures for all, times of graphs for those that have graphs."""
    call = ["bench", str(built["onnx-int8"]), "--original", "--runs=2", "--tokens=5", "--json"]
    assert main(call) == 0
    rows = json.loads(capfd.readouterr().out)["rows"]
    names = [row["name"].rpartition("/")[2] for row in rows]
    assert names == ["onnx-int8", "chatty in float32"]
    for row in rows:
        assert [len(each["seconds"]) for each in row["rounds"]] == [1, 1]
        assert row["tokens"] == 5
        assert row["audio_s"] == 4.0
        assert row["peak_rss_bytes"] > 50e6
        assert 0 < row["latency_s"]["min"] <= row["latency_s"]["p50"] <= row["latency_s"]["max"]
    graphs = rows[0]["rounds"][0]["profile"]["graphs"]
    assert {name: graph["calls"] for name, graph in graphs.items()} == {
        "encoder_model": 1,
        "cross_cache": 1,
        "step": 5,
    }
    assert 0 < rows[0]["outside_share"] < 1
    assert rows[1]["outside_share"] is None


@pytest.mark.slow
def test_recordings_are_decoded_as_the_recipe_says(
    built: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    generator = torch.Generator().manual_seed(0)
    for n, seconds in enumerate((1, 5)):  # the second is longer than the window
        noise = 0.1 * torch.randn(16000 * seconds, generator=generator)
        soundfile.write(tmp_path / f"{n}.wav", noise.numpy(), 16000)
    call = ["bench", str(built["torch-int8"]), "--runs=1", "--threads=1", "--beams=2", "--json"]
    call += ["--audio", str(tmp_path / "0.wav"), "--audio", str(tmp_path / "1.wav")]
    assert main(call) == 0
    document = json.loads(capfd.readouterr().out)
    (row,) = document["rows"]
    assert row["threads"] == 1
    assert row["decoding"]["num_beams"] == 2
    assert row["audio_s"] == 6.0
    assert row["rounds"][0]["windows"] == [1, 2]
    assert len(row["rounds"][0]["seconds"][0]) == 2
    assert document["load"]["tokens"] is None
