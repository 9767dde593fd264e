"""Which galaxies would teach the model most. Pure numpy."""
