"""The machine, its processes, files and folders."""
