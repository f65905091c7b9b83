"""Packages compiled ahead of time by AOTInductor."""
