"""Retrain's workshop: labelled galaxies, the ensemble, its judgement, the gate, the figures."""
