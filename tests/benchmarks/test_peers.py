"""Measuring the rivals: the protocol with one real worker, the figures, tables and picture."""

import json
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from transformers import WhisperForConditionalGeneration

from benchmarks.peers import rounds
from benchmarks.peers import run as peers
from benchmarks.peers.plot import draw
from benchmarks.peers.results import entry_for, figures, open_results, ratios, save_results, tables
from benchmarks.peers.rounds import Bench, Failed, Setting, convert, last_words, prepare, run
from benchmarks.peers.systems import CONVERSIONS, ENVIRONMENTS, OWN, RIVALS, Conversion, Rival
from benchmarks.peers.workers.openai_convert import renamed
from benchmarks.peers.workers.worker import Opened, Request, measure
from exporter.checkpoint.checkpoint import open_checkpoint

SETTING = Setting(tokens=8, threads=1, batch=2, beams=1)


def bench(work: Path, **changed: Any) -> Bench:
    usual: dict[str, Any] = {
        "runs": 2,
        "memory_limit": 1 << 40,
        "time_limit_s": 120,
        "lock": work / "lock",
    }
    return Bench(work, SETTING, **usual | changed)


def row(seconds: float, run_id: str = "today") -> dict[str, Any]:
    """One rival's figures, as they are kept."""
    spread = {"median": seconds, "min": 0.9 * seconds, "q1": seconds, "q3": seconds}
    return {
        "label": "someone",
        "run": run_id,
        "seconds": {**spread, "max": 1.2 * seconds, "all": [seconds]},
        "tokens_per_s": 64 / seconds,
        "rtf": seconds / 30,
        "ready_s": 1.0,
        "peak_rss_bytes": 1_000_000_000,
        "size_bytes": 250_000_000,
        "conversion": {"seconds": 6.0, "peak_bytes": 1_400_000_000},
    }


def canned() -> dict[str, Any]:
    """A small shape where every rival is measured, and a large one where optimum fails."""
    small = {name: row(1.0 + index) for index, name in enumerate(RIVALS)}
    small["aoti"], small["faster-whisper"] = row(0.5), row(2.0)
    small["openvino-bf16"] = row(1.0, "yesterday")
    large = {name: row(9.0) for name in ("aoti", "onnx-int8", "torch-int8", "faster-whisper")}
    large["optimum"] = {"label": "optimum", "run": "today", "failed": "killed & <gone>"}
    key = {"batch": 1, "beams": 1, "tokens": 64, "threads": 2}
    return {
        "machine": {
            "cpu": "a processor",
            "cores": 2,
            "memory_bytes": 24_000_000_000,
            "features": ["avx2"],
        },
        "entries": [
            {"shape": "small", **key, "parameters": 242_000_000, "rivals": small},
            {"shape": "large-v3", **key, "parameters": 1_543_000_000, "rivals": large},
        ],
    }


def test_every_rival_has_its_parts(repository: Path) -> None:
    for rival in RIVALS.values():
        assert rival.environment in {OWN, *ENVIRONMENTS}
        assert rival.conversion is None or rival.conversion in CONVERSIONS
        assert (repository / "benchmarks" / "peers" / "workers" / f"{rival.worker}.py").exists()


def test_a_worker_times_whole_transcriptions_after_the_warm_up(tmp_path: Path) -> None:
    np.save(tmp_path / "audio.npy", np.zeros((2, 16), np.float32))
    calls: list[int] = []

    def open_model(request: Request) -> Opened:
        def transcribe() -> list[str]:
            calls.append(len(request.windows()))
            time.sleep(0.2 if len(calls) == 1 else 0.01)
            return ["one", "two"]

        return Opened(transcribe, lambda: [8, 8], ("numpy", "not-there"))

    told = measure(open_model, request(tmp_path, warmups=1))
    assert calls == [2] * 3, "a warm-up, and two runs"
    assert told["warmup_s"][0] >= 0.2
    assert all(0.01 <= seconds < 0.2 for seconds in told["seconds"])
    assert len(told["seconds"]) == 2
    assert told["ready_s"] >= told["load_s"]
    assert told["texts"] == ["one", "two"]
    assert list(told["versions"]) == ["numpy"]
    assert told["peak_rss_bytes"] > 1e6


def request(folder: Path, **changed: Any) -> Request:
    usual: dict[str, Any] = {
        "model": str(folder),
        "checkpoint": str(folder),
        "audio": str(folder / "audio.npy"),
        "tokens": SETTING.tokens,
        "threads": 1,
        "beams": 1,
        "warmups": 0,
        "runs": 2,
        "started": time.monotonic(),
    }
    return Request(**usual | changed)


def test_a_request_passes_through_json(tmp_path: Path) -> None:
    asked = request(tmp_path, options={"dtype": "float32"})
    assert Request(**json.loads(json.dumps(asdict(asked)))) == asked


