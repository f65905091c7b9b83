"""What each process of benchmarks/cuda/check.py runs: one model, opened and timed."""
