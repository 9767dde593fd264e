"""What networks say together, how right they are, and what would teach them most. Pure numpy."""
