"""Signatures: by real keys, over every byte, and as the library itself makes and reads them."""

import base64
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import model_signing
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from exporter.artifact import signing, store
from exporter.cli import main
from exporter.cli.output import facts
from exporter.errors import IntegrityError
from exporter.system.files import sha256_file
from tests.support import passing
from tests.support.sealed import seal
from tests.support.signed import make_keys, trust_key, write_private

Edit = Callable[[Path], object]
GOLDEN = Path(__file__).parents[1] / "golden_signed"
BESIDE = {"README.md", "wer.svg", "places.json"}


@pytest.fixture
def signed(tmp_path: Path, pair: tuple[Path, Path]) -> Path:
    """An artifact that passed, and was signed then."""
    folder = passing.make(tmp_path / "artifacts" / "speech")
    signing.sign(folder, pair[0])
    return folder


def verified(folder: Path, key: Path | None = None) -> dict[str, Path]:
    return signing.verify(folder, store.verify(folder), key)


def test_what_is_signed_is_told(signed: Path, tmp_path: Path) -> None:
    assert facts.of_path(signed)["signatures"] == ["model.sig", "report.sig"]
    assert facts.of_path(passing.make(tmp_path / "other"))["signatures"] == []


@pytest.mark.parametrize("curve", [ec.SECP256R1, ec.SECP384R1, ec.SECP521R1])
def test_every_kind_of_key_signs(curve: type[ec.EllipticCurve], tmp_path: Path) -> None:
    private, public = make_keys(tmp_path, "key", curve)
    folder = passing.make(tmp_path / "speech")
    digest = store.verify(folder).digest
    assert signing.sign(folder, private).digest == digest
    assert verified(folder, public) == dict.fromkeys(("model.sig", "report.sig"), public)
    assert store.verify(folder).digest == digest


def test_the_library_finds_both_signatures_good(signed: Path, pair: tuple[Path, Path]) -> None:
    """Anybody can check them without us, also where a push has written its card."""
    for name in BESIDE:
        (signed / name).write_text("x")
    for name in ("model.sig", "report.sig"):
        config = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=pair[1])
        config.verify(signed, signed / name)


