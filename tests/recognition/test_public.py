"""The package's own names: light to import, known to tools, and silent when they are used."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from transformers import WhisperForConditionalGeneration

import exporter
from tests.support.golden import GOLDEN


def fresh(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own, where every warning is shown once."""
    command = [sys.executable, "-W", "default", "-c", script, *arguments]
    kept = {n: v for n, v in os.environ.items() if not n.startswith("TRANSFORMERS_")}
    return subprocess.run(
        command, capture_output=True, text=True, env={**kept, **environment}, check=False
    )


LIGHT = """
import sys, exporter
assert {"load", "Recogniser", "Transcript"} <= set(dir(exporter))
print([name for name in ("numpy", "torch", "transformers", "pydantic") if name in sys.modules])
"""


def test_importing_it_is_light() -> None:
    done = fresh(LIGHT)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_its_names_are_there_and_no_others() -> None:
    for name in exporter.__all__:
        assert getattr(exporter, name).__name__ == name
    with pytest.raises(AttributeError, match="module 'exporter' has no attribute 'laod'"):
        exporter.laod  # noqa: B018


SCRIPT = """
import json, sys
import exporter
from exporter.recipe import Decoding

path, short, long, verbose = sys.argv[1:]
opening = exporter.load_original if path.endswith("original") else exporter.load
recogniser = opening(path, threads=1)
texts = []
for options in ({}, {"timestamps": True}, {"num_beams": 2}, {"timestamps": True, "num_beams": 2}):
    texts += [str(recogniser.transcribe(short, **options))]
    texts += map(str, recogniser.transcribe([short, short], batch_size=2, **options))
texts.append(str(recogniser.transcribe(long)))
assert all(texts), texts

import logging, warnings
from transformers.utils import logging as theirs
root = logging.getLogger("transformers")
assert theirs.get_verbosity() == logging.WARNING and theirs.is_progress_bar_enabled()
assert root.handlers and not any(handler.filters for handler in root.handlers)
assert logging.getLogger().level == logging.WARNING and not logging.getLogger().handlers
if verbose:
    theirs.get_logger("transformers.anything").warning("heard again")
"""


@pytest.fixture
def clips(tmp_path: Path) -> list[str]:
    """One within the window, one beyond it."""
    for name, seconds in (("short", 1.0), ("long", 12.0)):
        samples = np.random.default_rng(0).normal(0, 0.1, int(16_000 * seconds))
        soundfile.write(tmp_path / f"{name}.wav", samples, 16_000)
    return [str(tmp_path / f"{name}.wav") for name in ("short", "long")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx-int8", "torch-int8", "original"])
def test_a_script_that_transcribes_shows_nothing_of_libraries(
    kind: str, clips: list[str], tiny_whisper: Path, tmp_path: Path
) -> None:
    """Not even of a checkpoint in shards; and afterwards the libraries speak as they did."""
    folder = tmp_path / kind
    if kind == "original":
        shutil.copytree(tiny_whisper, folder, ignore=shutil.ignore_patterns("*.safetensors"))
        model = WhisperForConditionalGeneration.from_pretrained(tiny_whisper)
        model.save_pretrained(folder, max_shard_size="200kB")
        shutil.copy(tiny_whisper / "config.json", folder)
        shutil.copy(tiny_whisper / "generation_config.json", folder)
        shards = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
        assert len(set(shards.values())) > 2
    else:
        shutil.copytree(GOLDEN / f"v1-{kind}", folder)
    done = fresh(SCRIPT, str(folder), *clips, "")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_who_asked_for_more_is_shown_it(
    clips: list[str], tiny_whisper: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_whisper, tmp_path / "original")
    script = SCRIPT.partition("import logging")[0]
    done = fresh(script, str(folder), *clips, "", TRANSFORMERS_VERBOSITY="info")
    assert (done.returncode, done.stdout) == (0, "")
    assert "A custom logits processor" in done.stderr
