"""Build sealed artifacts from a recipe."""

from exporter.errors import require_extra

require_extra("build")