def test_what_the_library_signs_is_good_for_us(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    folder = seal(tmp_path / "aoti")
    model_signing.signing.Config().use_elliptic_key_signer(private_key=pair[0]).sign(
        folder, tmp_path / "made"
    )
    (tmp_path / "made").rename(folder / "model.sig")
    assert verified(folder, pair[1]) == {"model.sig": pair[1]}


def test_what_earlier_versions_signed_is_good(tmp_path: Path) -> None:
    """A new form of signature adds a folder here; none goes. Copies, since links are refused."""
    names = {path.name for path in GOLDEN.iterdir() if path.is_dir()}
    assert names == {"v1"}
    for name in names:
        folder = Path(shutil.copytree(GOLDEN / name, tmp_path / name))
        key = GOLDEN / f"{name}.pem"
        assert verified(folder, key) == {"model.sig": key, "report.sig": key}


def sealed_anew(folder: Path) -> None:
    """Other bytes under another manifest, which is as whole as the first."""
    told = store.read_manifest(folder)
    (folder / "config.json").write_text("[]\n")
    files = [
        file.model_copy(update={"sha256": sha256_file(folder / file.path)}) for file in told.files
    ]
    changed = told.model_copy(update={"files": tuple(files)})
    (folder / "manifest.json").write_bytes(changed.canonical())


def payload_edited(change: Callable[[dict[str, Any]], object]) -> Edit:
    def edit(folder: Path) -> None:
        path = folder / "model.sig"
        bundle = json.loads(path.read_text())
        payload = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
        change(payload)
        text = json.dumps(payload).encode()
        bundle["dsseEnvelope"]["payload"] = base64.b64encode(text).decode()
        path.write_text(json.dumps(bundle))

    return edit


def bundle_edited(change: Callable[[dict[str, Any]], object]) -> Edit:
    def edit(folder: Path) -> None:
        bundle = json.loads((folder / "model.sig").read_text())
        change(bundle)
        (folder / "model.sig").write_text(json.dumps(bundle))

    return edit


def resigned_by_another(folder: Path) -> None:
    signing.sign(folder, make_keys(folder.parent, "other")[0])


def link(folder: Path) -> None:
    (folder / "model.sig").rename(folder.parent / "outside")
    (folder / "model.sig").symlink_to(folder.parent / "outside")


def pipe(folder: Path) -> None:
    (folder / "model.sig").unlink()
    os.mkfifo(folder / "model.sig")


CHANGED: dict[str, tuple[Edit, str]] = {
    "a byte": (lambda f: (f / "config.json").write_bytes(b"[]\n"), "not match the manifest"),
    "a file more": (lambda f: (f / "more.onnx").write_bytes(b""), "not in the manifest"),
    "sealed anew": (sealed_anew, r"model\.sig is for other bytes \(config\.json, manifest"),
    "a provenance": (
        lambda f: (f / "provenance.intoto.json").write_text("{}"),
        r"model\.sig is for other bytes \(provenance\.intoto\.json\)",
    ),
    "judged again": (
        lambda f: passing.judged(f, created="2026-02-02T00:00:00+00:00"),
        r"report\.sig is for other bytes \(report\.json\)\.\nSign again: exporter sign",
    ),
    "a verdict by hand": (
        lambda f: passing.judged(f, sentence="Better than the original."),
        r"report\.sig is for other bytes \(report\.json\)",
    ),
    "a page by hand": (lambda f: (f / "report.html").write_text("x"), r"\(report\.html\)"),
    "no predictions": (lambda f: (f / "predictions.jsonl").unlink(), r"\(predictions\.jsonl\)"),
    "no signature": (lambda f: (f / "model.sig").unlink(), "speech is not signed: exporter sign"),
    "no verdict's": (lambda f: (f / "report.sig").unlink(), "the report of .* is not signed"),
    "one for the other": (lambda f: (f / "report.sig").rename(f / "model.sig"), "other bytes"),
    "another's": (resigned_by_another, r"model\.sig is not by .*maker-public\.pem"),
    "a payload by hand": (payload_edited(lambda p: p.update(surprise=1)), "forged or damaged"),
    "a hint by hand": (
        bundle_edited(lambda b: b["verificationMaterial"]["publicKey"].update(hint="0" * 64)),
        "is not by",
    ),
    "fewer files": (
        payload_edited(lambda p: p["predicate"]["resources"].pop(0)),
        r"other bytes \(config\.json\)",
    ),
    "other hashes": (
        payload_edited(lambda p: p["predicate"]["resources"][0].update(algorithm="blake2")),
        "is not a signature by a key",
    ),
    "another statement": (
        payload_edited(lambda p: p.update(predicateType="https://slsa.dev/provenance/v1")),
        "is not a signature by a key",
    ),
    "a second spelling": (
        bundle_edited(lambda b: b.update(dsse_envelope=b["dsseEnvelope"])),
        "is not a signature by a key",
    ),
    "a certificate": (
        bundle_edited(lambda b: b["verificationMaterial"].update(certificate={})),
        "is not a signature by a key",
    ),
    "no signature in it": (
        bundle_edited(lambda b: b["dsseEnvelope"].update(signatures=[])),
        "is not a signature by a key",
    ),
    "nothing": (lambda f: (f / "model.sig").write_bytes(b""), "is not a signature by a key"),
    "a list": (lambda f: (f / "model.sig").write_text("[1]"), "is not a signature by a key"),
    "no text": (lambda f: (f / "model.sig").write_bytes(b"\xff\0"), "is not a signature by a key"),
    "deep": (lambda f: (f / "model.sig").write_text("[" * 99_999), "is not a signature by a key"),
    "large": (lambda f: os.truncate(f / "model.sig", 5 << 20), "larger than 4194304 bytes"),
    "a link": (link, "is a link, where a signature is expected"),
    "a pipe": (pipe, "is no regular file, where a signature"),
}


@pytest.mark.parametrize("case", CHANGED)
def test_a_change_is_found(case: str, signed: Path, pair: tuple[Path, Path]) -> None:
    edit, told = CHANGED[case]
    edit(signed)
    with pytest.raises(IntegrityError, match=told) as refused:
        verified(signed, pair[1])
    assert len(str(refused.value).splitlines()) <= 3


def test_what_a_push_writes_changes_nothing(signed: Path, pair: tuple[Path, Path]) -> None:
    for name in BESIDE:
        (signed / name).write_text("x")
    (signed / f".report.json.partial-{'0' * 32}").write_text("{")
    assert verified(signed, pair[1])


def test_a_report_of_another_build_is_not_signed(signed: Path, pair: tuple[Path, Path]) -> None:
    kept = (signed / "report.json").read_bytes()
    passing.make(signed, seed=3)
    (signed / "report.json").write_bytes(kept)
    with pytest.raises(IntegrityError, match="is about another build"):
        signing.sign(signed, pair[0])
    passing.judged(signed)
    (signed / "provenance.intoto.json").write_text('{"predicateType": "x", "subject": []}')
    with pytest.raises(IntegrityError, match="describes another artifact"):
        signing.sign(signed, pair[0])


def test_keys_that_cannot_sign(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = str(passing.make(tmp_path / "speech"))
    _, public = make_keys(tmp_path, "key")
    (tmp_path / "text").write_text("x")
    small = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    encrypted = ec.generate_private_key(ec.SECP256R1())
    cases = {
        tmp_path / "none.pem": "cannot be read: No such file",
        tmp_path: "cannot be read: Is a directory",
        public: "holds no private key",
        tmp_path / "text": "holds no private key",
        write_private(tmp_path / "locked.pem", encrypted, b"secret"): "is encrypted: decrypt it",
        write_private(tmp_path / "rsa.pem", small): "is not an elliptic-curve key",
        write_private(
            tmp_path / "ed.pem", ed25519.Ed25519PrivateKey.generate()
        ): "is not an elliptic",
        write_private(
            tmp_path / "k1.pem", ec.generate_private_key(ec.SECP256K1())
        ): "openssl ecparam",
    }
    for key, told in cases.items():
        assert main(["sign", folder, "--key", str(key)]) == 2
        error = capfd.readouterr().err
        assert told in error, error
        assert len(error.splitlines()) <= 3
    assert main(["verify", folder, "--key", str(tmp_path / "text")]) == 5  # it is not signed
    assert not list(Path(folder).glob("*.sig"))


@pytest.mark.parametrize("call", ["sign", "verify"])
def test_the_commands(
    call: str, tmp_path: Path, pair: tuple[Path, Path], config: Path, capfd: Any
) -> None:
    """A folder of artifacts, or one; as text and as data."""
    folder = passing.make(tmp_path / "artifacts" / "speech")
    passing.make(folder.parent / "other")
    digest = store.verify(folder).digest
    assert main(["sign", str(folder.parent), "--key", str(pair[0])]) == 0
    assert "its report too" in capfd.readouterr().out
    if call == "sign":
        assert main(["sign", str(folder), "--key", str(pair[0]), "--json"]) == 0
        told = json.loads(capfd.readouterr().out)
        assert told["signed"] == [{"path": str(folder), "digest": digest}]
        return
    assert main(["verify", str(folder.parent)]) == 0
    assert f"digest {digest}" in capfd.readouterr().out
    assert main(["verify", str(folder), "--signature"]) == 5
    assert f"is by no key in {config}" in capfd.readouterr().err
    kept = trust_key(config, pair[1])
    assert main(["verify", str(folder), "--signature", "--json"]) == 0
    (row,) = json.loads(capfd.readouterr().out)["verified"]
    assert row["signatures"] == {"model.sig": str(kept), "report.sig": str(kept)}
    (folder / "provenance.intoto.json").write_text("{")
    assert main(["verify", str(folder)]) == 5
    (tmp_path / "empty").mkdir()
    assert main(["verify", str(tmp_path / "empty")]) == 5  # where there is nothing, nothing is good
    assert "is not an artifact" in capfd.readouterr().err
