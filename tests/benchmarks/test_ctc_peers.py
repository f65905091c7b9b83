"""Measuring CTC checkpoints beside other runtimes: the checkpoint, real workers, the tables."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from transformers import Wav2Vec2ForCTC, Wav2Vec2Processor

from benchmarks import random_ctc
from benchmarks.peers import ctc, rounds
from benchmarks.peers.results import save_results
from benchmarks.peers.rounds import Bench, Failed, Setting, run, write_audio, write_recipe
from benchmarks.peers.systems import CONVERSIONS, CTC_RIVALS, ENVIRONMENTS, OWN, Rival
from benchmarks.peers.workers.ctc.exporter_worker import Counted
from exporter import recipe
from exporter.checkpoint.checkpoint import open_checkpoint

TOY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": (32,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a toy's shape, with the front end of a real one."""
    folder = tmp_path_factory.mktemp("benchmarks") / "toy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(random_ctc.SHAPES, "base", TOY)
        done = CliRunner().invoke(random_ctc.main, ["base", str(folder)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return folder


def bench(work: Path, tokens: int) -> Bench:
    return Bench(work, Setting(tokens, 1, 1, 1), 2, 1 << 40, 120, None, ctc.CLIP_S)


def test_every_rival_has_its_parts(repository: Path) -> None:
    workers = repository / "benchmarks" / "peers" / "workers"
    for rival in CTC_RIVALS.values():
        assert rival.environment in {OWN, *ENVIRONMENTS}
        assert rival.conversion is None or rival.conversion in CONVERSIONS
        assert (workers / f"{rival.worker.replace('.', '/')}.py").exists()


def test_the_checkpoint_is_whole(toy: Path, tmp_path: Path) -> None:
    model, loading = Wav2Vec2ForCTC.from_pretrained(toy, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    processor = Wav2Vec2Processor.from_pretrained(toy)
    inputs = processor(np.zeros(16000, np.float32), sampling_rate=16000, return_tensors="pt")
    assert model(inputs.input_values).logits.shape == (1, 49, len(random_ctc.TOKENS))
    assert "masked_spec_embed" not in " ".join(open_checkpoint(str(toy)).tensors)
    assert recipe.read(write_recipe(tmp_path / "recipe.yaml", toy)).decoding == recipe.Decoding()


def test_as_many_frames_are_expected_as_the_model_computes(toy: Path) -> None:
    config = open_checkpoint(str(toy)).config
    assert [ctc.frames(config, seconds * 16000) for seconds in (1, 10)] == [49, 499]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eager", "torch-dynamic"])
def test_a_fresh_process_transcribes_and_counts_its_frames(
    name: str, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "DISTURBED", 1.0)
    rival, measured = replace(CTC_RIVALS[name], environment=OWN), bench(tmp_path, tokens=499)
    answer = run(measured, toy, rival, str(toy), write_audio(measured))
    assert answer["tokens"] == [499]
    assert len(answer["seconds"]) == 2
    assert answer["versions"]["torch"] == torch.__version__
    with pytest.raises(Failed, match="not 500 in each"):
        run(bench(tmp_path, 500), toy, rival, str(toy), write_audio(measured))


def test_the_frames_of_an_artifact_are_those_of_its_graph() -> None:
    class Graph:
        device = torch.device("cpu")

        def __call__(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {"logits": torch.zeros(1, 7, 3)}

    frames: list[int] = []
    counted = Counted(Graph(), frames)
    assert counted({})["logits"].shape == (1, 7, 3)
    assert counted.device == Graph.device
    assert frames == [7]


def row(seconds: float) -> dict[str, Any]:
    """One rival's figures, as they are kept."""
    return {
        "label": "someone",
        "run": "today",
        "seconds": {"median": seconds, "min": seconds, "max": seconds},
        "tokens_per_s": 499 / seconds,
        "rtf": seconds / 10,
        "ready_s": 1.0,
        "peak_rss_bytes": 1_000_000_000,
        "size_bytes": 250_000_000,
    }


def test_the_figures_are_told_as_a_table(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "figures.json"
    rows = {"aoti": row(0.25), "optimum": {"label": "optimum", "failed": "it cannot"}}
    given: list[Bench] = []

    def measured(bench: Bench, _: Path, rivals: dict[str, Rival], *__: object) -> dict[str, Any]:
        given.append(bench)
        return {name: rows[name] for name in rivals}

    monkeypatch.setattr(ctc, "measure", measured)
    invoke: Callable[..., Any] = CliRunner().invoke
    only = ["--only", "aoti", "--only", "optimum"]
    arguments = [str(toy), "--work", str(tmp_path), "--results", str(path), "--threads", "2"]
    told = invoke(ctc.main, [*arguments, *only], catch_exceptions=False)
    assert (given[0].setting.tokens, given[0].window_s) == (499, 10)
    lines = [line for line in told.output.splitlines() if line.startswith("|")]
    assert lines[2].startswith("| someone | 0.250 s | 0.250 to 0.250 | 0.0250 | 1.0 s |")
    assert lines[3].startswith("| optimum | cannot: it cannot |")
    assert {line.count("|") for line in lines} == {9}
    assert invoke(ctc.main, ["--results", str(path)], catch_exceptions=False).output == told.output
    save_results(path, {"machine": {}, "entries": []})
    assert "holds no figures" in invoke(ctc.main, ["--results", str(path)]).output
