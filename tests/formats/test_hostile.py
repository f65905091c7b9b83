"""Weights that were made to do harm: nothing of them runs, and each is one error.

Every payload would create a file, the canary, and nothing else.
"""

import json
import pickle
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import Refused
from tests.support.hostile_torch import CANARY, FILES, QUIET, SAFETENSORS, SPRINGING, torch_file

pytestmark = pytest.mark.usefixtures("harmless")


# Pickles: opcodes written by hand, so that no pickler's habits stand between.


@pytest.mark.parametrize("case", [*SPRINGING, *QUIET])
def test_no_pickle_is_run(case: str, checkpoint: Path, refused: Refused) -> None:
    opcodes = b"\x80\x04" + {**SPRINGING, **QUIET}[case] + b"."
    (checkpoint / "model.safetensors").unlink()
    torch_file(checkpoint / "pytorch_model.bin", opcodes)
    assert "is a pickle" in refused(3)
    refused(3, "--set", "allow_pickle=true")
    if case in SPRINGING:
        with suppress(Exception):
            pickle.loads(opcodes)
        assert Path(CANARY).exists(), "the trap does not work, so the test shows nothing"


@pytest.mark.parametrize("case", FILES)
def test_nor_in_whatever_file_it_is(case: str, checkpoint: Path, refused: Refused) -> None:
    (checkpoint / "model.safetensors").unlink()
    FILES[case](checkpoint / "pytorch_model.bin")
    assert "pytorch_model.bin" in refused(3, "--set", "allow_pickle=true")


@pytest.mark.parametrize("case", SAFETENSORS)
def test_headers_of_weights(case: str, checkpoint: Path, refused: Refused) -> None:
    SAFETENSORS[case](checkpoint / "model.safetensors")
    assert "model.safetensors" in refused(3)


@pytest.mark.parametrize(
    "name", ["../../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", ""]
)
@pytest.mark.parametrize("index", ["model.safetensors", "pytorch_model.bin"])
def test_shards_stay_in_their_folder(
    name: str, index: str, checkpoint: Path, refused: Refused
) -> None:
    (checkpoint / "model.safetensors").unlink()
    table = {"weight_map": {"model.decoder.embed_tokens.weight": name}}
    (checkpoint / f"{index}.index.json").write_text(json.dumps(table))
    refused(3, "--set", "allow_pickle=true")
