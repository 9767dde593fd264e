"""Error bars that mean what they say: three numbers learned on galaxies that were kept aside.

A network is surer than it should be of galaxies that it did not learn from: dropout leaves out what
all its masks get wrong alike, and volunteers scatter more than a binomial. So votes are taken to
scatter about the posterior by a beta-binomial, more widely where the prediction is undecided, and a
small share of galaxies to be ones that the networks know nothing of. All by maximum likelihood.

References
----------
Guo et al. 2017, arXiv:1706.04599 (calibration on held-out data); Walmsley et al. 2022,
MNRAS 509, 3966 (overdispersed votes).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from zoo_bridge.acquisition.posterior import Calibration, Posterior

Counts = NDArray[np.integer[Any]]
FEWEST = 30
MOST = 1500
# Weak priors, of a width of two, on the logarithms of both overdispersions and the logit of the
# surprise: what few galaxies cannot tell stays near.
PRIOR = np.array([np.log(0.05), np.log(0.2), -3.5])
PRIOR_WIDTH = 2.0
# An overdispersion below the first is a binomial, for all that votes can tell.
BOUNDS = [(np.log(1e-4), np.log(5.0)), (np.log(1e-4), np.log(5.0)), (-9.0, 0.0)]


def fit(posterior: Posterior, k: Counts, n: Counts, fewest: int = FEWEST) -> Calibration | None:
    """Fit a calibration to votes.

    Parameters
    ----------
    posterior : Posterior
        What the networks say of these galaxies.
    k, n : ndarray of int, shape (N,)
        The votes. Galaxies without votes tell nothing and are left out.
    fewest : int
        Fewer galaxies than this are not fitted to.

    Returns
    -------
    Calibration or None
        None if there are too few galaxies.
    """
    asked = np.flatnonzero(n > 0)[:MOST]
    if len(asked) < fewest:
        return None
    some, k, n = posterior.at(asked), k[asked], n[asked]

    def loss(x: NDArray[Any]) -> float:
        prior = 0.5 * float(np.sum(((x - PRIOR) / PRIOR_WIDTH) ** 2))
        return prior - float(some.calibrated(_build(x)).forecast(k, n, ()).log_p.sum())

    options: Any = {"maxiter": 30, "eps": 1e-3, "ftol": 1e-6}
    best = minimize(loss, PRIOR, method="L-BFGS-B", bounds=BOUNDS, options=options)
    return _build(best.x)


def _build(x: NDArray[Any]) -> Calibration:
    return Calibration(float(np.exp(x[0])), float(np.exp(x[1])), float(1 / (1 + np.exp(-x[2]))))
