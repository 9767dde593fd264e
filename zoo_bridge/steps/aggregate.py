"""Aggregate: exports to votes, votes to labels, in ``labels/``."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from zoo_bridge.errors import InputError
from zoo_bridge.files import digest_file, digest_value, write_json
from zoo_bridge.ledger import Artifact
from zoo_bridge.steps.context import (
    Context,
    Result,
    already_done,
    settings_digest,
    unchanged,
)
from zoo_bridge.steps.counting.answers_now import Present, declared, require_known
from zoo_bridge.steps.counting.describe import describe
from zoo_bridge.steps.counting.limits import check_tally, check_versions
from zoo_bridge.steps.counting.matching import Matching, match_labels
from zoo_bridge.steps.counting.sources import Sources, find_sources, rules_of
from zoo_bridge.steps.inputs import read_labels
from zoo_bridge.tables import LABELS, REJECTS, VOTES, TableWriter, read_table, write_table
from zoo_bridge.votes.labels import aggregate as count
from zoo_bridge.votes.read import Source
from zoo_bridge.votes.rules import Question, Rules, Texts
from zoo_bridge.votes.subjects import Objects, Subjects
from zoo_bridge.votes.tally import Tally
from zoo_bridge.votes.workflows import read_texts


def aggregate(ctx: Context) -> Result:
    """Turn the newest exports, or files named on the command line, into labels.

    Parameters
    ----------
    ctx : Context
        The settings, the ledger and what the command line asked for.

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
    sources = find_sources(ctx)
    inputs = sources.digest
    sections = settings_digest(ctx.settings, "votes", "question", "project")
    settings = digest_value([sections, ctx.settings.upload.metadata_key])
    if done := already_done(ctx, "aggregate", "labels", inputs, settings):
        return unchanged(
            f"the labels {done.name} are those of these exports", done, inputs, settings
        )
    rules = rules_of(ctx, sources)
    questions = declared(ctx.settings)
    others = ctx.settings.other_workflows
    texts, unread_versions = read_texts(sources.workflows, rules.workflow, others)
    check_versions(ctx, sources, texts, unread_versions)
    for workflow in (rules.workflow, *others):
        of = texts.of(workflow)
        present = sources.present.get(workflow) or Present.of_texts(workflow, of)
        if present is not None:
            require_known(present.differences(questions, of))
    subjects = Subjects(rules.object_id_keys)
    unread = subjects.read_export(sources.subjects) if sources.subjects else []
    with _scratch(ctx.work / "labels") as scratch:
        folder = scratch / "labels"
        path = folder / "labels.parquet"
        with (
            TableWriter(folder / "votes.parquet", VOTES) as votes,
            TableWriter(path, LABELS) as labels,
        ):
            objects, tally = _read(
                ctx, sources, questions, rules, texts, subjects, scratch / "rows", votes, labels
            )
        check_tally(ctx, tally, (*sources.classifications, *sources.since), questions, texts)
        facts = _summary(ctx, tally, objects, questions, texts)
        table = pl.DataFrame(read_table(path, LABELS))
        matching = match_labels(ctx.settings, table["object_id"], subjects.carried)
        if isinstance(matching, Matching):
            facts["survey"] = matching.as_facts()
            if matching.share < ctx.settings.upload.min_survey_share:
                ctx.warn(f"{matching.text}. {matching.proposal(ctx.settings)}")
        else:
            facts["survey"] = None
            ctx.say(f"whether labelled objects are in the survey is not known: {matching}")
        facts["unreadable_subjects"] = len(unread)
        facts["unreadable_versions"] = len(unread_versions)
        for line in describe(facts):
            ctx.say(line)
        balances = tally.balances()
        message = f"{facts['votes']} votes on {facts['subjects']} subjects"
        if ctx.options.dry_run:
            return Result("planned", f"would keep {message}", facts, balances)
        last = ctx.ledger.newest("labels")
        same = last is not None and _say_the_same(last, table)
        counted = ctx.ledger.last_done("aggregate")
        by_these = counted is not None and counted.settings_digest == settings
        idle = same and by_these and not ctx.options.force
        if last is not None and idle and _as_kept(facts) == last.facts:
            # Exports change every day though nobody votes.
            told = unchanged(f"the same votes as before: {message}", last, inputs, settings)
            return replace(told, counts=facts, balances=balances)
        rejects = pa.Table.from_pylist([*tally.rejects, *unread, *unread_versions], schema=REJECTS)
        write_table(folder / "rejects.parquet", rejects, REJECTS)
        write_json(folder / "summary.json", facts)
        # A newer pyarrow writes other bytes: labels that say the same are the same.
        digest = last.digest if last is not None and same else digest_file(path)
        # The folder appears whole.
        folder = folder.rename(ctx.work / "labels" / ctx.run_id)
    ctx.ledger.add_artifact("labels", ctx.run_id, folder, digest, ctx.run_id, facts)
    return Result("done", message, facts, balances, ctx.run_id, inputs, settings)


def _read(
    ctx: Context,
    sources: Sources,
    questions: list[Question],
    rules: Rules,
    texts: Texts,
    subjects: Subjects,
    scratch: Path,
    votes: TableWriter,
    labels: TableWriter,
) -> tuple[Objects, Tally]:
    files = [Source(path) for path in sources.classifications]
    files += [Source(path, raw=True) for path in sources.since]
    size = sum(source.path.stat().st_size for source in files)
    with ctx.progress.bar("votes (bytes)", size) as tick:
        return count(
            files,
            questions,
            rules,
            scratch,
            keep_labels=labels.write,
            keep_votes=votes.write,
            texts=texts,
            subjects=subjects,
            tick=tick,
            reach=sources.reach,
        )


def _say_the_same(last: Artifact, table: pl.DataFrame) -> bool:
    """Whether a table of labels says what the last one says, in whatever order.

    The order hangs on how many buckets of subjects there were, and so on the size of an export.
    """
    try:
        return read_labels(last).sort(LABELS.names).equals(table.sort(LABELS.names))
    except InputError:
        # The last one cannot be read any more.
        return False


def _as_kept(facts: dict[str, Any]) -> Any:
    """Facts as they come back from the ledger."""
    return json.loads(json.dumps(facts))


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder that is gone afterwards; one that a killed run left behind is cleared away too."""
    for left in folder.glob(".scratch-*"):
        shutil.rmtree(left, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".scratch-", dir=folder) as name:
        yield Path(name)


def _summary(
    ctx: Context, tally: Tally, objects: Objects, questions: list[Question], texts: Texts
) -> dict[str, Any]:
    facts = tally.summary(questions, texts)
    return {
        **facts,
        "votes": sum(fate["votes"] for fate in facts["questions"].values()),
        "repeats": {name: fate["repeats"] for name, fate in facts["questions"].items()},
        "subjects": len(objects.table),
        "objects": objects.table["object_id"].n_unique(),
        "object_ids": {"same_object": ctx.settings.votes.same_object, **objects.summary()},
    }
