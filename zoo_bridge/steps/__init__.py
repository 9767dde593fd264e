"""The five steps of the loop, each a straight line: read, compute, write, report."""
