"""An absent package of an extra is told with it; every other import error is a bug."""

import sys
from importlib import import_module
from pathlib import Path

import pytest

from exporter.errors import MachineError, needing
from exporter.recognition import load
from exporter.recognition.load import _require_package


def absent(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)


@pytest.mark.parametrize(
    ("module", "extra", "named"),
    [
        ("jiwer", None, "validate"),
        ("pydantic", None, "hub"),
        ("pydantic", "sign", "sign"),
        ("pydantic", "validate", "validate"),
        ("pyarrow", "validate", "datasets"),
        ("onnxruntime", "build", "onnxruntime"),
    ],
)
def test_an_absent_package_is_told_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, module: str, extra: str | None, named: str
) -> None:
    absent(monkeypatch, module)
    with pytest.raises(MachineError) as told, needing(extra):
        import_module(f"{module}.inner")
    message = str(told.value)
    assert message.startswith(f"{module} is not installed: pip install 'asr-exporter[{named}]'")
    assert ("never both" in message) == (module == "onnxruntime")
    assert told.value.exit_code == 6


@pytest.mark.parametrize("module", ["exporter.absent", "stranger", "onnx.absent"])
def test_what_no_extra_would_bring_stays_a_bug(module: str) -> None:
    """A module of ours, one that nothing declares, and a part of a package that is there."""
    with pytest.raises(ModuleNotFoundError), needing("build"):
        import_module(module)


def test_a_package_that_is_broken_is_not_called_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent(monkeypatch, "jiwer")
    monkeypatch.delitem(sys.modules, "jiwer")
    (tmp_path / "jiwer.py").write_text("import its_own_need")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="its_own_need"), needing("validate"):
        import_module("jiwer")
    (tmp_path / "jiwer.py").write_text("raise ImportError('libfoo.so is missing')")
    with pytest.raises(ImportError, match=r"libfoo\.so"), needing("validate"):
        import_module("jiwer")


def test_what_an_artifact_needs_is_one_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    there: set[str] = set()
    monkeypatch.setattr(load, "_is_installed", there.__contains__)
    with pytest.raises(MachineError, match=r"'asr-exporter\[onnxruntime\]' \(or \[onnxruntime-gpu"):
        _require_package("onnxruntime", "cpu")
    with pytest.raises(MachineError, match=r"'asr-exporter\[build\]'"):
        _require_package("torch", "cpu")
    with pytest.raises(MachineError, match=r"pip install 'asr-exporter\[onnxruntime-cuda\]'$"):
        _require_package("onnxruntime", "cuda")
    with pytest.raises(MachineError, match="needs 'others', which is not installed") as told:
        _require_package("others", "cpu")
    assert "pip" not in str(told.value)  # a manifest is not trusted to name what to install
    for there_alone in ("onnxruntime", "onnxruntime-gpu"):
        there.clear()
        there.add(there_alone)
        _require_package("onnxruntime", "cpu")
    there.add("onnxruntime")
    with pytest.raises(MachineError, match="are both installed and overwrite each other"):
        _require_package("onnxruntime", "cpu")
