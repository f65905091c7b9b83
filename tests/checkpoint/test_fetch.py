"""Checkpoints from the Hub: the needed files at one commit, the cache, and every refusal."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from exporter.families import family_facts
from tests.support.hub import Hub, of_folder, reads_large, serving
from tests.support.hub_models import models

TOKEN = "hf_abcdefghijklmnopqrstuvwxyz0123456789"
NOWHERE = "http://127.0.0.1:9"  # the port of a service that nobody runs

# huggingface_hub reads its environment when it is imported, so each call is a process of its own.
FETCH = """
import json, logging, sys
from exporter.errors import ExporterError
from exporter.checkpoint.fetch import fetch, remote_infos
from exporter.hub import client
client.PAUSES_S = (0.0, 0.0, 0.0)
logging.basicConfig(level="WARNING", format="%(name)s: %(message)s")
arguments, told = json.loads(sys.argv[1]), []
try:
    got = fetch(*arguments["where"], lambda *step: told.append(step), **arguments["how"])
    infos = remote_infos(arguments["where"][0], got)
except ExporterError as error:
    answer = {"error": type(error).__name__, "exit_code": error.exit_code, "text": str(error)}
else:
    answer = {"folder": str(got.folder), "commit": got.commit, "left": got.left, "told": told}
    answer["tensors"] = {name: [list(of.shape), of.dtype] for name, of in infos.items()}
print(json.dumps(answer))
"""


OPEN = """
import json
from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.errors import CheckpointError
far, near = (open_checkpoint("org/shards", weights=weights) for weights in (False, True))
try:
    far.sha256
except CheckpointError as error:
    answer = {"refused": str(error), "remote": far.remote, "sha256": near.sha256}
