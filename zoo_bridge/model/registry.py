"""Models on disk: everything that is needed to use one again, and a card for people.

``models/<version>/`` holds ``weights-<member>.weights.h5`` of each network of the ensemble,
``model.json``, ``card.md`` and ``figures/``; and, where an inference runtime is used, its own form
of the trunks. The preprocessing is part of the model: using it with another is refused.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from zoo_bridge.errors import InputError, RefusedError
from zoo_bridge.files import digest_file, read_json, write_json, write_text
from zoo_bridge.model import runtime
from zoo_bridge.model.backend import keras
from zoo_bridge.model.network import Design, Network
from zoo_bridge.version import __version__


@dataclass(frozen=True)
class Record:
    """What is known of a model: ``model.json``.

    ``estimator`` says how the posterior over dropout masks is computed, ``agreement`` how well that
    agrees with many sampled networks; ``calibration`` holds error bars' numbers by question and
    answer, ``metrics`` the target answers' by question, ``answers`` each answer's by question.
    """

    version: str
    design: dict[str, Any]
    seeds: list[int]
    preprocessing: dict[str, Any]
    labels_digest: str
    training: dict[str, Any]
    estimator: dict[str, Any]
    agreement: dict[str, Any]
    calibration: dict[str, dict[str, Any]]
    metrics: dict[str, dict[str, float]]
    baselines: dict[str, dict[str, dict[str, float]]]
    verdict: str
    runtime: str = "keras"
    digests: dict[str, str] = field(default_factory=dict)
    software: dict[str, str] = field(default_factory=dict)
    answers: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)

    @property
    def heads(self) -> list[dict[str, Any]]:
        """The questions, as `Head.as_dict` gives them."""
        return list(self.design["heads"])


def weights_name(member: int) -> str:
    """The file of one network's weights."""
    return f"weights-{member}.weights.h5"


def save(
    folder: Path,
    networks: Sequence[Network],
    record: Record,
    figures: Mapping[str, bytes] | None = None,
) -> Record:
    """Write a model's folder, whole or not at all.

    Parameters
    ----------
    folder : Path
        ``models/<version>``, which appears when it is complete.
    networks : sequence of Network
        The weights. For a runtime other than Keras their trunks are exported too.
    record : Record
        What is kept beside the weights: design, preprocessing, calibration, metrics.
    figures : mapping of str to bytes, optional
        PNG files by name.

    Returns
    -------
    Record
        With the files' digests and the software's versions.

    Raises
    ------
    RefusedError
        If the runtime's outputs do not agree with Keras'.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        software = {
            "keras": keras.__version__,
            "backend": keras.backend.backend(),
            "zoo_bridge": __version__,
        }
        for member, network in enumerate(networks):
            network.model.save_weights(scratch / weights_name(member))
            if record.runtime != "keras":
                software |= runtime.export(network, record.runtime, scratch, member)
        digests = {path.name: digest_file(path) for path in sorted(scratch.iterdir())}
        complete = Record(**{**asdict(record), "digests": digests, "software": software})
        write_json(scratch / "model.json", asdict(complete))
        write_text(scratch / "card.md", card(complete, sorted(figures or {})))
        for name, content in (figures or {}).items():
            (scratch / "figures").mkdir(exist_ok=True)
            (scratch / "figures" / name).write_bytes(content)
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


@dataclass(frozen=True)
class Model:
    """A model that can be used: its networks, and what makes features of images."""

    networks: list[Network]
    record: Record
    trunks: list[runtime.Trunk]


def load(folder: Path, preprocessing: dict[str, Any], engine: str = "keras") -> Model:
    """Load a model to use it with a preprocessing.

    Parameters
    ----------
    folder : Path
        ``models/<version>``, as `save` wrote it.
    preprocessing : dict
        What the images to come are made with.
    engine : str
        What runs the trunk: keras, openvino or onnxruntime.

    Returns
    -------
    Model

    Raises
    ------
    RefusedError
        If the model was trained with another preprocessing, or was not exported for the runtime.
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
    for name, digest in record.digests.items():
        if not (folder / name).exists() or digest_file(folder / name) != digest:
            raise InputError(
                f"The weights of the model {record.version} are missing or damaged "
                f"({folder / name}).",
                "Use another with: zoo-bridge rollback, or train anew with: "
                "zoo-bridge run retrain.",
            )
    if engine not in ("keras", record.runtime):
        raise RefusedError(
            f"The model {record.version} was registered for {record.runtime}, not for {engine}.",
            "Set score.runtime back, or register a model for it: zoo-bridge run retrain --force.",
        )
    networks = []
    try:
        design = Design.from_dict(record.design)
        for member, seed in enumerate(record.seeds):
            networks.append(Network(design, seed))
            networks[-1].model.load_weights(folder / weights_name(member))
    except (OSError, TypeError, ValueError, KeyError) as error:
        raise InputError(
            f"The model {record.version} cannot be loaded: {error}.",
            "Use another with: zoo-bridge rollback, or train anew with: zoo-bridge run retrain.",
        ) from None
    trunks = [
        runtime.open_trunk(network, engine, folder, member)
        for member, network in enumerate(networks)
    ]
    return Model(networks, record, trunks)


