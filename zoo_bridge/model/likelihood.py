"""The negative log-likelihood of votes, from logits.

Binomial: ``-(k log rho + (n - k) log(1 - rho)) = n softplus(z) - k z``. It is not divided by n, so
a galaxy with 40 votes counts more than one with 4, and n = 0 adds nothing. With more answers than
two: the multinomial of a softmax.

Overdispersed: the beta-binomial, or Dirichlet-multinomial, with mean rho and concentration
s = 1 / e. Written with e it needs no gamma function and stays exact as e goes to 0::

    -sum_a sum_{i<k_a} log(rho_a + i e) + sum_{i<n} log(1 + i e)

Coefficients that do not depend on the network are left out.

References
----------
Walmsley et al. 2020, MNRAS 491, 1554, equation 4; Walmsley et al. 2022, MNRAS 509, 3966.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from zoo_bridge.model.backend import ops
from zoo_bridge.model.heads import Head, logit_slices, vote_slices

Loss = Callable[[Any, Any], Any]


def votes_loss(heads: Sequence[Head], likelihood: str, most: int) -> Loss:
    """The loss of each galaxy, all questions together.

    Parameters
    ----------
    heads : sequence of Head
        The questions, in the order of the votes.
    likelihood : str
        ``binomial`` (with more answers: multinomial), or ``beta-binomial`` (Dirichlet-multinomial).
    most : int
        No galaxy has more votes on a question.

    Returns
    -------
    callable
        From votes (batch, V) and the network's output (batch, L), or (batch, L + Q) with the
        logarithm of each question's overdispersion e at the end, to (batch,), nats.
    """

    def loss(votes: Any, output: Any) -> Any:
        votes = ops.cast(votes, output.dtype)
        total = 0.0
        places = zip(heads, logit_slices(heads), vote_slices(heads), strict=True)
        for place, (head, at, counted) in enumerate(places):
            k, n = votes[:, counted][:, :-1], votes[:, counted][:, -1:]
            log_e = None
            if likelihood == "beta-binomial":
                log_e = output[:, output.shape[-1] - len(heads) + place][:, None]
            total = total + _of_question(head, k, n, output[:, at], log_e, most)
        return total

    return loss


def _of_question(head: Head, k: Any, n: Any, logits: Any, log_e: Any, most: int) -> Any:
    if head.kind == "softmax":
        log_rho = ops.log_softmax(logits, axis=-1)
        if log_e is None:
            return -ops.sum(k * log_rho, axis=-1)
        return ops.sum(_rising(ops.zeros_like(n), n, log_e, most), axis=-1) - ops.sum(
            _rising(log_rho, k, log_e, most), axis=-1
        )
    if head.kind == "sigmoid":
        k = k[:, head.target_place : head.target_place + 1]
    if log_e is None:
        return ops.sum(n * ops.softplus(logits) - k * logits, axis=-1)
    yes = _rising(ops.log_sigmoid(logits), k, log_e, most)
    no = _rising(ops.log_sigmoid(-logits), n - k, log_e, most)
    return ops.sum(_rising(ops.zeros_like(n), n, log_e, most) - yes - no, axis=-1)


def _rising(log_rho: Any, count: Any, log_e: Any, most: int) -> Any:
    """sum_{i < count} log(rho + i e), the shape of ``count``; i = 0 from the logarithm of rho."""
    steps = ops.cast(ops.arange(1, max(most, 2)), log_rho.dtype)
    logs = ops.log(ops.exp(log_rho)[..., None] + ops.exp(log_e)[..., None] * steps)
    counted = ops.cast(steps < count[..., None], log_rho.dtype)
    return ops.where(count > 0, log_rho, ops.zeros_like(log_rho)) + ops.sum(logs * counted, axis=-1)
