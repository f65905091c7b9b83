"""Turn a speech checkpoint into artifacts, and prove that each is as good as the original.

Nothing is imported here, so that the command line answers at once; see `exporter.runtime` for the
Python API.
"""

__version__ = "0.1.0"
