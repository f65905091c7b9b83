"""The keyring: code of others opens because a trusted key signed it, and for no other reason."""

import os
import subprocess
import sys
import wave
from pathlib import Path

import model_signing
import pytest

from exporter.artifact import keyring, signing, store, trust
from exporter.errors import IntegrityError, MachineError, TrustError
from exporter.recognition import load
from tests.support.sealed import seal
from tests.support.signed import make_keys, trust_key

# Run where nothing is imported yet: what a gate imports shows, and nobody may be asked.
GATE = """
import sys
from pathlib import Path
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise AssertionError(event)
sys.addaudithook(refuse)
if {missing}:
    sys.modules["model_signing"] = None
from exporter.cli import main
code = main(sys.argv[1:])
heavy = {{"torch", "transformers", "onnxruntime", "onnx", "model_signing"}}
heavy = {{name for name in heavy if sys.modules.get(name)}}
print(code, *sorted(heavy))
"""


@pytest.fixture
def program(tmp_path: Path, pair: tuple[Path, Path]) -> Path:
    """Native code that came from elsewhere, signed there."""
    folder = seal(tmp_path / "artifacts" / "aoti")
    signing.sign(folder, pair[0])
    return folder


def test_a_signature_that_leaves_code_out_vouches_for_nothing(
    program: Path, pair: tuple[Path, Path], config: Path
) -> None:
    """The library lets a signature name what it ignores, and would find this one good."""
    trust_key(config, pair[1])
    narrow = model_signing.hashing.Config().set_ignored_paths(paths=["model.sig", "encoder.pt2"])
    signing = model_signing.signing.Config().use_elliptic_key_signer(private_key=pair[0])
    signing.set_hashing_config(narrow).sign(program, program / "model.sig")
    checking = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=pair[1])
    checking.verify(program, program / "model.sig")
    with pytest.raises(TrustError, match=r"model\.sig is for other bytes \(encoder\.pt2\)"):
        trust.verify_and_authorize(program, trust=False)


def refused(folder: Path) -> str:
    with pytest.raises(TrustError) as caught:
        trust.verify_and_authorize(folder, trust=False)
    assert len(str(caught.value).splitlines()) == 3
    return str(caught.value)


def test_a_trusted_key_lets_code_be_loaded(
    program: Path, pair: tuple[Path, Path], config: Path
) -> None:
    assert f"model.sig is by no key in {config}" in refused(program)
    trust_key(config, make_keys(program.parent, "other")[1])
    assert f"model.sig is by no key in {config}" in refused(program)
    trust_key(config, pair[1])
    with pytest.raises(MachineError, match="cannot be loaded"):  # the stub of a library is none
        load.load(program)


def test_judging_code_again_does_not_take_its_signature(
    program: Path, pair: tuple[Path, Path], config: Path
) -> None:
    trust_key(config, pair[1])
    for name in ("report.json", "report.html", "predictions.jsonl"):
        (program / name).write_text("judged here")
    assert trust.verify_and_authorize(program, trust=False)
    with pytest.raises(IntegrityError, match=r"the report of .* is not signed"):
        signing.verify(program, store.read_manifest(program), pair[1])


@pytest.mark.parametrize("what", ["folder", "key", "link"])
def test_a_keyring_that_others_can_write_is_not_believed(
    what: str,
    program: Path,
    pair: tuple[Path, Path],
    config: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept = trust_key(config, pair[1])
    if what == "link":
        kept.unlink()
        kept.symlink_to(pair[1])
    else:
        (kept if what == "key" else kept.parent).chmod(0o777)
    assert "is by no key in" in refused(program)
    assert ("is a link" if what == "link" else "is writable by others") in caplog.text


def test_a_file_that_is_no_key_spoils_no_other(
    program: Path, pair: tuple[Path, Path], config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trust_key(config, pair[0])
    trust_key(config, pair[1])
    assert trust.verify_and_authorize(program, trust=False)
    assert "maker.pem holds no public key" in caplog.text


def test_the_keyrings_place(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert keyring.keyring() == config / "trusted_keys"
    monkeypatch.delenv("EXPORTER_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert keyring.keyring() == tmp_path / "xdg" / "exporter" / "trusted_keys"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert keyring.keyring() == tmp_path / ".config" / "exporter" / "trusted_keys"


def fresh(repository: Path, *words: str, missing: bool = False) -> tuple[list[str], str]:
    """Run a command in a fresh process; give its code, what it imported, and its errors."""
    done = subprocess.run(
        [sys.executable, "-c", GATE.format(missing=missing), *words],
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split(), done.stderr


def test_the_gate_in_a_fresh_process(
    program: Path, pair: tuple[Path, Path], config: Path, repository: Path
) -> None:
    """No loader before the answer, no library without need, and nobody asked."""
    clip = str(program.parent / "clip.wav")
    ((code, *heavy), error) = fresh(repository, "transcribe", str(program), clip)
    assert (code, heavy) == ("5", []), error
    assert "Nothing of it was opened" in error
    trust_key(config, pair[1])
    ((code, *heavy), error) = fresh(repository, "verify", str(program), "--signature")
    assert (code, heavy) == ("0", ["model_signing"]), error
    ((code, *heavy), error) = fresh(repository, "sign", str(program), "--key", str(pair[0]))
    assert (code, heavy) == ("0", ["model_signing"]), error
    ((code, *heavy), error) = fresh(repository, "verify", str(program), missing=True)
    assert (code, heavy) == ("0", []), error


def test_without_the_library(
    program: Path, pair: tuple[Path, Path], config: Path, repository: Path
) -> None:
    trust_key(config, pair[1])
    for words in (["sign", "--key", str(pair[0])], ["verify", "--signature"]):
        ((code, *heavy), error) = fresh(repository, *words, str(program), missing=True)
        assert (code, heavy) == ("6", []), error
        assert "pip install 'asr-exporter[sign]'" in error
    blocked = "import sys; sys.modules['model_signing'] = None; "
    blocked += "from pathlib import Path; from exporter.artifact import trust; "
    blocked += "trust.verify_and_authorize(Path(sys.argv[1]), trust=False)"
    done = subprocess.run(
        [sys.executable, "-c", blocked, str(program)],
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "TrustError" in done.stderr
    assert "pip install 'asr-exporter[sign]'" in done.stderr


@pytest.mark.slow
def test_the_keyrings_word_holds_in_a_child(
    program: Path, pair: tuple[Path, Path], config: Path, repository: Path
) -> None:
    """There the stub of a library is no library."""
    trust_key(config, pair[1])
    clip = program.parent / "clip.wav"
    with wave.open(str(clip), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(bytes(3200))
    ((code, *_), error) = fresh(repository, "transcribe", str(program), str(clip))
    assert code == "6", error
    assert "cannot be loaded" in error
