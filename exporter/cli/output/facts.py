"""Facts about artifacts and checkpoints as plain data, for `inspect` and `list`.

Imports torch only for checkpoints.
"""

from itertools import chain
from pathlib import Path
from typing import Any

from exporter.artifact import store
from exporter.artifact.lookup import is_artifact, require_model
from exporter.artifact.store import SIGNATURES
from exporter.errors import ExporterError, MachineError, needing
from exporter.families import FAMILIES, family_name
from exporter.runtime.manifest import MANIFEST, SealedManifest
from exporter.targets import TARGETS

_REPORT = "report.json"  # of `exporter.artifact.report`, which needs pydantic


def of_path(path: Path, *, allow_pickle: bool = False) -> dict[str, Any]:
    """Return the facts about the artifact or checkpoint at `path`; nothing is hashed.

    Args:
        path: The folder, or the Hub id of a checkpoint, whose weights are not downloaded.
        allow_pickle: Read a checkpoint's weights also where they are pickles.

    Returns:
        Plain data for JSON.

    Raises:
        IntegrityError: The manifest or report is damaged.
        RecipeError: The path is neither, but for example a folder of artifacts.
        CheckpointError: The checkpoint cannot be used.
        HubError: The Hub refused, or could not be reached.
    """
    if is_artifact(path):
        return _artifact_facts(path)
    require_model(path)
    return _checkpoint_facts(path, allow_pickle=allow_pickle)


def of_folder(here: Path) -> dict[str, list[Any]]:
    """Return the recipes and artifacts below `here`, and all targets and families."""
    manifests = sorted((here / "artifacts").glob(f"*/*/{MANIFEST}"))
    recipes = (sorted((here / "recipes").glob(pattern)) for pattern in ("*.yaml", "*/*.yaml"))
    return {
        "recipes": [_recipe_row(path) for path in chain.from_iterable(recipes)],
        "targets": list(TARGETS),
        "families": list(FAMILIES),
        "artifacts": [
            _artifact_row(path.parent) for path in manifests if path.parent.name[0] != "."
        ],
    }


def _artifact_facts(path: Path) -> dict[str, Any]:
    from exporter.artifact import report

    manifest = store.read_manifest(path)
    facts = {
        "artifact": str(path),
        "digest": manifest.digest,
        "size_bytes": manifest.size_bytes,
        "manifest": manifest.model_dump(mode="json"),
        "signatures": [name for name in SIGNATURES if (path / name).exists()],
        "report": None,
    }
    if (path / report.REPORT).exists():
        judged = report.read(path)
        facts["report"] = {
            "verdict": judged.verdict,
            "sentence": judged.sentence,
            "judged_this_artifact": judged.is_about(manifest),
            "clips": judged.data.clips,
            "wer_original": judged.reference_figures.wer,
            "wer": judged.figures.wer,
            "latency_ratio": judged.latency_ratio.value,
            "page": str(path / report.PAGE),
        }
    return facts


@needing("build")
def _checkpoint_facts(path: Path, *, allow_pickle: bool) -> dict[str, Any]:
    from exporter.build import estimate
    from exporter.checkpoint.checkpoint import open_checkpoint, warn_of_adapter

    checkpoint = open_checkpoint(str(path), weights=False, allow_pickle=allow_pickle)
    warn_of_adapter(checkpoint)
    room = estimate.room_at(Path("artifacts"))
    return {
        "checkpoint": str(path),
        "family": family_name(checkpoint.config),
        "parameters": checkpoint.parameters,
        "dtypes": sorted({info.dtype for info in checkpoint.tensors.values()}),
        "size_bytes": checkpoint.size_bytes,
        "plan": estimate.of_checkpoint(checkpoint, room),
        "here": room.as_row(),
    }


def _recipe_row(path: Path) -> dict[str, str]:
    try:
        with needing("hub"):
            from exporter.recipe import read

        recipe = read(path)
    except MachineError as error:
        return {"path": str(path), "state": _untold(error)}
    except ExporterError as error:
        return {"path": str(path), "state": f"unusable: {str(error).splitlines()[0]}"}
    targets = " ".join(target.name for target in recipe.targets)
    return {"path": str(path), "checkpoint": recipe.checkpoint, "targets": targets}


def _artifact_row(path: Path) -> dict[str, Any]:
    try:
        manifest = store.read_sealed(path)
        state = _verdict(path, manifest)
    except ExporterError as error:
        return {"path": str(path), "state": f"unusable: {str(error).splitlines()[0]}"}
    return {"path": str(path), "size_bytes": manifest.size_bytes, "state": state}


def _verdict(path: Path, manifest: SealedManifest) -> str:
    """Return what an artifact's report says."""
    if not (path / _REPORT).exists():
        return "not validated"
    try:
        with needing("hub"):
            from exporter.artifact import report
    except MachineError as error:
        return _untold(error)
    judged = report.read(path)
    return judged.verdict if judged.is_about(manifest) else "its report is about another build"


def _untold(error: MachineError) -> str:
    """Return the state of a file that the base install does not read."""
    return f"not read: {error}"
