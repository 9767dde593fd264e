"""The console: web pages on which a project's team sees the loop, looks at batches, and decides."""
