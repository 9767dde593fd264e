"""What is known of a model: its record and its card, read without Keras."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo_bridge.errors import InputError, RefusedError
from zoo_bridge.files import digest_file, read_json
from zoo_bridge.model.design import Design
from zoo_bridge.model.last_layer import LastLayer


@dataclass(frozen=True)
class Record:
    """What is known of a model: ``model.json``.

    ``trunk`` names what turns cutouts into features: the same for models whose last layers alone
    differ. ``estimator`` says how the posterior over dropout masks is computed, ``agreement`` how
    well that agrees with many sampled networks; ``calibration`` holds error bars' numbers by
    question and answer, ``metrics`` the target answers' by question, ``answers`` each answer's by
    question.
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
    trunk: str = ""

    @property
    def heads(self) -> list[dict[str, Any]]:
        """The questions, as `Head.as_dict` gives them."""
        return list(self.design["heads"])


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


def weights_name(member: int) -> str:
    """The file of one network's weights."""
    return f"weights-{member}.weights.h5"


def layer_name(member: int) -> str:
    """The file of one network's last layer."""
    return f"last-layer-{member}.npz"


def check_whole(folder: Path, record: Record, preprocessing: dict[str, Any]) -> None:
    """Raise if a model is not for this preprocessing, or its files are not what they were.

    Raises
    ------
    RefusedError
        If it was trained with another preprocessing.
    InputError
        If a file is missing or damaged.
    """
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


def cannot_load(record: Record, error: Exception) -> InputError:
    """What to say of a model that cannot be loaded."""
    return InputError(
        f"The model {record.version} cannot be loaded: {error}.",
        "Use another with: zoo-bridge rollback, or train anew with: zoo-bridge run retrain.",
    )


@dataclass(frozen=True)
class Reader:
    """A model of which only the last layers are needed: features are there already."""

    networks: list[LastLayer]
    record: Record


def open_reader(folder: Path, preprocessing: dict[str, Any]) -> Reader | None:
    """Open a model to go on from features; without Keras.

    Parameters
    ----------
    folder : Path
        ``models/<version>``.
    preprocessing : dict
        What the cutouts were made with that the features are of.

    Returns
    -------
    Reader, or None
        None of a model that an earlier version wrote.

    Raises
    ------
    RefusedError, InputError
        As `check_whole`.
    """
    record = read_record(folder)
    if layer_name(0) not in record.digests:
        return None
    check_whole(folder, record, preprocessing)
    try:
        design = Design.from_dict(record.design)
        layers = [folder / layer_name(member) for member in range(len(record.seeds))]
        return Reader([LastLayer.load(path, design) for path in layers], record)
    except (OSError, TypeError, ValueError, KeyError) as error:
        raise cannot_load(record, error) from None


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
    views = design.get("views", 1)
    lines = [
        f"# Model {record.version}",
        "",
        f"- Network: {design['name']}, {design['size']} px, {design['channels']} channel(s), "
        f"dropout {design['dropout']}, {len(record.seeds)} network(s), "
        f"{design['likelihood']} likelihood"
        + (f", galaxies seen from {views} sides" if views > 1 else ""),
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
