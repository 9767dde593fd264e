"""How much may be lost before nothing is written: rows, versions, answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from zoo_bridge.errors import InputError
from zoo_bridge.steps.context import (
    Context,
)
from zoo_bridge.steps.counting.sources import Sources
from zoo_bridge.votes.rules import Question, Texts, clean
from zoo_bridge.votes.tally import Tally

# So many who reached a question and left it empty are no chance.
MANY = 20


def check_versions(
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


def check_tally(
    ctx: Context,
    tally: Tally,
    paths: Sequence[Path],
    questions: Sequence[Question],
    texts: Texts,
) -> None:
    """Raise `InputError` if too much of a count cannot be read, or stands for nothing."""
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
