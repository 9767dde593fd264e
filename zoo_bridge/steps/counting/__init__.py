"""Aggregate's workshop: what is counted, what may be lost, whether labels meet the survey."""
