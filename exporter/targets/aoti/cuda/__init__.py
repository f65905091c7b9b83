"""Packages compiled by AOTInductor for one NVIDIA GPU."""
