"""What people look at: figures and the run report."""
