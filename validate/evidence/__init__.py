"""Checks of an artifact against its original that need no corpus."""
