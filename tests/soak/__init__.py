"""Sweeps too long for `make test`, and what writes their results into docs/reliability.md."""
