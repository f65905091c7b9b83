"""Decode with an artifact's graphs: features, search, text; numpy and the standard library only."""
