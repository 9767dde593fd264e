"""Error bars that mean what they say: numbers learned on galaxies that were kept aside.

A network is surer than it should be of galaxies that it did not learn from: dropout leaves out what
all its masks get wrong alike, and volunteers scatter more than a binomial. So votes for an answer
are taken to scatter about the posterior by a beta-binomial, more widely where the prediction is
undecided, and a small share of galaxies to be ones that the networks know nothing of. Each answer
of a question has its own scatter; the share of surprises is one for all, so that what is expected
of the answers adds up to one. All by maximum likelihood.

Names carry shapes: N galaxies, E overdispersions of `scatter.lattice`.

References
----------
Guo et al. 2017, arXiv:1706.04599 (calibration on held-out data); Walmsley et al. 2022,
MNRAS 509, 3966 (overdispersed votes); Varin, Reid & Firth 2011, Statistica Sinica 21, 5 (the
product of the answers' likelihoods in place of a joint one).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp

from zoo_bridge.acquisition import scatter
from zoo_bridge.acquisition.grid import Grid
from zoo_bridge.acquisition.posterior import Calibration, Posterior, flat

Array = NDArray[np.floating[Any]]
Counts = NDArray[np.integer[Any]]
FEWEST = 30
MOST = 1500
# Weak priors, of a width of two, on the logarithms of both overdispersions and the logit of the
# surprise: what few galaxies cannot tell stays near.
PRIOR = np.array([np.log(0.05), np.log(0.2)])
PRIOR_SURPRISE = -3.5
PRIOR_WIDTH = 2.0
# An overdispersion below the first is a binomial, for all that votes can tell.
LEAST, MOST_OVERDISPERSED = 1e-4, 5.0
BOUNDS = (np.log(LEAST), np.log(MOST_OVERDISPERSED))
BOUNDS_SURPRISE = (-9.0, 0.0)
LEVELS = scatter.lattice(LEAST, MOST_OVERDISPERSED)
STEP = 1e-3


@dataclass(frozen=True)
class Evidence:
    """The votes of N galaxies on one answer, and how likely each overdispersion makes them.

    Parameters
    ----------
    log_p_NE : ndarray, shape (N, E)
        At every place of the lattice between the bounds.
    log_flat_N : ndarray, shape (N,)
        If the networks know nothing.
    mean_N : ndarray, shape (N,)
        What the networks expect.
    asked_N : ndarray of bool, shape (N,)
        Galaxies that have votes; the others tell nothing.
    """

    log_p_NE: Array
    log_flat_N: Array
    mean_N: Array
    asked_N: NDArray[np.bool_]

    @classmethod
    def of(cls, said: Posterior, k: Counts, n: Counts) -> Evidence:
        """Of what networks say of the galaxies, and the votes: shape (N,) each."""
        log_p_NE = np.zeros((len(k), len(LEVELS)))
        for part in said.parts:
            at = part.places
            assert isinstance(part.grid, Grid)
            for column, level in enumerate(LEVELS):
                like = scatter.kept(part.grid, scatter.at_lattice(level))
                log_p_NE[at, column] = like.log_p(part.mass, k[at], n[at])
        log_flat_N = np.zeros(len(k))
        for votes in np.unique(n).tolist():
            log_flat_N[n == votes] = np.log(flat(votes, said.answers))[k[n == votes]]
        return cls(log_p_NE, log_flat_N, said.mean_N, n > 0)

    def at(self, places: Any) -> Evidence:
        """That of some galaxies."""
        return Evidence(
            self.log_p_NE[places],
            self.log_flat_N[places],
            self.mean_N[places],
            self.asked_N[places],
        )

    @classmethod
    def join(cls, parts: Sequence[Evidence]) -> Evidence:
        """That of several sets of galaxies, one after another."""
        rows = [(each.log_p_NE, each.log_flat_N, each.mean_N, each.asked_N) for each in parts]
        return cls(*(np.concatenate(column) for column in zip(*rows, strict=True)))

    def log_likelihood(self, calibration: Calibration) -> float:
        """Of all the votes together, nats."""
        e_N = calibration.overdispersion(self.mean_N)
        log_p_N = np.einsum("ne,ne->n", scatter.between(e_N, LEVELS), self.log_p_NE)
        known, unknown = np.log1p(-calibration.surprise), np.log(calibration.surprise)
        both = logsumexp([known + log_p_N, unknown + self.log_flat_N], axis=0)
        return float(both.sum())


def fit(evidence: Sequence[Evidence], fewest: int = FEWEST) -> list[Calibration]:
    """Fit calibrations to votes.

    Parameters
    ----------
    evidence : sequence of Evidence
        Of the answers of a question, on the same galaxies.
    fewest : int
        Fewer galaxies with votes than this are not fitted to.

    Returns
    -------
    list of Calibration
        One an answer; none at all if there are too few galaxies.
    """
    asked = np.flatnonzero(evidence[0].asked_N)[:MOST]
    if len(asked) < fewest:
        return []
    some = [each.at(asked) for each in evidence]

    def loss(answer: int, x: Array) -> float:
        prior = 0.5 * float(np.sum(((x[:2] - PRIOR) / PRIOR_WIDTH) ** 2))
        return prior - some[answer].log_likelihood(_build(x))

    def total(x: Array) -> tuple[float, Array]:
        """The loss and its gradient: an answer's own numbers move its own loss alone."""
        value = 0.5 * float((x[-1] - PRIOR_SURPRISE) / PRIOR_WIDTH) ** 2
        gradient = np.zeros(len(x))
        gradient[-1] = (x[-1] - PRIOR_SURPRISE) / PRIOR_WIDTH**2
        for answer in range(len(some)):
            at = [2 * answer, 2 * answer + 1, len(x) - 1]
            value += loss(answer, x[at])
            for place, move in zip(at, STEP * np.eye(3), strict=True):
                up, down = loss(answer, x[at] + move), loss(answer, x[at] - move)
                gradient[place] += (up - down) / (2 * STEP)
        return value, gradient

    start = np.append(np.tile(PRIOR, len(some)), PRIOR_SURPRISE)
    bounds = [BOUNDS] * (2 * len(some)) + [BOUNDS_SURPRISE]
    best = minimize(total, start, jac=True, method="L-BFGS-B", bounds=bounds)
    return [_build(best.x[[2 * place, 2 * place + 1, -1]]) for place in range(len(some))]


def _build(x: Array) -> Calibration:
    return Calibration(float(np.exp(x[0])), float(np.exp(x[1])), float(1 / (1 + np.exp(-x[2]))))
