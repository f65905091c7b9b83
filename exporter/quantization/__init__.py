"""Which scheme each module gets, and the numbers that are stored."""
