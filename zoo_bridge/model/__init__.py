"""The Bayesian CNN: network, likelihood, training, posterior, registry. The only import of Keras."""