@pytest.mark.slow
def test_a_fresh_process_of_plain_transformers_decodes_as_many_tokens_as_asked(
    tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"dtype": "float32"}
    rival = Rival("plain", OWN, "transformers_worker", None, options)
    monkeypatch.setattr(rounds, "DISTURBED", 1.0)
    sound = tmp_path / "audio.npy"
    np.save(sound, np.random.default_rng(0).normal(0, 0.1, (2, 16000)).astype(np.float32))
    answer = run(bench(tmp_path), tiny_whisper, rival, str(tiny_whisper), sound)
    assert answer["tokens"] == [SETTING.tokens] * 2
    assert len(answer["seconds"]) == 2
    assert len(answer["texts"]) == 2
    assert answer["versions"]["torch"] == torch.__version__
    told = figures([{**answer, "load_average": 0.1}], {"size_bytes": 7}, rival, SETTING)
    assert told["seconds"]["min"] <= told["seconds"]["median"] <= told["seconds"]["max"]
    assert told["rtf"] == pytest.approx(told["seconds"]["median"] / 60, abs=2e-5)
    with pytest.raises(Failed, match="Error"):
        run(bench(tmp_path), tiny_whisper, rival, str(tmp_path / "nowhere"), sound)


def test_of_many_last_words_the_error_is_told() -> None:
    assert last_words("ValueError: no such type\nWarning: going down\n\n") == (
        "ValueError: no such type"
    )
    assert last_words("one\n two \n") == "two"
    assert last_words("") == "it ended without a word"


@pytest.mark.parametrize(
    ("answers", "message"),
    [([{"tokens": [8, 7]}], "not 8 in each"), ([{"tokens": [8]}], "not 8 in each")],
    ids=["fewer tokens", "fewer windows"],
)
def test_other_counts_of_tokens_are_a_failure(
    answers: list[dict[str, Any]], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "ask", lambda *_: {"foreign_share": 0.0, **answers[0]})
    with pytest.raises(Failed, match=message):
        run(bench(tmp_path), tmp_path, RIVALS["eager"], "", tmp_path)


def test_a_disturbed_measurement_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = iter([0.4, 0.01, 0.0])
    answer = {"tokens": [8, 8]}
    monkeypatch.setattr(rounds, "ask", lambda *_: {**answer, "foreign_share": next(shares)})
    assert run(bench(tmp_path), tmp_path, RIVALS["eager"], "", tmp_path)["foreign_share"] == 0.01


def test_a_conversion_is_kept_with_its_cost_and_a_kill_is_told(
    tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "convert.py"
    script.write_text(
        "import pathlib, sys, time; folder = pathlib.Path(sys.argv[1]); folder.mkdir();"
        "(folder / 'model').write_bytes(b'x' * 1000); print('done'); held = b'x' * 200_000_000;"
        "time.sleep(0.5)"
    )
    making = Conversion(OWN, f"{{python}} {script} {{output}}", copied=("config.json",))
    monkeypatch.setitem(CONVERSIONS, "toy", making)
    rival = Rival("toy", OWN, "worker", "toy")
    told = convert(bench(tmp_path), tiny_whisper, rival, again=False)
    folder = Path(told["model"])
    assert told["size_bytes"] == 1000 + (folder / "config.json").stat().st_size
    assert told["seconds"] > 0.5
    script.write_text("import sys; sys.exit('no such thing')")
    assert convert(bench(tmp_path), tiny_whisper, rival, again=False) == told
    with pytest.raises(Failed, match="conversion: no such thing"):
        convert(bench(tmp_path), tiny_whisper, rival, again=True)
    script.write_text("import time; held = b'x' * 300_000_000; time.sleep(60)")
    limited = bench(tmp_path, memory_limit=100_000_000)
    for again in (True, False):
        with pytest.raises(Failed, match="killed for want of memory"):
            convert(limited, tiny_whisper, rival, again=again)


def test_an_environment_is_made_once_for_the_same_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def pretend(command: list[str], **_: object) -> Any:
        commands.append(command)
        (tmp_path / "environments" / "optimum").mkdir(parents=True, exist_ok=True)
        return type("Done", (), {"returncode": 0, "stderr": ""})

    monkeypatch.setattr("benchmarks.peers.rounds.subprocess.run", pretend)
    for _ in range(2):
        prepare(bench(tmp_path), "optimum")
    assert len(commands) == 3
    assert commands[1][-1] == "torch==2.13.0"
    assert "optimum-onnx==0.1.0" in commands[2]
    prepare(bench(tmp_path), OWN)
    assert bench(tmp_path).python(OWN) == Path(sys.executable)


def test_the_figures_of_several_settings_accumulate(tiny_whisper: Path, tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    results = open_results(path)
    checkpoint = open_checkpoint(str(tiny_whisper))
    entry_for(results, checkpoint, "tiny", SETTING)["rivals"] |= {"aoti": row(1.0)}
    entry_for(results, checkpoint, "tiny", Setting(8, 1, 1, 1))["rivals"] |= {"aoti": row(3.0)}
    save_results(path, results)
    again = open_results(path)
    entry_for(again, checkpoint, "tiny", SETTING)["rivals"] |= {"eager": row(2.0)}
    assert [(entry["batch"], list(entry["rivals"])) for entry in again["entries"]] == [
        (1, ["aoti"]),
        (2, ["aoti", "eager"]),
    ]
    again["machine"]["cores"] += 1
    with pytest.raises(click.ClickException, match="another machine"):
        entry_for(again, checkpoint, "tiny", SETTING)


def test_the_ratios_tell_what_is_met() -> None:
    small, large = (list(ratios(entry)) for entry in canned()["entries"])
    assert [(r.target.ours, r.against, r.value, r.limit, r.met) for r in small[:2]] == [
        ("aoti", "faster-whisper", 0.25, 0.30, True),
        ("aoti", "openvino-bf16", 0.5, 0.38, False),
    ]
    assert [ratio.one_run for ratio in small[:2]] == [True, False]
    assert [(r.value, r.limit, r.met) for r in large] == [
        (1.0, 0.40, False),
        (None, 0.50, None),
        (None, None, True),
        (1.0, 0.65, False),
        (None, 0.40, None),
    ]


def test_the_tables_have_a_row_for_each_rival_and_target() -> None:
    text = tables(canned())
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count(" | ") for line in rows[: 2 + len(RIVALS)]} == {8}
    assert "**large-v3, 1543 M: one window, greedy, 64 tokens each, 2 threads**" in text
    assert "cannot: killed & <gone>" in text
    assert "| aoti / faster-whisper int8 | 0.25 of 0.30 met | 1.00 of 0.40 **not met** |" in text
    assert "| aoti / best OpenVINO | 0.50 of 0.38 **not met** (two runs) |  |" in text
    assert "theirs fails" in text
    assert text.endswith("2 cores of a processor (avx2), 24.0 GB of memory.")


def test_the_picture_is_xml_with_a_bar_for_each_measured_rival() -> None:
    root = ET.fromstring(draw(canned()))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    classes = [element.get("class") for element in root.iter()]
    assert classes.count("ours") == 3 + 3
    assert classes.count("theirs") == len(RIVALS) - 3 + 1
    words = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"small, 242 M parameters", "killed & <gone>", "0.50 s"} <= words


