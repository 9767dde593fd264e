"""zoo_bridge closes the loop between a Zooniverse project and a sky survey.

Votes become k-of-N labels, a Bayesian CNN learns from them and reads the whole survey, and the
galaxies that would teach it most go back to the volunteers.
"""

__version__ = "0.1.0"
