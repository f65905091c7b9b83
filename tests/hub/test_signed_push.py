"""Signatures on their way over the Hub: whole, of these very bytes, or not at all."""

import json
from pathlib import Path

import pytest

from exporter.artifact import provenance, signing, store, trust
from exporter.cli import main
from exporter.errors import RecipeError, TrustError
from exporter.hub import pull, push
from exporter.recognition import load
from exporter.system.progress import silent
from tests.support import passing
from tests.support.hub import Hub
from tests.support.hub.repos import MAIN
from tests.support.provenance import written
from tests.support.sealed import write_package
from tests.support.signed import make_keys, trust_key

SIGNED = {"provenance.intoto.json", "model.sig", "report.sig"}


@pytest.fixture
def folder(tmp_path: Path, config: Path, loopback: Hub, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An artifact with code that passed, and tells where it came from; signed by nobody."""
    monkeypatch.setenv("EXPORTER_CACHE", str(tmp_path / "kept"))
    monkeypatch.chdir(tmp_path)
    write_package(tmp_path / "encoder.pt2")
    package = {"encoder.pt2": (tmp_path / "encoder.pt2").read_bytes()}
    made = passing.make(tmp_path / "origin" / "speech", more=package)
    written(made)
    return made


def pushed(folder: Path) -> None:
    list(push.push(push.plan_push(folder, None, None), push.Way(), silent))


def test_what_is_signed_opens_at_the_other_end(
    folder: Path, pair: tuple[Path, Path], config: Path, loopback: Hub
) -> None:
    signing.sign(folder, pair[0])
    pushed(folder)
    repo = loopback.repos["org/speech"]
    assert repo.files.keys() >= SIGNED
    assert b"The artifact and its report are signed" in repo.files["README.md"].data
    got = pull.pull("org/speech", Path("artifacts"))
    assert signing.verify(got.path, got.manifest, pair[1]).keys() == SIGNED - {
        provenance.PROVENANCE
    }
    provenance.require(got.path, got.manifest)
    trust_key(config, make_keys(folder.parent, "other")[1])
    with pytest.raises(TrustError, match="is by no key in"):
        load.load(got.path)
    trust_key(config, pair[1])
    assert (
        trust.verify_and_authorize(pull.fetch_to_cache("org/speech"), trust=False) == got.manifest
    )
    pushed(folder)
    assert len(repo.commits) == 2  # nothing of it changed


@pytest.mark.parametrize("what", ["judged again", "no signature of the verdict", "a provenance"])
def test_a_stale_signature_is_not_pushed(
    what: str,
    folder: Path,
    pair: tuple[Path, Path],
    loopback: Hub,
    capfd: pytest.CaptureFixture[str],
) -> None:
    signing.sign(folder, pair[0])
    if what == "judged again":
        passing.judged(folder, created="2026-02-02T00:00:00+00:00")
    elif what == "a provenance":
        written(folder)
    else:
        (folder / "report.sig").unlink()
    assert main(["push", str(folder)]) == 5
    error = capfd.readouterr().err
    assert f"exporter sign {folder} --key PRIVATE.pem" in error
    assert len(error.splitlines()) <= 3
    assert not loopback.requests
    signing.sign(folder, pair[0])
    assert main(["push", str(folder)]) == 0


def test_a_provenance_of_another_artifact_is_not_pushed(folder: Path, loopback: Hub) -> None:
    kept = (folder / provenance.PROVENANCE).read_bytes()
    (passing.make(folder, seed=3) / provenance.PROVENANCE).write_bytes(kept)
    assert main(["push", str(folder)]) == 5
    assert not loopback.requests


def test_a_signature_that_is_no_more_goes_from_the_hub(
    folder: Path, pair: tuple[Path, Path], loopback: Hub
) -> None:
    signing.sign(folder, pair[0])
    pushed(folder)
    for name in SIGNED:
        (folder / name).unlink()
    pushed(folder)
    files = loopback.repos["org/speech"].files
    assert not files.keys() & SIGNED
    assert b"are signed" not in files["README.md"].data


def test_one_that_is_signed_later_is_pulled_again(
    folder: Path, pair: tuple[Path, Path], config: Path, loopback: Hub
) -> None:
    trust_key(config, pair[1])
    pushed(folder)
    first = pull.pull("org/speech", Path("artifacts"))
    with pytest.raises(TrustError, match=r"not built on this machine \(encoder\.pt2\)"):
        trust.verify_and_authorize(pull.fetch_to_cache("org/speech"), trust=False)
    signing.sign(folder, pair[0])
    pushed(folder)
    with pytest.raises(RecipeError, match="holds something else"):
        pull.pull("org/speech", Path("artifacts"))
    loopback.requests.clear()
    assert pull.pull("org/speech", Path("artifacts"), force=True).fresh
    assert not [one for one in loopback.requests if one.path.startswith("/storage")]
    assert store.verify(first.path) == trust.verify_and_authorize(first.path, trust=False)
    assert trust.verify_and_authorize(pull.fetch_to_cache("org/speech"), trust=False)
    assert not pull.pull("org/speech", Path("artifacts")).fresh


def forged(folder: Path) -> None:
    """Change the signature itself, and leave what it names."""
    path = folder / "report.sig"
    told = json.loads(path.read_text())
    signed = told["dsseEnvelope"]["signatures"][0]
    other = json.loads((folder / "model.sig").read_text())["dsseEnvelope"]["signatures"][0]
    signed["sig"] = other["sig"]
    path.write_text(json.dumps(told))


def test_a_forged_signature_is_not_pushed_where_its_key_is_known(
    folder: Path, pair: tuple[Path, Path], config: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trust_key(config, pair[1])
    signing.sign(folder, pair[0])
    forged(folder)
    assert main(["push", str(folder)]) == 5
    assert "whose key did not sign it" in capfd.readouterr().err


def test_what_is_not_what_was_signed_is_not_pulled(
    folder: Path,
    pair: tuple[Path, Path],
    config: Path,
    loopback: Hub,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A verdict that was exchanged, and a signature that was: the latter by a known key."""
    signing.sign(folder, pair[0])
    pushed(folder)
    repo = loopback.repos["org/speech"]
    honest = dict(repo.files)
    repo.add(MAIN, "another page", {**honest, "report.html": honest["recipe.yaml"]})
    assert main(["pull", "org/speech"]) == 5
    error = capfd.readouterr().err
    assert "error: org/speech at " in error
    assert "report.sig is for other bytes (report.html)" in error
    assert not Path("artifacts", "org", "speech").exists()
    repo.add(MAIN, "another signature", {**honest, "report.sig": honest["model.sig"]})
    assert main(["pull", "org/speech"]) == 5
    trust_key(config, pair[1])
    repo.add(MAIN, "as signed", honest)
    assert main(["pull", "org/speech"]) == 0