def test_without_checkpoints_the_file_is_told_and_drawn(tmp_path: Path) -> None:
    path, picture = tmp_path / "peers.json", tmp_path / "speed.svg"
    arguments = ["--results", str(path), "--picture", str(picture)]
    empty = CliRunner().invoke(peers.main, arguments)
    assert empty.exit_code == 2
    assert "holds no figures" in empty.output
    save_results(path, canned())
    told = CliRunner().invoke(peers.main, arguments, catch_exceptions=False)
    assert "| aoti / best OpenVINO |" in told.output
    ET.parse(picture)


def test_rounds_are_interleaved_and_a_failure_is_a_row(
    tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def answer(_bench: object, _checkpoint: Path, rival: Rival, *_: object) -> dict[str, Any]:
        asked.append(rival.label)
        if rival is RIVALS["optimum"]:
            msg = "it cannot"
            raise Failed(msg)
        times = {"seconds": [2.0, 1.0], "load_s": 0.5, "ready_s": 1.0, "warmup_s": [3.0]}
        told = {"tokens": [8, 8], "texts": ["a", "b"], "versions": {}, "peak_rss_bytes": 1e9}
        return {**times, **told, "foreign_share": 0.0}

    monkeypatch.setattr(peers, "run", answer)
    monkeypatch.setattr(peers, "prepare", lambda *_: None)
    monkeypatch.setattr(peers, "convert", lambda *_, **__: {"model": "there", "size_bytes": 1})
    rivals = {name: RIVALS[name] for name in ("eager", "optimum", "aoti")}
    rows = peers.measure(bench(tmp_path), tiny_whisper, rivals, 2, False)
    eager, optimum, aoti = (rival.label for rival in rivals.values())
    assert asked == [eager, optimum, aoti, eager, aoti]
    assert rows["optimum"]["failed"] == "it cannot"
    assert rows["eager"]["seconds"]["all"] == [2.0, 1.0, 2.0, 1.0]
    assert rows["eager"]["tokens_per_s"] == pytest.approx(16 / 1.5, rel=0.01)


def test_the_checkpoint_has_openais_names(tiny_whisper: Path) -> None:
    (weights,) = tiny_whisper.glob("*.safetensors")
    names = {renamed(name) for name in load_file(weights)}
    layer = "decoder.blocks.1."
    assert {
        *("encoder.conv1.weight", "encoder.positional_embedding", "encoder.ln_post.bias"),
        *("decoder.token_embedding.weight", "decoder.positional_embedding", "decoder.ln.weight"),
        *(f"{layer}attn.query.bias", f"{layer}attn_ln.weight", f"{layer}cross_attn.out.bias"),
        *(f"{layer}cross_attn_ln.weight", f"{layer}mlp.0.weight", f"{layer}mlp_ln.bias"),
    } <= names
    model = WhisperForConditionalGeneration.from_pretrained(tiny_whisper)
    assert len(names) == len(list(model.model.named_parameters()))