def calibration_by_answer(record: Record, question: str) -> dict[str, dict[str, float]]:
    """The numbers of a question's error bars for each answer; none if it has none.

    Models of earlier versions have one set for all answers.
    """
    known = record.calibration.get(question, {})
    if all(isinstance(numbers, dict) for numbers in known.values()):
        return known
    answers = next(head["answers"] for head in record.heads if head["name"] == question)
    return dict.fromkeys(answers, known)


def card(record: Record, figures: Sequence[str] = ()) -> str:
    """A model card in Markdown."""
    design, training = record.design, record.training
    best = ", ".join(
        f"{member['best_epoch']} of {member['epochs']}" for member in training["members"]
    )
    lines = [
        f"# Model {record.version}",
        "",
        f"- Network: {design['name']}, {design['size']} px, {design['channels']} channel(s), "
        f"dropout {design['dropout']}, {len(record.seeds)} network(s), "
        f"{design['likelihood']} likelihood",
        f"- Trained on {training['galaxies']} galaxies from {training['start']}; best epoch "
        f"{best}; seeds {', '.join(map(str, record.seeds))}",
        f"- Labels: {record.labels_digest}",
        f"- Software: {', '.join(f'{name} {value}' for name, value in record.software.items())}; "
        f"scored with {record.runtime}",
        f"- Posterior: {_posterior(record)}",
    ]
    if record.agreement:
        lines.append(f"- Ranking: {_agreement(record.agreement)}")
    for question in record.calibration:
        for answer, numbers in calibration_by_answer(record, question).items():
            told = ", ".join(f"{name} {value:.3g}" for name, value in numbers.items())
            lines.append(
                f"- Error bars of {question}, {answer}, fitted on held-out galaxies: {told}"
            )
    lines += [
        f"- Gate: {record.verdict}",
        "",
        *_header("model"),
    ]
    for question, metrics in record.metrics.items():
        rows = {"**this**": metrics, **record.baselines.get(question, {})}
        lines += [_row(question, name, row) for name, row in rows.items()]
    lines += _of_answers(record)
    held = next(iter(record.metrics.values()), {}).get("galaxies", 0)
    lines += [
        "",
        f"Measured on {held:.0f} held-out galaxies (log-likelihood in nats a galaxy; in brackets "
        "90 % bootstrap intervals over galaxies). Calibrated on one half of them for the other.",
        *[f"\n![{name.removesuffix('.png')}](figures/{name})" for name in figures],
    ]
    return "\n".join(lines) + "\n"


def _header(what: str) -> list[str]:
    return [
        f"| question | {what} | log-likelihood | RMSE | bias | inside 50 / 80 / 90 % |",
        "|---|---|---|---|---|---|",
    ]


def _row(question: str, name: str, row: dict[str, float]) -> str:
    inside = " / ".join(f"{row[f'coverage_{level}']:.3f}" for level in (50, 80, 90))
    return (
        f"| {question} | {name} | {_with_ends(row, 'log_likelihood')} "
        f"| {_with_ends(row, 'rmse')} | {row['bias']:+.3f} | {inside} |"
    )


def _of_answers(record: Record) -> list[str]:
    """A table of every answer, if a question has more than its target to tell of."""
    if all(len(answers) < 2 for answers in record.answers.values()):
        return []
    return [
        "",
        *_header("answer"),
        *[
            _row(question, answer, row)
            for question, answers in record.answers.items()
            for answer, row in answers.items()
        ],
    ]


def _posterior(record: Record) -> str:
    """How it is computed, in words."""
    linear = [head["multiple"] or len(head["answers"]) == 2 for head in record.heads]
    if record.estimator["kind"] != "analytic" or not any(linear):
        return "balanced dropout masks, the same for every galaxy"
    analytic = "all dropout masks at once, a galaxy's largest terms enumerated and the rest normal"
    if all(linear):
        return analytic
    return f"{analytic}; for more than two answers balanced masks, the same for every galaxy"


def _with_ends(row: dict[str, float], name: str) -> str:
    return f"{row[name]:.3f} ({row[f'{name}_lo']:.3f} to {row[f'{name}_hi']:.3f})"


def _agreement(agreement: dict[str, Any]) -> str:
    drawn = f" and {agreement['drawn']} drawn between them" if agreement.get("drawn") else ""
    least = f"; of all answers {agreement['answer']} agrees least" if "answer" in agreement else ""
    return (
        f"against {agreement['networks']} masks on {agreement['galaxies']} held-out galaxies"
        f"{drawn} the estimator in use shares {agreement['top_5_percent']:.0%} of the top 5 % "
        f"(their own halves share {agreement['halves_top_5_percent']:.0%}), Spearman "
        f"{agreement['spearman']:.4f}{least}"
    )
