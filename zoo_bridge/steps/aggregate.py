"""Aggregate: exports to votes, votes to labels, in ``labels/``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from zoo_bridge.errors import InputError, NotReadyError
from zoo_bridge.files import digest_file, digest_value, write_json
from zoo_bridge.steps.context import (
    Balance,
    Context,
    Result,
    already_done,
    settings_digest,
    unchanged,
)
from zoo_bridge.tables import LABELS, REJECTS, VOTES, write_table
from zoo_bridge.votes.labels import count, votes_table
from zoo_bridge.votes.read import Tally, Votes, read_labels, read_objects, read_votes
from zoo_bridge.votes.rules import Question, Rules


@dataclass(frozen=True)
class Sources:
    """The export files of one aggregation."""

    classifications: tuple[Path, ...]
    subjects: Path | None
    workflows: Path | None

    @property
    def digest(self) -> str:
        """The same for the same content."""
        files = [*self.classifications, self.subjects, self.workflows]
        return digest_value([digest_file(path) if path else None for path in files])


def aggregate(ctx: Context) -> Result:
    """Turn the newest exports, or files named on the command line, into labels.

    Parameters
    ----------
    ctx : Context
        The run.

    Returns
    -------
    Result
        The artifact ``labels`` is a folder with labels, votes, rejects and a summary.

    Raises
    ------
    NotReadyError
        If nothing was pulled yet.
    InputError
        If an export is empty, is something else, or too much of it cannot be read.
    """
    sources = _sources(ctx)
    inputs = sources.digest
    settings = settings_digest(ctx.settings, "votes", "question", "project")
    if done := already_done(ctx, "aggregate", "labels", inputs, settings):
        return unchanged(
            f"the labels {done.name} are those of these exports", done, inputs, settings
        )
    questions = [Question.declare(q.name, q.task, q.answers) for q in ctx.settings.question]
    rules = _rules(ctx)
    labels = read_labels(sources.workflows, rules.workflow) if sources.workflows else {}
    objects = read_objects(sources.subjects, rules.object_id_keys) if sources.subjects else {}
    with ctx.progress.bar("reading votes"):
        votes = read_votes(sources.classifications, questions, rules, labels, objects)
    tally = votes.tally
    _check_tally(ctx, tally, sources.classifications)
    answers = {q.name: list(q.answers) for q in ctx.settings.question}
    table = count(votes.table, votes.objects, answers)
    facts = _summary(votes, table)
    for line in describe(facts):
        ctx.say(line)
    balances = _balances(votes)
    message = f"{facts['votes']} votes on {facts['subjects']} subjects"
    if ctx.options.dry_run:
        return Result("planned", f"would keep {message}", facts, balances)
    folder = ctx.work / "labels" / ctx.run_id
    write_table(folder / "votes.parquet", votes_table(votes.table), VOTES)
    rejects = pa.Table.from_pylist(tally.rejects, schema=REJECTS)
    write_table(folder / "rejects.parquet", rejects, REJECTS)
    write_json(folder / "summary.json", facts)
    path = write_table(folder / "labels.parquet", table, LABELS)
    digest = digest_file(path)
    ctx.ledger.add_artifact("labels", ctx.run_id, folder, digest, ctx.run_id, facts)
    return Result("done", message, facts, balances, ctx.run_id, inputs, settings)


def _sources(ctx: Context) -> Sources:
    options = ctx.options
    if options.exports:
        for path in (*options.exports, options.subjects, options.workflows):
            if path is not None and not path.is_file():
                raise InputError(f"There is no file {path}.", "Correct the name.")
        return Sources(options.exports, options.subjects, options.workflows)
    artifact = ctx.ledger.newest("exports")
    if artifact is None:
        raise NotReadyError(
            "There are no exports to aggregate.",
            "Fetch them with: zoo-bridge run pull, or name a file with --export.",
        )
    files = {kind: ctx.work / name for kind, name in artifact.facts["files"].items()}
    return Sources((files["classifications"],), files["subjects"], files["workflows"])


def _rules(ctx: Context) -> Rules:
    votes = ctx.settings.votes
    return Rules(
        workflow=ctx.settings.project.workflow,
        first_version=votes.first_version,
        before_launch=votes.before_launch,
        training_subjects=votes.training_subjects,
        gold_standard=votes.gold_standard,
        excluded_users=frozenset(votes.excluded_users),
        repeats=votes.repeats,
        anonymous_repeats=votes.anonymous_repeats,
        object_id_keys=tuple(
            dict.fromkeys([ctx.settings.upload.metadata_key, *votes.object_id_keys])
        ),
    )


def _check_tally(ctx: Context, tally: Tally, paths: Sequence[Path]) -> None:
    names = ", ".join(path.name for path in paths)
    if tally.rows == 0:
        raise InputError(
            f"The classifications export {names} is empty.",
            "Has the workflow been classified? Try another export.",
        )
    bad, allowed = tally.dropped["unreadable"], ctx.settings.votes.max_reject_share
    if bad > allowed * tally.rows:
        first = tally.rejects[0]
        raise InputError(
            f"{bad} of {tally.rows} rows of {names} cannot be read, the first at {first['uri']}: "
            f"{first['detail']}.",
            "Download the export anew, or raise votes.max_reject_share to go on without them.",
        )
    if not tally.used:
        reasons = ", ".join(f"{reason} {rows}" for reason, rows in tally.dropped.most_common())
        raise InputError(
            f"None of the {tally.rows} rows of {names} counts: {reasons}.",
            "Check project.workflow and the [votes] table.",
        )


def _balances(votes: Votes) -> list[Balance]:
    tally = votes.tally
    kept = dict(votes.table["question"].value_counts().iter_rows())
    balances = [Balance("rows", tally.rows, {"used": tally.used, **tally.dropped})]
    names = {*tally.answered, *tally.absent, *tally.unmatched}
    for name in sorted(names):
        parts = {
            "votes": kept.get(name, 0),
            "repeats": tally.repeats[name],
            "not answered": tally.absent[name],
            "unmatched": tally.unmatched[name],
        }
        balances.append(Balance(f"used rows ({name})", tally.used, parts))
    return balances


def _summary(votes: Votes, labels: pa.Table) -> dict[str, Any]:
    tally = votes.tally
    return {
        "rows": tally.rows,
        "used": tally.used,
        "dropped": dict(tally.dropped),
        "votes": len(votes.table),
        "subjects": len(set(labels["subject_id"].to_pylist())),
        "repeats": dict(tally.repeats),
        "not_answered": dict(tally.absent),
        "unmatched": dict(tally.unmatched),
        "unmatched_examples": tally.unmatched_examples,
    }


def describe(facts: dict[str, Any]) -> list[str]:
    """A few lines on what became of the rows."""
    dropped = ", ".join(f"{reason} {rows}" for reason, rows in facts["dropped"].items()) or "none"
    lines = [f"{facts['rows']} rows: {facts['used']} used, set aside: {dropped}"]
    for question, number in facts["unmatched"].items():
        examples = "; ".join(facts["unmatched_examples"].get(question, []))
        lines.append(f"{question}: {number} answers match no alias, such as {examples}")
    return lines
