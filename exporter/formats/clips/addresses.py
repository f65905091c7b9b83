"""Where data are: a path on this machine, or an address in an object store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from exporter.errors import DataError, RecipeError

_SCHEMES = ("s3", "gs", "gcs")


@dataclass(frozen=True, slots=True)
class Remote:
    """A folder or file in an object store, like `s3://bucket/corpus`.

    What follows `?` are options of pyarrow's file system, like `region` or `endpoint_override`.
    """

    url: str

    def __str__(self) -> str:
        """Return the address without its options."""
        return self.url.partition("?")[0]

    def __truediv__(self, inner: str) -> Remote:
        """Return the address of what is below this folder, with the same options."""
        address, mark, options = self.url.partition("?")
        return Remote(f"{address.rstrip('/')}/{inner}{mark}{options}")

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(str(self)).name

    @property
    def suffix(self) -> str:
        """The suffix of the name."""
        return PurePosixPath(str(self)).suffix


def is_remote(text: str) -> bool:
    """Return whether a text names data in an object store."""
    return text.partition("://")[0] in _SCHEMES and "://" in text


def source_at(base: Path, text: str) -> Path | Remote:
    """Return the data that a recipe or a command names.

    Args:
        base: The folder that a path is relative to.
        text: A path, or an address like `s3://bucket/folder`.

    Raises:
        DataError: An address holds a password, which would be published with a recipe.
    """
    if not is_remote(text):
        return base / text
    if has_password(text):
        scheme = text.partition("://")[0]
        msg = (
            f"an address of {scheme}:// holds a key or password: leave it out\n"
            "Keep it where the store's clients look, like AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY."
        )
        raise DataError(msg)
    return Remote(text)


def store_at(text: str) -> Path | Remote:
    """Return the folder or object store that `--store` names.

    Raises:
        DataError: The address holds a password.
        RecipeError: It is empty, names no bucket, or is of another kind of store.
    """
    scheme, mark, rest = text.partition("://")
    if not text or (mark and not (scheme in _SCHEMES and rest.partition("?")[0].strip("/"))):
        shown = f"{scheme}://" if mark else "an empty text"  # the rest may hold a password
        msg = f"--store takes a folder, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER, not {shown}"
        raise RecipeError(msg)
    return source_at(Path(), text)


def resolved(source: Path | Remote) -> str:
    """Return what is the same for all names of the same data."""
    return source.url if isinstance(source, Remote) else str(source.resolve())


def has_password(text: str) -> bool:
    """Return whether an address in an object store holds a key or a password."""
    if not is_remote(text):
        return False
    try:
        return "@" in urlsplit(text).netloc
    except ValueError:
        return True
