"""The Bayesian CNN: network, likelihood, training, posterior, registry. Only Keras lives here."""