facts = [[one.config, one.parameters, one.size_bytes, one.revision] for one in (far, near)]
shapes = [
    {name: [of.shape, of.dtype, of.file.name] for name, of in one.tensors.items()}
    for one in (far, near)
]
print(json.dumps(answer | {"facts": facts, "shapes": shapes}))
"""


@dataclass(frozen=True)
class Machine:
    """A machine with a cache of its own, and a Hub that it may reach."""

    home: Path
    endpoint: str
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        ours = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(self.home), "NO_PROXY": "*"}
        return kept | ours | {"HF_HUB_DISABLE_XET": "1"} | self.settings

    def runs(self, *command: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, *command]
        return subprocess.run(line, env=self.environment, capture_output=True, text=True)

    def fetches(self, repo: str, revision: str | None = None, **how: bool) -> Any:
        """What `fetch` answers; its log as `log`."""
        arguments = json.dumps({"where": [repo, revision], "how": how})
        ran = self.runs("-c", FETCH, arguments)
        assert ran.returncode == 0, ran.stderr
        assert TOKEN not in ran.stdout + ran.stderr
        return json.loads(ran.stdout) | {"log": ran.stderr}


@pytest.fixture(scope="module")
def origins(tmp_path_factory: pytest.TempPathFactory, tiny_whisper: Path) -> dict[str, Path]:
    """The folders that the Hub's repositories are made of."""
    return models(tiny_whisper, tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def hub(origins: dict[str, Path]) -> Iterator[Hub]:
    with serving(TOKEN) as hub:
        for name, folder in origins.items():
            tags = ("v1",) if name == "whole" else ()
            hub.api.create(f"org/{name}", files=of_folder(folder), tags=tags)
        whole = hub.repos["org/whole"].files
        hub.api.create("org/private", private=True, files=whole, tags=("v1",))
        hub.api.create("org/gated", gated=True, files=whole)
        yield hub


@pytest.fixture
def machine(hub: Hub, tmp_path: Path) -> Machine:
    hub.requests.clear()
    return Machine(tmp_path / "home", hub.endpoint)


@pytest.fixture(scope="module")
def cached(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A machine that has fetched the whole checkpoint once; treat its cache as read-only."""
    machine = Machine(tmp_path_factory.mktemp("cached"), hub.endpoint)
    assert "error" not in machine.fetches("org/whole")
    return machine


COMPANIONS = {"config.json", "generation_config.json", "preprocessor_config.json"} | {
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt"),
}


def ranges(hub: Hub, suffix: str) -> set[str | None]:
    """Which parts of files with such names were read."""
    reads = [one for one in hub.requests if one.method == "GET" and one.file]
    return {one.range for one in reads if str(one.file).endswith(suffix)}


def test_only_the_needed_files_are_fetched(
    machine: Machine, hub: Hub, origins: dict[str, Path]
) -> None:
    got = machine.fetches("org/whole", "v1")
    assert got["commit"] == hub.repos["org/whole"].commit
    assert hub.fetched() == COMPANIONS | {"model.safetensors"}
    folder, origin = Path(got["folder"]), origins["whole"]
    assert {path.name for path in folder.iterdir()} == hub.fetched()
    assert all((folder / n).read_bytes() == (origin / n).read_bytes() for n in hub.fetched())


def test_shards_are_those_that_the_index_names(machine: Machine, hub: Hub) -> None:
    got = machine.fetches("org/shards")
    assert got["commit"] == hub.repos["org/shards"].commit
    shards = {f"model-0000{number}-of-00002.safetensors" for number in (1, 2)}
    assert hub.fetched() == COMPANIONS | shards | {"model.safetensors.index.json"}


def test_what_transformers_5_saved_is_fetched(machine: Machine, hub: Hub) -> None:
    machine.fetches("org/newer")
    companions = {"config.json", "generation_config.json", "processor_config.json"}
    companions |= {"tokenizer.json", "tokenizer_config.json"}
    assert hub.fetched() == companions | {"model.safetensors"}
    offline = Machine(machine.home, NOWHERE).fetches("org/newer")
    assert "error" not in offline


def test_a_pickle_is_fetched_only_if_it_is_allowed(machine: Machine, hub: Hub) -> None:
    refused = machine.fetches("org/pickle")
    assert refused["exit_code"] == 3
    assert "allow_pickle: true" in refused["text"]
    assert hub.fetched() == set()
    machine.fetches("org/pickle", allow_pickle=True)
    assert hub.fetched() == COMPANIONS | {"pytorch_model.bin"}


SPEECHBRAIN = {"hyperparams.yaml", "config.json", "preprocessor_config.json", "tokenizer.ckpt"}


def test_a_speechbrain_folder_is_fetched(machine: Machine, hub: Hub) -> None:
    """Once its pickles are allowed; its language model stays there."""
    refused = machine.fetches("org/brain")
    assert refused["exit_code"] == 3
    assert re.search(r"org/brain at \w+: wav2vec2\.ckpt is a pickle.*allow_pickle", refused["text"])
    assert hub.fetched() == {"hyperparams.yaml"}
    got = machine.fetches("org/brain", allow_pickle=True)
    assert hub.fetched() == SPEECHBRAIN | {"wav2vec2.ckpt", "asr.ckpt"}
    assert got["left"] == {}
    offline = Machine(machine.home, NOWHERE).fetches("org/brain", allow_pickle=True)
    assert offline["folder"] == got["folder"]


def test_another_kind_of_speechbrain_model_is_not_fetched(machine: Machine, hub: Hub) -> None:
    refused = machine.fetches("org/attention", allow_pickle=True)
    assert refused["exit_code"] == 3
    assert "modules.decoder: a model with an attention decoder" in refused["text"]
    assert hub.fetched() == {"hyperparams.yaml"}


def test_nothing_is_fetched_twice(cached: Machine, hub: Hub) -> None:
    hub.requests.clear()
    got = cached.fetches("org/whole")
    assert got["told"] == []
    assert not hub.fetched() - {"config.json"}


def test_the_progress_tells_bytes(machine: Machine, hub: Hub) -> None:
    with hub.failing("slow", reads_large):
        told = machine.fetches("org/big")["told"]
    texts, fractions = zip(*told, strict=True)
    pattern = r"fetching org/big: [\d.]+ (|k|M)B of 50\.4 MB"
    assert all(re.fullmatch(pattern, text) for text in texts), texts
    assert list(fractions) == sorted(fractions)
    assert fractions[-1] == 1
    assert any(0.4 < fraction < 0.9 for fraction in fractions)  # in the middle of the weights


def test_the_weights_can_stay_on_the_hub(
    machine: Machine, hub: Hub, origins: dict[str, Path]
) -> None:
    got = machine.fetches("org/shards", weights=False)
    held = load_file(next(origins["shards"].glob("model-00001*")))
    assert set(got["left"]) == {f"model-0000{n}-of-00002.safetensors" for n in (1, 2)}
    assert all(got["tensors"][name] == [list(t.shape), "F32"] for name, t in held.items())
    assert ranges(hub, ".safetensors") == {"bytes=0-100000"}


def test_a_language_model_is_fetched_where_there_is_one(machine: Machine, hub: Hub) -> None:
    parts = {"attrs.json", "unigrams.txt", "3gram.bin"}
    model = {f"language_model/{name}" for name in parts}
    got = machine.fetches("org/spoken", weights=False)
    assert got["left"].keys() == {*model, "model.safetensors"}
    assert "alphabet.json" in hub.fetched()
    assert not any(name.endswith(("txt", "bin")) for name in hub.fetched())
    assert machine.fetches("org/spoken")["left"] == {}
    fetched = {Path(name).name for name in hub.fetched()}
    assert parts <= fetched
    assert "notes.md" not in fetched
    code = "from exporter.checkpoint.checkpoint import open_checkpoint as opened\n"
    code += "print(*opened('org/spoken').carried)"
    ran = Machine(machine.home, NOWHERE).runs("-c", code)
    assert set(ran.stdout.split()) == model


@pytest.mark.slow
def test_a_checkpoint_is_the_same_before_its_weights_come(machine: Machine) -> None:
    ran = machine.runs("-c", OPEN)
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout)
    assert "its weights are still on the Hub" in answer["refused"]
    assert len(answer["remote"]) == 2
    for far, near in (answer["facts"], answer["shapes"]):
        assert far == near


@pytest.mark.slow
def test_inspecting_and_planning_leave_the_weights_on_the_hub(
    machine: Machine, hub: Hub, tmp_path: Path
) -> None:
    recipe = tmp_path / "planned.yaml"
    recipe.write_text(
        "name: planned\ncheckpoint: org/shards\ntargets: [{kind: torch-int8}]\n"
        "decoding: {language: en, task: transcribe}\n"
    )
    told = [
        machine.runs("-m", "exporter", *command, "--json")
        for command in (("inspect", "org/shards"), ("build", str(recipe), "--dry-run"))
    ]
    assert [ran.returncode for ran in told] == [0, 0], told
    inspected, planned = (json.loads(ran.stdout) for ran in told)
    assert inspected["parameters"] == planned["plan"][0]["parameters"]
    assert planned["plan"][0]["fetch_bytes"] == inspected["size_bytes"]
    assert ranges(hub, ".safetensors") == {"bytes=0-100000"}


def test_an_adapter_needs_no_other_files(machine: Machine, hub: Hub) -> None:
    got = machine.fetches("org/adapter", weights=False)
    assert hub.fetched() == {"adapter_config.json", "adapter_model.safetensors"}
    assert got["commit"] == hub.repos["org/adapter"].commit


def test_weights_that_are_cached_do_not_stay_on_the_hub(cached: Machine) -> None:
    got = cached.fetches("org/whole", weights=False)
    assert (got["left"], got["tensors"]) == ({}, {})


def test_a_cached_checkpoint_needs_no_network(cached: Machine, hub: Hub) -> None:
    commit = hub.repos["org/whole"].commit
    asked = Machine(cached.home, NOWHERE, {"HF_HUB_OFFLINE": "1"}).fetches("org/whole")
    assert (asked["commit"], asked["log"]) == (commit, "")
    pinned = Machine(cached.home, NOWHERE, {"HF_HUB_OFFLINE": "1"}).fetches("org/whole", commit)
    assert pinned["commit"] == commit


def test_without_a_network_the_cache_is_used_and_told(cached: Machine, hub: Hub) -> None:
    commit = hub.repos["org/whole"].commit
    got = Machine(cached.home, NOWHERE).fetches("org/whole")
    assert got["commit"] == commit
    told = f"the Hub cannot be asked (no network): using org/whole at {commit}, as cached"
    assert got["log"].strip() == f"exporter.checkpoint.fetch: {told}"


def test_a_hub_that_fails_leaves_the_cache(cached: Machine, hub: Hub) -> None:
    with hub.failing(503):
        got = cached.fetches("org/whole")
    assert got["commit"] == hub.repos["org/whole"].commit
    assert "cannot be asked (HTTP 503)" in got["log"]


@pytest.mark.parametrize("settings", [{}, {"HF_HUB_OFFLINE": "1"}])
def test_without_network_and_cache(tmp_path: Path, settings: dict[str, str]) -> None:
    got = Machine(tmp_path, NOWHERE, settings).fetches("org/whole", "v1")
    assert (got["error"], got["exit_code"]) == ("HubError", 7)
    reason, advice = got["text"].splitlines()
    assert f"org/whole at v1 is not wholly in the cache {tmp_path / 'hub'}" in reason
    assert ("HF_HUB_OFFLINE is set" in reason) == bool(settings)
    assert advice.endswith("or give a local folder.")


def test_half_a_checkpoint_in_the_cache_is_none(cached: Machine, tmp_path: Path) -> None:
    home = Path(shutil.copytree(cached.home, tmp_path / "home", symlinks=True))
    next(home.glob("hub/*/snapshots/*/model.safetensors")).unlink()
    got = Machine(home, NOWHERE).fetches("org/whole")
    assert (got["error"], got["exit_code"]) == ("HubError", 7)


@pytest.mark.parametrize(
    ("repo", "revision", "token", "told", "advice"),
    [
        ("org/gated", None, None, "org/gated is gated", "then run `hf auth login`"),
        ("org/gated", None, TOKEN, "org/gated is gated", "/org/gated, then run"),
        ("org/private", None, None, "no model org/private, or it is private", "set HF_TOKEN"),
        ("org/absent", None, None, "no model org/absent, or it is private", "Check the id"),
        ("org/absent", None, TOKEN, "no model org/absent, or it is private", "Check the id"),
        ("org/whole", None, "hf_old", "refuses the token", "Run `hf auth login` again"),
        ("org/whole", "v9", None, "org/whole has no revision 'v9'", "one of: main, v1"),
        ("org/wh..ole", None, None, "org/wh..ole is not a Hub id", "like ORG/NAME"),
    ],
)
def test_what_the_hub_refuses_is_explained(
    machine: Machine, repo: str, revision: str | None, token: str | None, told: str, advice: str
) -> None:
    settings = {"HF_TOKEN": token} if token else {}
    got = Machine(machine.home, machine.endpoint, settings).fetches(repo, revision)
    assert (got["error"], got["exit_code"]) == ("HubError", 7)
    first, second = got["text"].splitlines()
    assert told in first
    assert advice in second
    assert "hf_old" not in got["text"]


@pytest.mark.parametrize(
    ("status", "told"),
    [(429, "wants fewer requests (HTTP 429)"), (500, "fails (HTTP 500)"), (403, "forbids reading")],
)
def test_a_status_is_explained(machine: Machine, hub: Hub, status: int, told: str) -> None:
    with hub.failing(status):
        got = machine.fetches("org/whole")
    assert (got["error"], got["exit_code"]) == ("HubError", 7)
    assert told in got["text"]
    assert len(got["text"].splitlines()) == 2


@pytest.mark.parametrize(
    ("repo", "told"),
    [
        ("org/bare", "this is a model of Flax, not a checkpoint of transformers"),
        ("org/deaf", "holds no preprocessor_config.json"),
        ("org/deaf_newer", "holds no preprocessor_config.json"),
        ("org/torn", "names model-00002-of-00002.safetensors, which it does not hold"),
    ],
)
def test_a_repository_without_a_usable_checkpoint(
    machine: Machine, hub: Hub, repo: str, told: str
) -> None:
    got = machine.fetches(repo)
    assert (got["error"], got["exit_code"]) == ("CheckpointError", 3)
    assert told in got["text"]
    assert not any(name.endswith(".safetensors") for name in hub.fetched())


def test_a_download_that_is_cut_goes_on_where_it_stopped(
    machine: Machine, hub: Hub, origins: dict[str, Path]
) -> None:
    with hub.failing("cut", reads_large, times=2):
        got = machine.fetches("org/big")
    name = "model.safetensors"
    assert (Path(got["folder"]) / name).read_bytes() == (origins["big"] / name).read_bytes()
    parts = [r.range for r in hub.requests if r.file == name and reads_large(r)]
    assert parts == [None, f"bytes={24 << 20}-", f"bytes={36 << 20}-"]  # every byte is kept


def test_a_download_that_does_not_come_is_given_up(machine: Machine, hub: Hub) -> None:
    with hub.failing("head", reads_large):
        got = machine.fetches("org/whole")
    assert (got["error"], got["exit_code"]) == ("HubError", 7)
    assert "fetching model.safetensors of org/whole broke off" in got["text"]
    assert got["text"].endswith(").\nRun this again.")
    again = machine.fetches("org/whole")
    assert again["commit"] == hub.repos["org/whole"].commit


def test_bytes_that_changed_on_the_way_are_not_kept(machine: Machine, hub: Hub) -> None:
    with hub.failing("flip", reads_large):
        got = machine.fetches("org/whole")
    assert (got["error"], got["exit_code"]) == ("HubError", 7)
    assert "model.safetensors of org/whole arrived damaged" in got["text"]
    assert "error" not in machine.fetches("org/whole")


def test_companions_are_all_that_a_checkpoint_may_have(hub: Hub) -> None:
    assert set(family_facts("whisper").COMPANIONS.names) >= COMPANIONS


@pytest.mark.slow
def test_a_build_from_the_hub_and_one_without_it(
    hub: Hub, machine: Machine, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: hub\ncheckpoint: org/private@v1\ntargets: [{kind: torch-int8}]\n"
        "decoding: {language: en, task: transcribe}\n"
    )
    output = tmp_path / "artifacts"
    line = ("-m", "exporter", "build", str(recipe), "--output", str(output))
    known = Machine(machine.home, machine.endpoint, {"HF_TOKEN": TOKEN})
    first = known.runs(*line)
    assert first.returncode == 0, first.stderr
    folder = output / "hub" / "torch-int8"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["checkpoint"]["source"] == "org/private@v1"
    assert manifest["checkpoint"]["revision"] == hub.repos["org/private"].commit
    assert TOKEN not in first.stdout + first.stderr
    assert not any(TOKEN.encode() in path.read_bytes() for path in folder.iterdir())
    assert {request.token for request in hub.requests if request.host == "127.0.0.1"} == {TOKEN}
    assert {request.token for request in hub.requests if request.host == "localhost"} == {None}

    offline = Machine(machine.home, NOWHERE, {"HF_HUB_OFFLINE": "1"}).runs(*line, "--json")
    assert offline.returncode == 0, offline.stderr
    (again,) = json.loads(offline.stdout)["artifacts"]
    assert again["reused"]  # opened, hashed and found to be the same
    assert again["manifest"]["checkpoint"] == manifest["checkpoint"]
