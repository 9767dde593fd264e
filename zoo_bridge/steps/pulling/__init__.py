"""Pull's workshop: the exports, what came since, and the manifest of both."""
