"""Errors of both sides against the true texts, and what they say of the difference."""
