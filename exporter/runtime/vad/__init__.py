"""Voice activity detection: where in a recording somebody speaks."""
