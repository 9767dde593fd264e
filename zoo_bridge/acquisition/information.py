"""What a galaxy would teach: the mutual information between its votes and the networks (BALD).

A set of networks is given by the logits that they predict for each galaxy, and weights: either
equal weights and one logit a sampled network, or quadrature nodes over the logit's distribution.
Names carry shapes: N galaxies, J networks (or nodes), K = n + 1 possible counts. Weights have shape
(J,), or (N, J) where they differ from galaxy to galaxy, and sum to one over J.

Votes scatter about a network's prediction as a binomial, or more: with an overdispersion
e = 1 / (alpha + beta) above 0 they follow the beta-binomial of mean rho.

References
----------
Houlsby et al. 2011, arXiv:1112.5745; Walmsley et al. 2020, MNRAS 491, 1554, equations 6 to 9;
Walmsley et al. 2022, MNRAS 509, 3966 (Dirichlet-multinomial votes).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, gammaln, log_expit, xlogy

Array = NDArray[np.floating[Any]]
# A chunk of galaxies fits into the processor's caches.
CHUNK_BYTES = 2**22
LOWEST = -1e300
# With more volunteers the products of `_votes` could underflow where they count.
MOST_MULTIPLIED = 500


def log_votes(logit: Array, n: int, overdispersion: float | Array = 0.0) -> Array:
    """The log-probability of each count of votes under networks given by their logits.

    The beta-binomial in the form that stays exact as the overdispersion e goes to 0::

        log C(n, k) + sum_{i<k} log(rho + i e) + sum_{i<n-k} log(1 - rho + i e)
                    - sum_{i<n} log(1 + i e)

    Parameters
    ----------
    logit : ndarray, shape (...)
        Logits of rho, the chance that one volunteer gives the answer; may be infinite.
    n : int
        Volunteers.
    overdispersion : float or ndarray
        e = 1 / (alpha + beta), of a shape that broadcasts with the logits'; a plain 0 is the
        binomial.

    Returns
    -------
    ndarray, shape (..., n + 1)
    """
    k = np.arange(n + 1)
    choose_K = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    z = np.asarray(logit, dtype=np.float64)[..., None]
    # A logit of minus infinity must give 0 for k = 0, not nan: hence a lowest logarithm.
    first_yes, first_no = np.maximum(log_expit(z), LOWEST), np.maximum(log_expit(-z), LOWEST)
    if np.ndim(overdispersion) == 0 and overdispersion <= 0:
        exact: Array = choose_K + k * first_yes + (n - k) * first_no
        return exact
    steps = np.asarray(overdispersion)[..., None] * np.arange(1, n)
    yes = _rising(first_yes, np.log(expit(z) + steps))
    no = _rising(first_no, np.log(expit(-z) + steps))
    spread: Array = choose_K - np.log1p(steps).sum(axis=-1, keepdims=True) + yes + no[..., ::-1]
    return spread


def _rising(first: Array, rest: Array) -> Array:
    """Sums of the first k logarithms, k = 0, 1, …: shape (..., n + 1)."""
    out = np.empty((*first.shape[:-1], rest.shape[-1] + 2))
    out[..., 0] = 0.0
    out[..., 1:2] = first
    out[..., 2:] = rest
    np.cumsum(out, axis=-1, out=out)
    return out


def entropy(log_p_K: Array) -> Array:
    """Entropy in nats over the last axis; counts of probability zero add nothing."""
    p_K = np.exp(log_p_K)
    return -np.sum(np.where(p_K > 0, p_K * log_p_K, 0.0), axis=-1)


def mixture(
    logit_NJ: Array, weight: Array, n: int, overdispersion: float | Array = 0.0
) -> tuple[Array, Array]:
    """p(k of n volunteers give the answer), all networks together, and how they disagree.

    Parameters
    ----------
    logit_NJ : ndarray, shape (N, J)
        Each galaxy's logit under each network.
    weight : ndarray, shape (J,) or (N, J)
        Weights of the networks, summing to one.
    n : int
        Volunteers; for the information the number of votes that the galaxy is expected to get.
    overdispersion : float or ndarray, shape (N,)
        See `log_votes`.

    Returns
    -------
    p_NK : ndarray, shape (N, n + 1)
        The posterior predictive distribution of k.
    information_N : ndarray, shape (N,)
        I = H[ E p(k|z, n) ] - E H[ p(k|z, n) ] in nats: high where networks are sure and disagree.
        At least 0, at most log(n + 1).
    """
    p_NK = np.empty((len(logit_NJ), n + 1))
    information_N = np.empty(len(logit_NJ))
    for part, p_KNJ, weight_NJ in _parts(logit_NJ, weight, n, overdispersion):
        p_NK[part] = np.einsum("knj,nj->nk", p_KNJ, weight_NJ)
        within_NJ = -xlogy(p_KNJ, p_KNJ, out=p_KNJ).sum(axis=0)
        within_N = np.einsum("nj,nj->n", within_NJ, weight_NJ)
        information_N[part] = -xlogy(p_NK[part], p_NK[part]).sum(axis=1) - within_N
    return p_NK, np.maximum(information_N, 0.0)


def _parts(
    logit_NJ: Array, weight: Array, n: int, overdispersion: float | Array
) -> Iterator[tuple[slice, Array, Array]]:
    """Some galaxies at a time: which, p(k | network) of shape (K, N, J), and their weights."""
    weight_NJ = np.broadcast_to(weight, logit_NJ.shape)
    scatter = np.asarray(overdispersion, dtype=np.float64)
    for part in _chunks(logit_NJ.shape, n):
        each = scatter[part, None] if scatter.ndim else scatter
        if n <= MOST_MULTIPLIED:
            p_KNJ = _votes(logit_NJ[part], n, each)
        else:
            p_KNJ = np.exp(np.moveaxis(log_votes(logit_NJ[part], n, each), -1, 0))
        yield part, p_KNJ, weight_NJ[part]


def _votes(logit_NJ: Array, n: int, overdispersion: Array) -> Array:
    """`log_votes` without logarithms: shape (n + 1, N, J).

    Products of (rho + i e) / (1 + i e), i < k, times those of (1 - rho + i e) / (1 + i e),
    i < n - k; what is left over does not depend on rho. Counts so unlikely that a product
    underflows come out as 0.
    """
    rho, other = expit(logit_NJ), expit(-logit_NJ)
    steps = overdispersion * np.arange(n)[:, None, None]
    yes = np.empty((n + 1, *logit_NJ.shape))
    no = np.empty_like(yes)
    yes[0] = no[0] = 1.0
    for i in range(n):
        np.multiply(yes[i], (rho + steps[i]) / (1 + steps[i]), out=yes[i + 1])
        np.multiply(no[i], (other + steps[i]) / (1 + steps[i]), out=no[i + 1])
    yes *= no[::-1]
    # Of the coefficient and the divisors: as logarithms, for neither alone need be a number.
    sums = np.concatenate([np.zeros_like(steps[:1]), np.cumsum(np.log1p(steps), axis=0)])
    k = np.arange(n + 1)
    choose_K = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    yes *= np.exp(choose_K[:, None, None] + sums + sums[::-1] - sums[-1])
    return yes


def mutual_information(
    logit_NJ: Array, weight: Array, n: int, overdispersion: float | Array = 0.0
) -> Array:
    """The information of `mixture` alone: shape (N,), in nats."""
    return mixture(logit_NJ, weight, n, overdispersion)[1]


def predictive(
    logit_NJ: Array, weight: Array, n: int, overdispersion: float | Array = 0.0
) -> Array:
    """The distribution of `mixture` alone, for less: shape (N, n + 1)."""
    p_NK = np.empty((len(logit_NJ), n + 1))
    for part, p_KNJ, weight_NJ in _parts(logit_NJ, weight, n, overdispersion):
        p_NK[part] = np.einsum("knj,nj->nk", p_KNJ, weight_NJ)
    return p_NK


def mean_fraction(logit_NJ: Array, weight: Array) -> Array:
    """The expected share of volunteers who give the answer: shape (N,)."""
    mean: Array = np.sum(expit(np.asarray(logit_NJ, dtype=np.float64)) * weight, axis=-1)
    return mean


def interval(p_NK: Array, level: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The equal-tailed credible interval of k.

    Parameters
    ----------
    p_NK : ndarray, shape (N, K)
        Probabilities of each count.
    level : float
        Such as 0.9.

    Returns
    -------
    low, high : ndarray of int, shape (N,)
        Both ends belong to the interval.
    """
    tail = (1 - level) / 2
    below = np.cumsum(p_NK, axis=-1)
    return np.argmax(below >= tail, axis=-1), np.argmax(below >= 1 - tail - 1e-12, axis=-1)


