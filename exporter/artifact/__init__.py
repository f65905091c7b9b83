"""Artifacts: manifest, report, provenance, signatures, trust."""
