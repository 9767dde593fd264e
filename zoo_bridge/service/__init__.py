"""What runs the steps: the runner, the scheduler and the command line."""
