"""Aggregate: exports to votes, votes to labels, in ``labels/``."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from zoo_bridge.errors import InputError, NotReadyError
from zoo_bridge.files import digest_file, digest_value, write_json
from zoo_bridge.ledger import Artifact
from zoo_bridge.steps.context import (
    Context,
    Result,
    already_done,
    settings_digest,
    unchanged,
)
from zoo_bridge.steps.labelled import read_labels
from zoo_bridge.steps.matching import Matching, match_labels
from zoo_bridge.steps.present import Present, declared, require_known
from zoo_bridge.tables import LABELS, REJECTS, VOTES, TableWriter, read_table, write_table
from zoo_bridge.votes.labels import Reach
from zoo_bridge.votes.labels import aggregate as count
from zoo_bridge.votes.read import Source
from zoo_bridge.votes.rules import Question, Rules, Texts, clean
from zoo_bridge.votes.subjects import Objects, Subjects
from zoo_bridge.votes.tally import Tally
from zoo_bridge.votes.workflows import read_texts

# So many who reached a question and left it empty are no chance.
MANY = 20


@dataclass(frozen=True)
class Sources:
    """The files of one aggregation; ``since`` ones hold what came after the export.

    ``excluded`` are the numbers of excluded users, whom these do not name; ``reach`` tells which
    of these the export would have, had they been completed; ``present`` what each workflow
    asked when they were pulled.
    """

    classifications: tuple[Path, ...]
    subjects: Path | None
    workflows: tuple[Path, ...]
    since: tuple[Path, ...] = ()
    excluded: tuple[str, ...] = ()
    reach: Mapping[int, Reach] = field(default_factory=dict)
    present: Mapping[int, Present] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The same for the same content."""
        files = [*self.classifications, *self.since, self.subjects, *self.workflows]
        digests = [digest_file(path) if path else None for path in files]
        reach = [str(part) for each in self.reach.values() for part in vars(each).values()]
        return digest_value([digests, self.excluded, *reach])


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
    sections = settings_digest(ctx.settings, "votes", "question", "project")
    settings = digest_value([sections, ctx.settings.upload.metadata_key])
    if done := already_done(ctx, "aggregate", "labels", inputs, settings):
        return unchanged(
            f"the labels {done.name} are those of these exports", done, inputs, settings
        )
    rules = _rules(ctx, sources)
    questions = declared(ctx.settings)
    others = ctx.settings.other_workflows
    texts, unread_versions = read_texts(sources.workflows, rules.workflow, others)
    _check_versions(ctx, sources, texts, unread_versions)
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
        _check_tally(ctx, tally, (*sources.classifications, *sources.since), questions, texts)
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
        by_these = counted is not None and counted["settings_digest"] == settings
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


def _sources(ctx: Context) -> Sources:
    options = ctx.options
    if options.exports:
        for path in (*options.exports, options.subjects, options.workflows):
            if path is not None and not path.is_file():
                raise InputError(f"There is no file {path}.", "Correct the name.")
        workflows = (options.workflows,) if options.workflows else ()
        return Sources(options.exports, options.subjects, workflows)
    artifact = ctx.ledger.newest("exports")
    if artifact is None:
        raise NotReadyError(
            "There are no exports to aggregate.",
            "Fetch them with: zoo-bridge run pull, or name a file with --export.",
        )
    facts = artifact.facts
    if unknown := set(ctx.settings.other_workflows) - set(facts.get("workflows", ())):
        raise NotReadyError(
            f"Votes of workflow {', '.join(map(str, sorted(unknown)))} were not pulled yet.",
            "Fetch them with: zoo-bridge run pull.",
        )
    files = {kind: ctx.work / name for kind, name in facts["files"].items()}
    since = tuple(ctx.work / part["file"] for part in facts.get("since", []))
    versions = [ctx.work / facts["versions"]] if facts.get("versions") else []
    for path in (*files.values(), *since, *versions):
        if not path.is_file():
            raise InputError(
                f"The pulled file {path} is gone.",
                "Fetch it again with: zoo-bridge run pull --force.",
            )
    exports = [path for kind, path in files.items() if kind.startswith("classifications")]
    exported = [files["workflows"]] if "workflows" in files else []
    return Sources(
        classifications=tuple(exports),
        subjects=files.get("subjects"),
        workflows=(*exported, *versions),
        since=since,
        excluded=_excluded(ctx, facts) if since else (),
        reach=_reach(ctx, facts),
        present={
            int(workflow): Present.from_facts(workflow, each)
            for workflow, each in facts.get("present", {}).items()
            if workflow.isdecimal()
        },
    )


def _reach(ctx: Context, facts: dict[str, Any]) -> dict[int, Reach]:
    """What each workflow's export would have."""
    told = facts.get("reach") or {}
    if "below" in told:
        # As earlier versions noted it, of one workflow.
        told = {str(ctx.settings.project.workflow): told}
    return {
        int(workflow): Reach(each["below"], datetime.fromisoformat(each["before"]))
        for workflow, each in told.items()
    }


