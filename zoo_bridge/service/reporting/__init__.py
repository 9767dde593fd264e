"""A report of every run: one page with all in it, for whoever wants to know what came of it."""
