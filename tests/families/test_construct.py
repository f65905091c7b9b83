"""Configs choose no code: with the package `kernels` installed, and names that pass every check."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub import constants
from transformers.utils import hub, import_utils

from exporter.artifact import trust
from exporter.errors import TrustError
from exporter.families.offline import offline
from tests.support.hostile_configs import changed
from tests.support.resealed import resealed

KERNEL = "evil/kernel:attention"
CHOSEN = {
    "_attn_implementation_internal": KERNEL,
    "_attn_implementation": KERNEL,
    "attn_implementation": KERNEL,
    "_experts_implementation_internal": KERNEL,
    "encoder": {"attn_implementation": KERNEL},
}
KERNELS = """
from pathlib import Path
from unittest.mock import MagicMock

def use_kernel_forward_from_hub(*_):
    return lambda module: module

replace_kernel_forward_from_hub = use_kernelized_func = use_kernel_forward_from_hub

def __getattr__(name):  # what else a release imports
    return MagicMock()

def get_kernel(*_, **__):
    Path("canary").write_text("a stranger's code ran")
    raise ValueError
"""
# The check by name is switched off, to show that nothing depends on it.
FRESH = """
import sys
from pathlib import Path
import numpy as np
from exporter import load
from exporter.formats import config_json, config_limits
from exporter.families.whisper import family
from exporter.formats.config_json import read_json
from exporter.recognition.load import load_original
from transformers.utils import is_kernels_available

config_json.refuse_code_in = config_limits.refuse_code_in = lambda *_: None
assert is_kernels_available()
checkpoint, *artifacts = map(Path, sys.argv[1:])
noise = np.zeros(16_000, np.float32)
family.skeleton(read_json(checkpoint / "config.json"))
for model in (load_original(checkpoint), *map(load, artifacts)):
    assert model.model.config._attn_implementation == "sdpa"
    model.decode([noise])
print("done")
"""


@pytest.fixture
def kernels(tmp_path: Path) -> Path:
    """A folder with a package that transformers takes for `kernels`."""
    folder = tmp_path / "packages"
    version = getattr(import_utils, "KERNELS_MIN_VERSION", "0.10.0")
    about = folder / f"kernels-{version}.dist-info" / "METADATA"
    about.parent.mkdir(parents=True)
    about.write_text(f"Metadata-Version: 2.1\nName: kernels\nVersion: {version}\n")
    (folder / "kernels").mkdir()
    (folder / "kernels" / "__init__.py").write_text(KERNELS)
    return folder


def switches() -> tuple[bool, bool]:
    return bool(constants.HF_HUB_OFFLINE), bool(hub.is_offline_mode())


def test_the_network_is_off_for_the_thread_that_constructs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_is_offline_mode", False, raising=False)  # below release 5
    with offline(), ThreadPoolExecutor(1) as other:
        assert switches() == (True, True)
        assert other.submit(switches).result() == (False, False)
        with offline():
            pass
        assert switches() == (True, True)
    assert switches() == (False, False)


def choose(folder: Path) -> None:
    changed("config.json", **CHOSEN)(folder)
    changed("generation_config.json", **CHOSEN)(folder)


@pytest.mark.parametrize("key", CHOSEN)
def test_an_artifact_that_names_a_kernel_is_refused(key: str, tmp_path: Path) -> None:
    hostile = changed("config.json", **{key: CHOSEN[key]})
    with pytest.raises(TrustError, match=r"config\.json: .* asks for code"):
        trust.verify_and_authorize(resealed("onnx-int8", tmp_path / "a", hostile), trust=True)


def test_nothing_that_a_config_names_is_run(
    tmp_path: Path, tiny_whisper: Path, kernels: Path, repository: Path
) -> None:
    checkpoint = Path(shutil.copytree(tiny_whisper, tmp_path / "checkpoint"))
    choose(checkpoint)
    # transformers runs it from a local folder without a question.
    (checkpoint / "custom_generate").mkdir()
    (checkpoint / "custom_generate" / "generate.py").write_text("open('canary', 'w')\n")
    artifact = resealed("onnx-int8", tmp_path / "onnx-int8", choose)
    done = subprocess.run(
        [sys.executable, "-c", FRESH, checkpoint, artifact],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (repository, kernels)))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "done\n", done.stderr
    assert not (tmp_path / "canary").exists()
