"""One count: exports read from end to end, votes and labels written, nothing lost."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from zoo_bridge.files import write_json
from zoo_bridge.steps.context import Context
from zoo_bridge.steps.counting.answers_now import Present, declared, require_known
from zoo_bridge.steps.counting.limits import check_tally, check_versions
from zoo_bridge.steps.counting.matching import Matching, match_labels
from zoo_bridge.steps.counting.sources import Sources, rules_of
from zoo_bridge.tables import LABELS, REJECTS, VOTES, TableWriter, read_table, write_table
from zoo_bridge.votes.labels import aggregate
from zoo_bridge.votes.read import Source
from zoo_bridge.votes.rules import Question, Texts
from zoo_bridge.votes.subjects import Objects, Subjects
from zoo_bridge.votes.tally import Tally
from zoo_bridge.votes.workflows import read_texts

Rejects = list[dict[str, str]]


@dataclass(frozen=True)
class Count:
    """What came of a count, before it is an artifact.

    Parameters
    ----------
    folder : Path
        Holds ``votes.parquet`` and ``labels.parquet``.
    questions : list of Question
        What was counted.
    texts : Texts
        The labels of answers, by workflow version.
    subjects : Subjects
        What the subjects' metadata say.
    objects : Objects
        Which object each subject shows.
    tally : Tally
        What became of every row and answer.
    unread_subjects, unread_versions : list of dict
        Rows of the other two exports that cannot be read, as rejects.
    """

    folder: Path
    questions: list[Question]
    texts: Texts
    subjects: Subjects
    objects: Objects
    tally: Tally
    unread_subjects: Rejects
    unread_versions: Rejects

    @property
    def path(self) -> Path:
        """The file of labels."""
        return self.folder / "labels.parquet"

    @property
    def labels(self) -> pl.DataFrame:
        """The labels, read back."""
        return pl.DataFrame(read_table(self.path, LABELS))

    def facts(self, ctx: Context) -> dict[str, Any]:
        """Everything that is counted, for the ledger and for people.

        Whether the labels meet the survey is looked up, and warned of.
        """
        facts = self.tally.summary(self.questions, self.texts)
        return {
            **facts,
            "votes": sum(fate["votes"] for fate in facts["questions"].values()),
            "repeats": {name: fate["repeats"] for name, fate in facts["questions"].items()},
            "subjects": len(self.objects.table),
            "objects": self.objects.table["object_id"].n_unique(),
            "object_ids": {
                "same_object": ctx.settings.votes.same_object,
                **self.objects.summary(),
            },
            "survey": self._meets_survey(ctx),
            "unreadable_subjects": len(self.unread_subjects),
            "unreadable_versions": len(self.unread_versions),
        }

    def _meets_survey(self, ctx: Context) -> dict[str, Any] | None:
        matching = match_labels(ctx.settings, self.labels["object_id"], self.subjects.carried)
        if not isinstance(matching, Matching):
            ctx.say(f"whether labelled objects are in the survey is not known: {matching}")
            return None
        if matching.share < ctx.settings.upload.min_survey_share:
            ctx.warn(f"{matching.text}. {matching.proposal(ctx.settings)}")
        return matching.as_facts()

    def complete(self, facts: dict[str, Any]) -> None:
        """Write what was set aside, and the summary, beside votes and labels."""
        aside = [*self.tally.rejects, *self.unread_subjects, *self.unread_versions]
        table = pa.Table.from_pylist(aside, schema=REJECTS)
        write_table(self.folder / "rejects.parquet", table, REJECTS)
        write_json(self.folder / "summary.json", facts)


def count_votes(ctx: Context, sources: Sources, scratch: Path) -> Count:
    """Count the votes of some files.

    Parameters
    ----------
    ctx : Context
        Its settings say what counts, and how much may be lost.
    sources : Sources
        The exports and what came since, as `find_sources` gives them.
    scratch : Path
        An empty folder; votes and labels are written below it.

    Returns
    -------
    Count
        Of which nothing is an artifact yet.

    Raises
    ------
    InputError
        If too much cannot be read, or stands for none of the settings' answers.
    """
    rules, questions = rules_of(ctx, sources), declared(ctx.settings)
    others = ctx.settings.other_workflows
    texts, unread_versions = read_texts(sources.workflows, rules.workflow, others)
    check_versions(ctx, sources, texts, unread_versions)
    _require_known_answers(sources, (rules.workflow, *others), questions, texts)
    subjects = Subjects(rules.object_id_keys)
    unread = subjects.read_export(sources.subjects) if sources.subjects else []
    files = [Source(path) for path in sources.classifications]
    files += [Source(path, raw=True) for path in sources.since]
    size = sum(source.path.stat().st_size for source in files)
    folder = scratch / "labels"
    with (
        TableWriter(folder / "votes.parquet", VOTES) as votes,
        TableWriter(folder / "labels.parquet", LABELS) as labels,
        ctx.progress.bar("votes (bytes)", size) as tick,
    ):
        objects, tally = aggregate(
            files,
            questions,
            rules,
            scratch / "rows",
            keep_labels=labels.write,
            keep_votes=votes.write,
            texts=texts,
            subjects=subjects,
            tick=tick,
            reach=sources.reach,
        )
    check_tally(ctx, tally, (*sources.classifications, *sources.since), questions, texts)
    return Count(folder, questions, texts, subjects, objects, tally, unread, unread_versions)


def _require_known_answers(
    sources: Sources, workflows: tuple[int, ...], questions: list[Question], texts: Texts
) -> None:
    """No answer was edited in the project builder so that it stands for nothing here."""
    for workflow in workflows:
        of = texts.of(workflow)
        present = sources.present.get(workflow) or Present.of_texts(workflow, of)
        if present is not None:
            require_known(present.differences(questions, of))


@contextlib.contextmanager
def scratch_in(folder: Path) -> Iterator[Path]:
    """A folder that is gone afterwards; one that a killed run left behind is cleared away too."""
    for left in folder.glob(".scratch-*"):
        shutil.rmtree(left, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".scratch-", dir=folder) as name:
        yield Path(name)