def _excluded(ctx: Context, facts: dict[str, Any]) -> tuple[str, ...]:
    """The numbers of the users that the settings exclude, as the last pull found them."""
    known = facts.get("excluded", {})
    unknown = [name for name in ctx.settings.votes.excluded_users if name not in known]
    if unknown:
        raise NotReadyError(
            f"votes.excluded_users has changed since the last pull ({', '.join(unknown)}), and "
            "votes that came through the API name nobody.",
            "Look the users up with: zoo-bridge run pull.",
        )
    names = ctx.settings.votes.excluded_users
    return tuple(sorted(known[name] for name in names if known[name]))


def _rules(ctx: Context, sources: Sources) -> Rules:
    votes = ctx.settings.votes
    return Rules(
        workflow=ctx.settings.project.workflow,
        first_version=votes.first_version,
        before_launch=votes.before_launch,
        training_subjects=votes.training_subjects,
        gold_standard=votes.gold_standard,
        excluded_users=frozenset(votes.excluded_users),
        excluded_ids=frozenset(sources.excluded),
        repeats=votes.repeats,
        anonymous_repeats=votes.anonymous_repeats,
        same_object=votes.same_object,
        object_id_keys=tuple(
            dict.fromkeys([ctx.settings.upload.metadata_key, *votes.object_id_keys])
        ),
    )


def _check_versions(
    ctx: Context, sources: Sources, texts: Texts, unread: Sequence[dict[str, str]]
) -> None:
    """See that a workflows export can be read: without it indexes are votes for nobody."""
    total = max(texts.rows, len(unread))
    most = max(1, ctx.settings.votes.max_reject_share * total)
    # One row that cannot be read is no reason, unless there is hardly another.
    if len(unread) > most or 2 * len(unread) > total:
        names = ", ".join(path.name for path in sources.workflows)
        first = unread[0]
        raise InputError(
            f"{len(unread)} of {total} rows of the workflows export {names} cannot be read, the "
            f"first at {first['uri']}: {first['detail']}.",
            "Download it anew, do not save it from a spreadsheet, or raise votes.max_reject_share.",
        )


def _check_tally(
    ctx: Context,
    tally: Tally,
    paths: Sequence[Path],
    questions: Sequence[Question],
    texts: Texts,
) -> None:
    names = ", ".join(path.name for path in paths)
    if tally.rows == 0:
        raise InputError(
            f"The classifications export {names} is empty.",
            "Has the workflow been classified? Try another export.",
        )
    allowed = ctx.settings.votes.max_reject_share
    if tally.unreadable > allowed * tally.rows:
        first = tally.rejects[0]
        raise InputError(
            f"{tally.unreadable} of {tally.rows} rows of {names} cannot be read, the first at "
            f"{first['uri']} ({first['reason']}): {first['detail']}.",
            "Download the export anew, or raise votes.max_reject_share to go on without them.",
        )
    if not tally.used:
        reasons = ", ".join(f"{reason} {rows}" for reason, rows in tally.dropped.most_common())
        others = _most(tally.elsewhere)
        here = f"; it has rows of workflow {others}" if others else ""
        raise InputError(
            f"None of the {tally.rows} rows of {names} counts: {reasons}{here}.",
            "Is it an export of this project? Check project.workflow and the [votes] table.",
        )
    for question in questions:
        _check_question(ctx, tally, question, texts)


def _check_question(ctx: Context, tally: Tally, question: Question, texts: Texts) -> None:
    """A question that nobody answered, or whose answers stand for nothing, is no success."""
    fate = tally.fates[question.name]
    missed = tally.unmatched.get(question.name, Counter())
    given = fate.votes + fate.repeats + fate.unmatched
    # Where several may be ticked, one of them may stand for nothing beside others.
    unknown = tally.odd[question.name] if question.multiple else fate.unmatched
    # One odd answer alone is no pattern, however few there are.
    if unknown > max(1, ctx.settings.votes.max_unmatched_share * given):
        raise InputError(
            f"{question.name}: {unknown} of {given} answers stand for none of those in the "
            f"settings: {_most(missed, quoted=True)}.",
            f"{_proposal(question, missed, texts)} Or raise votes.max_unmatched_share.",
        )
    asked = tally.used - fate.not_reached - fate.not_asked
    if question.asked_after is not None:
        # Perhaps nobody has come so far yet, or somebody left it empty.
        empty = fate.not_answered if fate.not_answered >= MANY else 0
        asked = empty + fate.unmatched + fate.unknown_label + fate.off_path
    if fate.votes or not asked:
        return
    tasks = ", ".join(
        sorted({f"{place.task} of workflow {place.workflow}" for place in question.places})
    )
    held = _most(
        Counter({f"{task} ({shape})": n for (task, shape), n in tally.other_tasks.items()})
    )
    instead = f"; the rows hold answers to {held}" if held else ""
    if fate.unknown_label:
        instead += f"; of {fate.unknown_label} Zooniverse itself did not know the answer"
    elsewhere = _most(tally.elsewhere)
    more = f" and there are rows of workflow {elsewhere}" if elsewhere else ""
    raise InputError(
        f"{question.name}: not one vote in {tally.used} rows. Looked for was {tasks}{instead}"
        f"{more}.",
        "Correct question.task, or say with [[question.source]] where it is asked.",
    )


