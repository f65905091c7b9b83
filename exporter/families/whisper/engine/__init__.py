"""Built graphs joined into a model that generates."""
