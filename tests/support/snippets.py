"""The model card's snippets, run as somebody would run them, against an artifact on the Hub."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile

from exporter.cli import main
from exporter.hub import push
from tests.support import passing
from tests.support.hub import Hub
from tests.support.in_process import steps_in_process

WHISPER = "{language: en, task: transcribe}"


def run(hub: Hub, checkpoint: Path, kind: str, decoding: str = WHISPER) -> None:
    """Build, push, and run the card's snippets: they say what the artifact says where it was built.

    In the working folder, which is to be empty.
    """
    named = os.path.relpath(checkpoint)
    Path("recipe.yaml").write_text(
        f"name: speech\ncheckpoint: {named}\ntargets: [{{kind: {kind}}}]\n"
        f"decoding: {decoding}\nhub: {{repo: org/speech}}\n"
    )
    with steps_in_process():
        assert main(["build", "recipe.yaml"]) == 0
    folder = Path("artifacts", "speech", kind)
    passing.judged(folder)
    (one,) = push.push(push.plan_push(folder, None, None), push.Way(), lambda *_: None)
    noise = np.random.default_rng(0).normal(0, 0.1, 32_000)
    soundfile.write("speech.flac", noise, 16_000)
    heard = _heard(hub, str(folder))
    text = hub.repos["org/speech"].files["README.md"].data.decode()
    found = re.findall(r"^```python\n(.*?)^```", text, flags=re.M | re.S)
    assert len(found) == 2
    for snippet in found:
        assert _python(hub, "-c", snippet).strip() == heard["text"].strip()
    assert _heard(hub, f"org/speech@{one.tag}") == heard
    _python(hub, "-m", "exporter", "pull", "org/speech")
    names = {path.name for path in folder.iterdir()} - {"places.json"}
    assert {path.name for path in Path("artifacts/org/speech").iterdir()} == names


def _heard(hub: Hub, artifact: str) -> dict[str, str]:
    said = _python(hub, "-m", "exporter", "transcribe", artifact, "speech.flac", "--json")
    (heard,) = json.loads(said)["transcripts"]
    return dict(heard)


def _python(hub: Hub, *line: str) -> str:
    ours = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(Path("home").resolve())}
    environment = {**os.environ, **ours, "HF_HUB_DISABLE_XET": "1"}
    ran = subprocess.run([sys.executable, *line], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert hub.token not in ran.stdout + ran.stderr
    return ran.stdout
