"""Graphs compiled by AOTInductor, on numpy arrays and without torch.

Packages whose spec says so hold the few functions that compiled code would call libtorch by.
"""