def _most(found: Counter[str], quoted: bool = False) -> str:
    """The commonest, with how often they are there."""
    shown = [
        f"{repr(text) if quoted else text} ({number})" for text, number in found.most_common(5)
    ]
    return ", ".join(shown) + (" …" if len(found) > 5 else "")


def _proposal(question: Question, missed: Counter[str], texts: Texts) -> str:
    """The line of settings that would know the commonest texts."""
    added: dict[str, list[str]] = {}
    open_texts = []
    for text, _ in missed.most_common(5):
        now = texts.name_now(question.task, text)
        place = question.place_of(now) if now else None
        if place is None:
            place = question.names.get(clean(text))
        if place is None:
            open_texts.append(text)
        else:
            added.setdefault(question.answers[place], []).append(text)
    lines = [f"add {', '.join(map(repr, texts))} to {answer}" for answer, texts in added.items()]
    if open_texts:
        lines.append(f"add {', '.join(map(repr, open_texts))} to the answer it means")
    return f"In question.answers of {question.name}: {'; '.join(lines)}."


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


def describe(facts: dict[str, Any]) -> list[str]:
    """A few lines on what became of the rows."""
    dropped = ", ".join(f"{reason} {rows}" for reason, rows in facts["dropped"].items()) or "none"
    lines = [f"{facts['rows']} rows: {facts['used']} used, set aside: {dropped}"]
    for file, columns in facts.get("missing", {}).items():
        lines.append(f"{file} has no column {', '.join(columns)}: rules about it do not hold")
    if marked := facts.get("marked"):
        shown = ", ".join(f"{column} {rows}" for column, rows in marked.items())
        lines.append(f"rows with a mark such as NA where nothing was: {shown}")
    if grids := facts.get("grids"):
        lines.append(f"{grids['rows']} rows show a grid, with {grids['galaxies']} galaxies in all")
    if facts["mended"]:
        lines.append(f"{facts['mended']} used rows have damage in columns that do not matter")
    if facts["unreadable_subjects"]:
        lines.append(f"{facts['unreadable_subjects']} rows of the subjects export cannot be read")
    if facts["unreadable_versions"]:
        number = facts["unreadable_versions"]
        lines.append(f"{number} rows of the workflows export cannot be read")
    for name, fate in facts["questions"].items():
        parts = [*("votes", "repeats", "not_answered", "not_reached", "off_path", "unmatched")]
        parts += ["unknown_label", "not_asked"]
        shown = ", ".join(
            f"{part.replace('_', ' ')} {fate[part]}"
            for part in parts
            if part == "votes" or fate.get(part)
        )
        least, median, most = (fate[f"n_{part}"] for part in ("min", "median", "max"))
        spread = f", N {least} to {most}, half of them {median} or more" if most else ""
        lines.append(f"{name}: {shown}; {fate['labels']} labels{spread}")
    for name, texts in facts["unmatched"].items():
        for text in texts:
            guess = f"; by its place it may now be {text['may_be']}" if text["may_be"] else ""
            lines.append(f"{name}: {text['text']!r} matches no answer ({text['rows']} rows){guess}")
    lines += _describe_ids(facts["object_ids"])
    if found := facts.get("survey"):
        lines.append(Matching.from_facts(found).text)
    if facts["other_tasks"]:
        tasks = ", ".join(f"{task} {rows}" for task, rows in facts["other_tasks"].items())
        lines.append(f"tasks that no question asks for: {tasks}")
    return lines


def _describe_ids(ids: dict[str, Any]) -> list[str]:
    kept = "added up" if ids["same_object"] == "merge" else "kept apart"
    texts = {
        "missing": "have none of votes.object_id_keys and go by their subject id",
        "ambiguous": "were seen with several object ids, and the newest is used",
    }
    lines = []
    for name, text in texts.items():
        found = ids[name]
        if found["count"]:
            shown = ", ".join(str(example) for example in found["examples"])
            lines.append(f"{found['count']} subjects {text}, such as {shown}")
    if ids["shared"]["count"]:
        shown = ", ".join(ids["shared"]["examples"])
        lines.append(
            f"{ids['shared']['count']} objects have several subjects, {kept}, such as {shown}"
        )
    return lines
