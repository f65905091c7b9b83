"""Open, check and read checkpoints, tensor by tensor."""
