"""Join built graphs into a model that generates."""
