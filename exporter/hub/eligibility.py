"""Check that an artifact may be published: its bytes, and a passing report on them.

Only files are read, so that an artifact that fails here is refused before the first request.
"""

from dataclasses import dataclass
from pathlib import Path

from exporter.artifact import provenance, report, signing, store
from exporter.artifact.manifest import RECIPE, Manifest
from exporter.artifact.report import Report
from exporter.errors import GateError
from exporter.recipe import Recipe, read


@dataclass(frozen=True)
class PublishableArtifact:
    """A verified artifact and the report of a passed gate on exactly its bytes."""

    folder: Path
    manifest: Manifest
    report: Report
    recipe: Recipe


def check_publishable(folder: Path) -> PublishableArtifact:
    """Verify an artifact and its report.

    Args:
        folder: The artifact.

    Returns:
        The artifact with its manifest, report and recipe.

    Raises:
        IntegrityError: Bytes are not the sealed, the judged or the signed ones.
        GateError: There is no verdict, it is not `passed`, or it was reached on other terms than
            the sealed recipe's.
    """
    manifest = store.verify(folder)
    recipe = read(folder / RECIPE)
    if not (folder / report.REPORT).exists():
        msg = f"{folder} was never validated: run `exporter validate {folder}` first"
        raise GateError(msg)
    judged = report.read_of(folder, manifest)
    if judged.verdict != "passed":
        msg = f"{folder} did not pass its gate ({judged.verdict}): {judged.sentence}"
        raise GateError(msg)
    if other := _other_terms(judged, recipe, manifest):
        msg = (
            f"{folder} was judged {other} its recipe has.\n"
            f"Run `exporter validate {folder}` without options."
        )
        raise GateError(msg)
    provenance.require(folder, manifest)
    if signing.exists(folder):
        signing.require_current(folder, manifest)
    return PublishableArtifact(folder, manifest, judged, recipe)


def _other_terms(judged: Report, recipe: Recipe, manifest: Manifest) -> str:
    """Return how a report's terms differ from its recipe's; a recipe without data allows any."""
    if judged.gate != recipe.gate:
        return "by another gate than"
    if judged.decoding != recipe.decoding:
        return "with another decoding than"
    if judged.reference.sha256 != manifest.checkpoint.sha256:
        return "against another checkpoint than"
    data, used = recipe.data, judged.data
    selection = data and (data.shown, data.max_clips, data.seed)
    if selection and selection != (used.source, used.max_clips, used.seed):
        return "on other clips than"
    return ""
