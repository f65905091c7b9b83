"""Calibration: the ranges of inputs, from recordings that the float original hears."""
