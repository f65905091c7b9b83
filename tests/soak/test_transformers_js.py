"""transformers.js in Node opens what we build for it, and hears what our runtime hears.

`npm ci` brings the pinned release (its packages' own scripts are not run: all that it needs is in
them); a checkpoint that is really trained hears real recordings.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from exporter.recognition.load import load
from exporter.recognition.recogniser import Recogniser
from exporter.runtime.transcript import Audio
from tests.support import passing
from tests.support.hub import serving
from tests.support.tiny import make_whisper
from tests.support.tiny_ctc import make_ctc, make_mms, tones

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "recipes" / "demo"
REPO = "org/speech"
RECIPE = """\
name: speech
checkpoint: {checkpoint}
targets:
  - {{kind: onnx-int8, name: javascript, layout: transformers.js}}
  - {{kind: onnx-int8, name: plain}}
quantization: {quantization}
decoding: {decoding}
hub: {{repo: org/speech, private: false}}
"""
# A 16-bit recording is known to one step; what changes within that hangs on rounding alone.
STEP = 1 / 32768
TRIES = 4
Record = Callable[[str, object], None]


@dataclass(frozen=True)
class Node:
    """A folder with transformers.js in it."""

    folder: Path

    def run(self, script: str, *words: str, **environment: str) -> str:
        command = ["node", script, *words]
        done = subprocess.run(
            command, cwd=self.folder, env=os.environ | environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    def tokens(self, artifact: Path, language: str, clips: Sequence[Path]) -> list[list[int]]:
        return [heard["tokens"] for heard in self.heard(artifact, language, clips)]

    def heard(self, artifact: Path, language: str, clips: Sequence[Path]) -> list[dict[str, Any]]:
        lines = self.run("transcribe.mjs", str(artifact), language, *map(str, clips)).splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Node:
    if not shutil.which("npm"):
        pytest.fail("npm is missing: install Node 20 or newer")
    place = tmp_path_factory.mktemp("node") / "transformers_js"
    shutil.copytree(ROOT / "tests" / "soak" / "transformers_js", place)
    quiet = ("--ignore-scripts", "--no-audit", "--no-fund")
    subprocess.run(["npm", "ci", *quiet], cwd=place, check=True, capture_output=True, text=True)
    return Node(place)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    names = ("EXPORTER_CACHE", "EXPORTER_STATE")
    return {name: str(tmp_path_factory.mktemp(name.lower())) for name in names}


def exporter(folder: Path, environment: Mapping[str, str], *words: str) -> str:
    return python(folder, environment, "-m", "exporter", *words)


def python(folder: Path, environment: Mapping[str, str], *words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def built(
    folder: Path, places: Mapping[str, str], checkpoint: Path, **recipe: str
) -> tuple[Path, Path]:
    """The same checkpoint in both layouts, named so that the recipe may be published."""
    told = RECIPE.format(checkpoint=os.path.relpath(checkpoint, folder), **recipe)
    (folder / "recipe.yaml").write_text(told)
    exporter(folder, places, "build", "recipe.yaml")
    return folder / "artifacts" / "speech" / "javascript", folder / "artifacts" / "speech" / "plain"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, places: Mapping[str, str]) -> tuple[Path, Path]:
    decoding = "{language: en, task: transcribe}"
    folder = tmp_path_factory.mktemp("demo")
    return built(
        folder,
        places,
        checkpoint=DEMO / "whisper",
        quantization="{default: dynamic-int8}",
        decoding=decoding,
    )


def recordings(folder: Path, count: int) -> list[tuple[Path, Audio]]:
    """The demo's clips as plain WAV, and their samples."""
    found = []
    for clip in sorted((DEMO / "clips").glob("short-*.flac"))[:count]:
        samples, rate = soundfile.read(clip, dtype="float32")
        path = folder / f"{clip.stem}.wav"
        soundfile.write(path, samples, rate, subtype="PCM_16")
        found.append((path, samples))
    return found


def words(recogniser: Recogniser, sounds: Sequence[Audio]) -> list[list[int]]:
    return [list(said.tokens) for said in recogniser.decode(sounds)]


def unspecial(recogniser: Recogniser, rows: Sequence[Sequence[int]]) -> list[list[int]]:
    special = set(recogniser.processor.tokenizer.all_special_ids)
    return [[token for token in row if token not in special] for row in rows]


def firm(recogniser: Recogniser, sounds: Sequence[Audio], said: list[list[int]]) -> set[int]:
    """The recordings of which a change below what 16 bits can tell changes no word."""
    source, kept = np.random.default_rng(0), set(range(len(sounds)))
    for _ in range(TRIES):
        near = [s + source.uniform(-STEP, STEP, len(s)).astype(np.float32) for s in sounds]
        kept &= {i for i, row in enumerate(words(recogniser, near)) if row == said[i]}
    return kept


def test_both_layouts_hold_the_same(demo: tuple[Path, Path], record_property: Record) -> None:
    javascript, plain = demo
    files = sorted(path for path in plain.iterdir() if path.suffix == ".onnx_data")
    for path in files:
        other = javascript / "onnx" / path.name.replace(".onnx", "_quantized.onnx")
        assert other.read_bytes() == path.read_bytes()
    sounds = [soundfile.read(p, dtype="float32")[0] for p in (DEMO / "clips").glob("*.flac")]
    assert words(load(javascript), sounds) == words(load(plain), sounds)
    record_property("promise", "transformers.js")
    record_property("cases", len(sounds))