def inside(p_NK: Array, k_N: NDArray[np.integer[Any]], level: float) -> Array:
    """How much of each observed count lies in the central interval: shape (N,), 0 to 1.

    Counts are whole numbers, so the interval between two counts of them covers more than its name
    says even when the forecast is perfect. Here the count k takes up the stretch F(k - 1) to F(k)
    of the cumulative distribution, and what is counted is the share of it that lies between the
    tails. Its mean over galaxies is the level itself for a calibrated forecast.

    References
    ----------
    Czado, Gneiting & Held 2009, Biometrics 65, 1254: the non-randomised probability integral
    transform.
    """
    tail = (1 - level) / 2
    rows = np.arange(len(k_N))
    p_N = p_NK[rows, k_N]
    top_N = np.cumsum(p_NK, axis=-1)[rows, k_N]
    overlap = np.minimum(top_N, 1 - tail) - np.maximum(top_N - p_N, tail)
    return np.where(p_N > 0, np.clip(overlap, 0, None) / np.maximum(p_N, 1e-300), 0.0)


def _chunks(shape: tuple[int, ...], n: int) -> Iterator[slice]:
    """Galaxies in parts that keep the working arrays small, and in the processor's caches."""
    size = max(1, CHUNK_BYTES // (8 * shape[-1] * (n + 1)))
    for start in range(0, shape[0], size):
        yield slice(start, start + size)
