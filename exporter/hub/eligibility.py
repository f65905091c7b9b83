"""Check that an artifact may be published: its bytes, and a passing report on them.

Only files are read, so that an artifact that fails here is refused before the first request.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from exporter.artifact import provenance, report, signing, store
from exporter.artifact.manifest import RECIPE, Manifest
from exporter.artifact.report import Report
from exporter.errors import GateError
from exporter.recipe import Recipe, read


@dataclass(frozen=True)
class PublishableArtifact:
    """A verified artifact and the report of a passed gate on exactly its bytes.

    `corpus_read_again` is True if the clips were hashed again, and are those of the report.
    """

    folder: Path
    manifest: Manifest
    report: Report
    recipe: Recipe
    corpus_read_again: bool = False


CorpusHash = Callable[[Path, Manifest, Recipe, Sequence[str]], str | None]
"""Hashes the clips of an artifact's recipe, as a report has it; None where they are not here.

The last argument is the names of clips that the report left out.
"""


def unread(_folder: Path, _manifest: Manifest, _recipe: Recipe, _left_out: Sequence[str]) -> None:
    """Read no clips again."""
    return


def check_publishable(folder: Path, corpus_hash: CorpusHash = unread) -> PublishableArtifact:
    """Verify an artifact and its report.

    Args:
        folder: The artifact.
        corpus_hash: Hashes the clips that were judged, as they are now.

    Returns:
        The artifact with its manifest, report and recipe.

    Raises:
        IntegrityError: Bytes are not the sealed, the judged or the signed ones.
        GateError: There is no verdict, it is not `passed`, or it was reached on other terms than
            the sealed recipe's, or on clips that were changed since.
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
        msg = f"{folder} was judged {other}.\nRun `exporter validate {folder}` without options."
        raise GateError(msg)
    provenance.require(folder, manifest)
    if store.is_signed(folder):
        signing.require_current(folder, manifest)
        signing.require_unforged(folder, manifest)
    now = corpus_hash(folder, manifest, recipe, judged.data.unreadable)
    read_again = _require_same_corpus(folder, judged, now)
    return PublishableArtifact(folder, manifest, judged, recipe, read_again)


def _require_same_corpus(folder: Path, judged: Report, now: str | None) -> bool:
    """Return whether the clips were read again; raise GateError if they are other ones."""
    if now is not None and now != judged.data.sha256:
        msg = (
            f"{folder} was judged on other clips than {judged.data.source} has now: sounds, texts "
            f"or names were edited afterwards (sha256 {now[:12]}, judged {judged.data.sha256[:12]})"
            f".\nRun `exporter validate {folder}` again, or restore them."
        )
        raise GateError(msg)
    return now is not None


def _other_terms(judged: Report, recipe: Recipe, manifest: Manifest) -> str:
    """Return how a report's terms differ from its recipe's; a recipe without data allows any."""
    if judged.gate != recipe.gate:
        return "by another gate than its recipe has"
    if judged.decoding != recipe.decoding:
        return "with another decoding than its recipe has"
    if judged.reference.sha256 != manifest.checkpoint.sha256:
        other, own = judged.reference, manifest.checkpoint
        return (
            f"against another checkpoint ({other.source}, sha256 {other.sha256[:12]}) than it was "
            f"built from ({own.source}, sha256 {own.sha256[:12]})"
        )
    data, used = recipe.data, judged.data
    selection = data and (data.shown, data.max_clips, data.seed)
    if selection and selection != (used.source, used.max_clips, used.seed):
        return "on other clips than its recipe has"
    return ""
