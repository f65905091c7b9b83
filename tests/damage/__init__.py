"""Planted damage: does `exporter validate` tell a damaged artifact from a good one?

`python -m tests.damage` damages copies of built artifacts one at a time, as real exporters have
damaged theirs, seals what they are then, validates them, and tells which were caught. With
`--honest` it builds artifacts of many settings, none of which may fail.
"""
