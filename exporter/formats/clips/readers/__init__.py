"""Readers of data, one a format; `layouts` chooses among them."""
