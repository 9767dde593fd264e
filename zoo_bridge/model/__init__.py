"""The Bayesian CNN: network, likelihood, training, prediction, registry; the only room of Keras.

`network` and `likelihood` are what it is, `augment` and `train` how it learns, `predict` how its
networks become posteriors, `registry` how it lies on disk, `runtime` what else can run its trunk.
Keras is loaded with `backend`, by the files that need it: `heads` and `predict` do not.
"""
