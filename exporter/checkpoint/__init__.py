"""Checkpoints opened, checked and read tensor by tensor."""
