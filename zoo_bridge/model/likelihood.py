"""The binomial negative log-likelihood of k of n votes, from the logit.

``-(k log rho + (n - k) log(1 - rho)) = n softplus(z) - k z``. It is not divided by n, so a galaxy
with 40 votes counts more than one with 4, and n = 0 adds nothing. The binomial coefficient, which
does not depend on the network, is left out of the loss.

References
----------
Walmsley et al. 2020, MNRAS 491, 1554, equation 4.
"""

from __future__ import annotations

from typing import Any

from keras import ops


def binomial_loss(k_and_n: Any, logits: Any) -> Any:
    """The loss of each galaxy, all questions together.

    Parameters
    ----------
    k_and_n : tensor, shape (batch, 2 Q)
        The k of every question, then the n of every question.
    logits : tensor, shape (batch, Q)
        What the network says.

    Returns
    -------
    tensor, shape (batch,)
        In nats, without the binomial coefficient.
    """
    k, n = ops.split(ops.cast(k_and_n, logits.dtype), 2, axis=-1)
    return ops.sum(n * ops.softplus(logits) - k * logits, axis=-1)