def test_real_speech_is_heard_alike(
    demo: tuple[Path, Path], node: Node, tmp_path: Path, record_property: Record
) -> None:
    recogniser, clips = load(demo[0]), recordings(tmp_path, 100)
    sounds = [samples for _, samples in clips]
    said = words(recogniser, sounds)
    theirs = unspecial(recogniser, node.tokens(demo[0], "en", [path for path, _ in clips]))
    same = {i for i, row in enumerate(theirs) if row == said[i]}
    decided = firm(recogniser, sounds, said)
    assert len(decided) >= 0.9 * len(clips)
    assert decided <= same
    record_property("promise", "transformers.js")
    record_property("cases", len(clips))
    all_firm = f"all {len(decided)} of {len(clips)} clips that no rounding changes"
    record_property("measured", f"same tokens in {all_firm}; in {len(same)} of all")


def test_an_english_only_model_in_two_precisions(
    node: Node, places: Mapping[str, str], tmp_path: Path, record_property: Record
) -> None:
    checkpoint = make_whisper(tmp_path / "whisper", english_only=True, window_s=10, max_tokens=80)
    narrow = '{modules: {"*encoder.*": {scheme: float, dtype: float16}}}'
    recipe = {"quantization": narrow, "decoding": "{}"}
    artifact, _ = built(tmp_path, places, checkpoint, **recipe)
    recogniser, clips = load(artifact), recordings(tmp_path, 30)
    said = words(recogniser, [samples for _, samples in clips])
    theirs = unspecial(recogniser, node.tokens(artifact, "none", [path for path, _ in clips]))
    assert all(said)
    assert theirs == said
    record_property("promise", "transformers.js")
    record_property("cases", len(clips))


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert-layer-norm", "mms"])
def test_ctc_models_spell_alike(
    kind: str, node: Node, places: Mapping[str, str], tmp_path: Path, record_property: Record
) -> None:
    """Raw samples in, and the text of frames by the `tokenizer.json` that the build writes."""
    folder = tmp_path / "ctc"
    checkpoint = make_mms(folder) if kind == "mms" else make_ctc(folder, kind)
    recipe = {"quantization": "{default: dynamic-int8}", "decoding": "{}"}
    artifact, plain = built(tmp_path, places, checkpoint, **recipe)
    sounds = [tones(0.5 + 0.1 * index, index) for index in range(30)]
    clips = [tmp_path / f"{index}.wav" for index in range(len(sounds))]
    for clip, samples in zip(clips, sounds, strict=True):
        soundfile.write(clip, samples, 16_000, subtype="PCM_16")
    sounds = [soundfile.read(clip, dtype="float32")[0] for clip in clips]
    said = [heard.text for heard in load(artifact).decode(sounds)]
    assert said == [heard.text for heard in load(plain).decode(sounds)]
    theirs = [heard["text"] for heard in node.heard(artifact, "none", clips)]
    same = sum(ours == text for ours, text in zip(said, theirs, strict=True))
    assert all(said)
    assert same >= 0.8 * len(said)  # random weights are often undecided
    for ours, text in zip(said, theirs, strict=True):
        assert SequenceMatcher(None, ours, text).ratio() > 0.9
    record_property("promise", "transformers.js")
    record_property("cases", len(clips))
    record_property("measured", f"same text of {same} of {len(clips)} clips, {kind}")


PRELUDE = """\
import {{ env }} from "@huggingface/transformers";
env.remoteHost = "{endpoint}/";
env.allowLocalModels = false;
env.cacheDir = "{cache}/";
"""


def test_the_cards_snippets_run_from_the_hub(
    demo: tuple[Path, Path],
    node: Node,
    places: Mapping[str, str],
    tmp_path: Path,
    record_property: Record,
) -> None:
    """Downloaded file by file, the weights because `config.json` names them."""
    passing.judged(demo[0])
    (_, samples), *_ = recordings(tmp_path, 1)
    soundfile.write(tmp_path / "speech.flac", samples, 16_000)
    said = load(demo[0]).decode([samples])[0].text.strip()
    token = "hf_abcdefghijklmnopqrstuvwxyz0123456789"
    with serving(token, part_size=65_536) as hub:
        visible = {**places, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")}
        visible |= {"HF_HUB_DISABLE_XET": "1"}
        exporter(tmp_path, visible | {"HF_TOKEN": token}, "push", str(demo[0]), "--repo", REPO)
        card = hub.repos[REPO].files["README.md"].data.decode()
        (snippet,) = snippets(card, "js")
        given = f"Float32Array.from({json.dumps(samples.tolist())})"
        prelude = PRELUDE.format(endpoint=hub.endpoint, cache=tmp_path / "cache")
        script = prelude + snippet.replace('"speech.wav"', given)
        (node.folder / "snippet.mjs").write_text(script)
        assert node.run("snippet.mjs").strip() == said
        for snippet in snippets(card, "python"):
            assert python(tmp_path, visible, "-c", snippet).strip() == said
    record_property("promise", "transformers.js")
    record_property("cases", 1 + len(snippets(card, "python")))


def snippets(card: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", card, flags=re.M | re.S)
