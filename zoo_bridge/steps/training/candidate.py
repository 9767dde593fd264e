"""A candidate: networks, and what they see in the galaxies that they are judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zoo_bridge.model.agreement import choose_estimator
from zoo_bridge.model.predict import features_of
from zoo_bridge.steps.context import Context
from zoo_bridge.steps.inputs import expected_votes
from zoo_bridge.steps.training.ensemble import learn_last_layers, train_ensemble
from zoo_bridge.steps.training.labelled import Array, Labelled

if TYPE_CHECKING:
    from zoo_bridge.model.network import Network
    from zoo_bridge.model.registry import Model
    from zoo_bridge.steps.training.trunks import Trunk


@dataclass(frozen=True)
class Candidate:
    """An ensemble that is to be judged: one that was just trained, or a model from disk.

    Parameters
    ----------
    networks : sequence of Network
        The ensemble, or one network.
    data : Labelled
        Galaxies with votes: it is judged by those that are held out.
    features : sequence of ndarray, shape (N, D)
        What each network sees in the held-out galaxies.
    estimator : dict
        How posteriors are computed of them: see `model.predict.choose_estimator`.
    agreement : dict
        How well the ranking by mutual information agrees with that of many masks.
    training : dict
        What is known of the training: galaxies, where it started, each network's epochs.
    """

    networks: Sequence[Network]
    data: Labelled
    features: Sequence[Array]
    estimator: dict[str, Any]
    agreement: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def trained(cls, ctx: Context, data: Labelled, identity: str) -> Candidate:
        """Train an ensemble on the galaxies that are not held out.

        Parameters
        ----------
        ctx : Context
            The settings, the ledger and the run that trains.
        data : Labelled
            Galaxies with votes, some of them held out.
        identity : str
            Of galaxies and settings: what a training that was killed goes on from must have had
            the same.
        """
        networks, training = train_ensemble(ctx, data, identity)
        features = [network.features(data.images[data.heldout]) for network in networks]
        return cls._of(ctx, data, networks, features, training)

    @classmethod
    def on_trunk(cls, ctx: Context, data: Labelled, trunk: Trunk) -> Candidate:
        """Learn the last layers alone, on what a trunk that stays sees in the galaxies."""
        networks, training = learn_last_layers(ctx, data, trunk)
        features = [features_ND[data.heldout] for features_ND in data.features]
        return cls._of(ctx, data, networks, features, training)

    @classmethod
    def _of(
        cls,
        ctx: Context,
        data: Labelled,
        networks: Sequence[Network],
        features: Sequence[Array],
        training: dict[str, Any],
    ) -> Candidate:
        votes = expected_votes(ctx)
        expected = [votes[question.name] for question in ctx.settings.question]
        estimator, agreement = choose_estimator(networks, features, expected, ctx.settings.seed)
        return cls(networks, data, features, estimator, agreement, training)

    @classmethod
    def of_model(cls, model: Model, data: Labelled) -> Candidate:
        """A model from disk, to be judged by the same galaxies."""
        if data.features and model.record.trunk == data.trunk:
            features = [features_ND[data.heldout] for features_ND in data.features]
        else:
            features = features_of(model, data.images[data.heldout])
        return cls(model.networks, data, features, model.record.estimator)
