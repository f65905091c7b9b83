"""The keys of a family's configs that are used, each with the values that it may have."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from exporter.errors import CheckpointError
from exporter.formats.config_json import refuse_code_in, shown


class Limits(BaseModel):
    """The keys of a family's config that are used, each with the values that it may have.

    Other keys are never passed on. A field with `exclude` is checked, but not used either.
    """

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    def used(self) -> dict[str, Any]:
        """Return the keys that the file has, and those with a default other than None."""
        defaults = {
            name: field.default
            for name, field in type(self).model_fields.items()
            if field.default is not None and not field.exclude
        }
        return {**defaults, **self.model_dump(exclude_unset=True, by_alias=True)}


def held(limits: type[Limits], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Hold a config to a family's limits.

    Args:
        limits: The keys that are used.
        values: The config.
        where: The file, for messages.

    Returns:
        What may be passed to transformers.

    Raises:
        CheckpointError: The config names code or other files, or has a value outside the limits.
    """
    refuse_code_in(values, where)
    try:
        return limits.model_validate(values).used()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(shown, first["loc"]))
        reason = first["msg"].removeprefix("Value error, ")
        told = f"{key}: {reason}, got {first['input']!r:.40}" if key else reason
        msg = f"{where}: {told}: this is no {limits.model_config['title']}'s"
        raise CheckpointError(msg) from error
