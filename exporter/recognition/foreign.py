"""Errors of libraries over the files of an artifact that somebody else sealed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from exporter.artifact.build_registry import built_here
from exporter.errors import (
    CheckpointError,
    ExporterError,
    IntegrityError,
    RecipeError,
    ResourceError,
    exhausted,
    exhaustion,
)
from exporter.runtime.manifest import SealedManifest


@contextmanager
def foreign_files(manifest: SealedManifest | None, folder: Path | None = None) -> Iterator[None]:
    """Raise an error of ours for whatever a stranger's files make a library raise.

    An artifact's bytes are the sealed ones, but anybody can seal, and nothing says that they fit
    together. Those of an artifact that was built here do: then the error is a bug of ours and is
    left alone.

    Args:
        manifest: The artifact's; None for an original.
        folder: The files' folder, for messages.

    Raises:
        IntegrityError: The artifact cannot be used.
        CheckpointError: The original cannot be used.
        ResourceError: Disk or memory ran out.
    """
    try:
        yield
    except (ExporterError, NotImplementedError):
        raise
    except Exception as error:  # of torch, safetensors, transformers: they have no common base
        if exhausted(error):
            raise ResourceError(exhaustion(error)) from error
        if manifest is not None and built_here(manifest):
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if manifest is None:
            msg = f"the original cannot decode with its own configs and weights ({reason})"
            raise CheckpointError(msg) from error
        msg = (
            f"{folder or manifest.name}: its files do not fit together ({reason}).\n"
            "Build or fetch the artifact again."
        )
        raise IntegrityError(msg) from error


@contextmanager
def sealed_configs() -> Iterator[None]:
    """Raise IntegrityError for configs and a recipe in an artifact that cannot be used."""
    try:
        yield
    except (CheckpointError, RecipeError) as error:
        raise IntegrityError(str(error)) from error
