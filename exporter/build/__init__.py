"""Build sealed artifacts from a recipe."""
