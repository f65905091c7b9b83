"""Where work runs: independent tasks on this machine or a cluster, and where results are kept."""
