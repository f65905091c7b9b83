"""The gate: every check of an artifact, and the verdict that follows from them."""
