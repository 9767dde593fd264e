"""One file a step, called after it."""
