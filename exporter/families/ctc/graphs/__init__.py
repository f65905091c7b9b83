"""CTC models cut into graphs, on the transformers model's own submodules."""
