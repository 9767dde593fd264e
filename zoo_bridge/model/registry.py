"""Models on disk: everything that is needed to use one again, and a card for people.

``models/<version>/`` holds ``weights.weights.h5``, ``model.json`` and ``card.md``. The
preprocessing is part of the model: using it with another is refused.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras

from zoo_bridge.errors import InputError, RefusedError
from zoo_bridge.files import digest_file, read_json, write_json, write_text
from zoo_bridge.model.network import Network

WEIGHTS = "weights.weights.h5"


@dataclass(frozen=True)
class Record:
    """What is known of a model: ``model.json``."""

    version: str
    network: str
    size: int
    channels: int
    dropout: float
    seed: int
    questions: list[dict[str, Any]]
    preprocessing: dict[str, Any]
    labels_digest: str
    training: dict[str, Any]
    metrics: dict[str, dict[str, float]]
    baselines: dict[str, dict[str, dict[str, float]]]
    verdict: str
    weights_digest: str = ""
    software: dict[str, str] = field(default_factory=dict)


def save(folder: Path, network: Network, record: Record) -> Record:
    """Write a model's folder, whole or not at all.

    Parameters
    ----------
    folder : Path
        ``models/<version>``.
    network : Network
        The weights.
    record : Record
        Everything else.

    Returns
    -------
    Record
        With the weights' digest and the software's versions.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        network.model.save_weights(scratch / WEIGHTS)
        software = {"keras": keras.__version__, "backend": keras.backend.backend()}
        values = {**asdict(record), "weights_digest": digest_file(scratch / WEIGHTS)}
        complete = Record(**{**values, "software": software})
        write_json(scratch / "model.json", asdict(complete))
        write_text(scratch / "card.md", card(complete))
        scratch.chmod(0o755)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return complete


def read_record(folder: Path) -> Record:
    """A model's record.

    Raises
    ------
    InputError
        If it is not there or not whole.
    """
    try:
        return Record(**read_json(folder / "model.json"))
    except (OSError, TypeError, json.JSONDecodeError) as error:
        raise InputError(
            f"The model in {folder} cannot be read: {error}.",
            "Use another with: zoo-bridge rollback, or train anew with: zoo-bridge run retrain.",
        ) from None


def load(folder: Path, preprocessing: dict[str, Any]) -> tuple[Network, Record]:
    """Load a model to use it with a preprocessing.

    Parameters
    ----------
    folder : Path
        ``models/<version>``.
    preprocessing : dict
        What the images to come are made with.

    Returns
    -------
    network : Network
    record : Record

    Raises
    ------
    RefusedError
        If the model was trained with another preprocessing.
    InputError
        If it cannot be loaded.
    """
    record = read_record(folder)
    if record.preprocessing != preprocessing:
        changed = [
            f"{name} {record.preprocessing.get(name)!r} -> {preprocessing.get(name)!r}"
            for name in sorted({*record.preprocessing, *preprocessing})
            if record.preprocessing.get(name) != preprocessing.get(name)
        ]
        raise RefusedError(
            f"The model {record.version} was trained with other cutouts: {', '.join(changed)}.",
            "Set [cutouts] back, or train a model for the new ones: zoo-bridge run retrain.",
        )
    path = folder / WEIGHTS
    if not path.exists() or digest_file(path) != record.weights_digest:
        raise InputError(
            f"The weights of the model {record.version} are missing or damaged ({path}).",
            "Use another with: zoo-bridge rollback, or train anew with: zoo-bridge run retrain.",
        )
    network = Network(
        record.network,
        record.size,
        record.channels,
        len(record.questions),
        record.dropout,
        record.seed,
    )
    network.model.load_weights(path)
    return network, record


def card(record: Record) -> str:
    """A model card in Markdown."""
    lines = [
        f"# Model {record.version}",
        "",
        f"- Network: {record.network}, {record.size} px, {record.channels} channel(s), "
        f"dropout {record.dropout}",
        f"- Trained on {record.training['galaxies']} galaxies, best epoch "
        f"{record.training['best_epoch']} of {record.training['epochs']}, seed {record.seed}",
        f"- Labels: {record.labels_digest}; weights: {record.weights_digest}",
        f"- Software: {', '.join(f'{name} {value}' for name, value in record.software.items())}",
        "- Posterior: analytic over dropout (normally distributed logit, trapezoidal quadrature)",
        f"- Gate: {record.verdict}",
        "",
        "| question | model | log-likelihood | RMSE | bias | inside 50 / 80 / 90 % |",
        "|---|---|---|---|---|---|",
    ]
    for question, metrics in record.metrics.items():
        rows = {"this": metrics, **record.baselines.get(question, {})}
        for name, row in rows.items():
            inside = " / ".join(f"{row[f'coverage_{level}']:.2f}" for level in (50, 80, 90))
            lines.append(
                f"| {question} | {name} | {row['log_likelihood']:.3f} | {row['rmse']:.3f} "
                f"| {row['bias']:+.3f} | {inside} |"
            )
    held = next(iter(record.metrics.values()), {}).get("galaxies", 0)
    lines += ["", f"Measured on {held} held-out galaxies (log-likelihood in nats a galaxy)."]
    return "\n".join(lines) + "\n"
