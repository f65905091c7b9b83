"""From a recipe to sealed artifacts."""
