"""What must hold before anything is put before volunteers: if not, the upload is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoo_bridge.cutouts.visible import FEWEST_TO_COMPARE, MOST_ALIKE, share_alike
from zoo_bridge.ledger import Artifact
from zoo_bridge.steps.batches.checks import Check, refuse_unless
from zoo_bridge.steps.batches.choose import Sources, newest_exported
from zoo_bridge.steps.batches.volunteers import count_waiting, pace_of
from zoo_bridge.steps.context import Context
from zoo_bridge.steps.counting.matching import Matching, match_subjects
from zoo_bridge.steps.inputs import read_labels, subjects_export
from zoo_bridge.steps.scoring import catalogue

if TYPE_CHECKING:
    from zoo_bridge.zooniverse.project import Access, Account, Project
    from zoo_bridge.zooniverse.session import Session
    from zoo_bridge.zooniverse.subjects import Subject

WEEK_DAYS = 7
# More that cannot be drawn is trouble with the survey, not with an object.
MOST_LOST = 0.3
# Subjects that are read one by one, since no export has them: fifty pages.
MOST_NEWER = 5000


def run_checks(
    ctx: Context, session: Session, access: Access, sources: Sources
) -> tuple[list[Check], int, list[Subject]]:
    """Look at everything that must hold before a batch is chosen.

    Parameters
    ----------
    ctx : Context
        The settings' caps, and the ledger.
    session : Session
        A log-in that may read the project.
    access : Access
        The project, the account and its rights.
    sources : Sources
        What the batch is to be chosen from.

    Returns
    -------
    checks : list of Check
        What was found.
    room : int
        Objects that the caps leave.
    newer : list of Subject
        Subjects of the project that no subjects export has yet.

    Raises
    ------
    RefusedError
        At once if the account has no rights: without them nothing else can be told.
    """
    rights = check_rights(access)
    refuse_unless([rights])
    newer = find_newer(ctx, session, access.project)
    caps, room = check_caps(ctx)
    checks = [
        rights,
        caps,
        check_backlog(ctx, session, access.project),
        check_known(ctx, newer),
        check_information(sources.scores),
        check_survey(ctx, _matching(ctx, session, access.project, sources)),
    ]
    return checks, room, newer


def find_newer(ctx: Context, session: Session, project: Project) -> list[Subject]:
    """Subjects of the project that the last subjects export does not have yet."""
    from zoo_bridge.zooniverse.subjects import newest_subjects

    return newest_subjects(session, project.project_id, newest_exported(ctx), MOST_NEWER)


def _matching(ctx: Context, session: Session, project: Project, sources: Sources) -> Matching:
    """Whether labels, or before there are any the workflow's subjects, meet the survey."""
    if sources.labels is None:
        return match_subjects(ctx.settings, session, project, sources.survey)
    names = read_labels(sources.labels)["object_id"]
    told = Matching.of("labelled objects", names, sources.survey, {})
    # What the subjects carry was seen when the votes were counted, if this version did that.
    known = sources.labels.facts.get("survey")
    if not known:
        known = match_subjects(ctx.settings, session, project, sources.survey).as_facts()
    return replace(told, sampled=known["sampled"], keys=known["keys"])


def check_rights(access: Access) -> Check:
    """The account may put subjects into this project."""
    return Check("rights", access.may_change, access.described, access.advice)


def check_caps(ctx: Context) -> tuple[Check, int]:
    """The settings' own caps; how many objects they leave."""
    config = ctx.settings.upload
    recent = ctx.ledger.planned_since(WEEK_DAYS)
    left = config.per_week - recent
    check = Check(
        "caps",
        left > 0,
        f"{recent} objects were uploaded in the last week, and upload.per_week is "
        f"{config.per_week}.",
        "Wait, or raise upload.per_week if volunteers keep up.",
    )
    return check, max(0, min(config.per_run, left))


def check_quota(ctx: Context, account: Account, room: int) -> Check:
    """The account's quota, which is never refunded, is enough for so many subjects.

    What Zooniverse says was used may be minutes old; what the ledger knows of is not.
    """
    known = ctx.ledger.created_by(account.user_id)
    left = account.left(known)
    if left is None:
        return Check("quota", True, f"{account.login} may upload without limit")
    used = max(account.uploaded, known)
    # What this run is about to use is used: another is not measured until the next upload.
    after = left - room if left >= room else left
    ctx.measures.update(quota_left=after, quota_limit=account.limit or 0)
    return Check(
        "quota",
        left >= room,
        f"{account.login} may upload {left} more subjects ({used} of "
        f"{account.limit} used, never refunded); {room} are planned.",
        "Ask Zooniverse for a higher limit, or lower upload.per_run.",
    )


def check_backlog(ctx: Context, session: Session, project: Project) -> Check:
    """What volunteers have before them is not more than they do in some time."""
    most = ctx.settings.upload.max_backlog_days
    pace, limit = pace_of(ctx), project.workflow.limit
    if not pace:
        return Check("backlog", True, "there are no votes to tell a pace")
    if not limit:
        return Check("backlog", True, "the workflow has no limit of votes")
    waiting = count_waiting(ctx, session, project)
    days = waiting * limit / pace
    ctx.measures.update(waiting_subjects=waiting, backlog_days=days, votes_a_day=pace)
    return Check(
        "backlog",
        days <= most,
        f"{waiting} unfinished subjects of workflow {project.workflow.name} keep volunteers busy "
        f"for {days:.0f} days ({pace:.0f} classifications a day); upload.max_backlog_days is "
        f"{most:g}.",
        "Wait until they are fewer, or raise upload.max_backlog_days.",
    )


def check_known(ctx: Context, newer: Sequence[Subject]) -> Check:
    """What others uploaded to the project is known, so that it is linked and not made again.

    A subjects export tells of what there was when it was written, the server of what came since.
    """
    export = subjects_export(ctx)
    since = "the subjects export" if export else "the project was made"
    ours = {row.subject_id for row in ctx.ledger.list_objects()}
    others = sum(subject.subject_id not in ours for subject in newer)
    return Check(
        "known subjects",
        len(newer) <= MOST_NEWER,
        f"more than {MOST_NEWER} subjects came since {since}"
        if len(newer) > MOST_NEWER
        else f"{others} subjects of others came since {since}, and all are known",
        "Fetch the subjects export first: zoo-bridge run pull.",
    )


def check_survey(ctx: Context, told: Matching) -> Check:
    """Labels and survey speak of the same objects: if not, what is labelled is uploaded again."""
    least = ctx.settings.upload.min_survey_share
    if told.share >= least:
        return Check("survey", True, told.text)
    return Check(
        "survey",
        False,
        f"{told.text}; upload.min_survey_share is {least:g}.",
        f"{told.proposal(ctx.settings)} If all is as it should be, lower upload.min_survey_share.",
    )


def check_scores(version: str | None, scores: Artifact | None, form: int) -> Check:
    """The scores that a batch is chosen by are those of the model in use."""
    if version is None:
        return Check("model", True, "no model yet: the batch is drawn at random")
    made_by = scores.facts["model"] if scores else None
    good = made_by == version and scores is not None and scores.facts.get("form") == form
    return Check(
        "model",
        good,
        f"the survey was scored by the model in use, {version}"
        if good
        else f"The survey was not scored by the model in use, {version}, and this zoo_bridge.",
        "Score it first: zoo-bridge run score.",
    )


def check_information(scores: Artifact | None) -> Check:
    """BALD tells galaxies apart: if dropout does not act, all of it is zero."""
    if scores is None:
        return Check("information", True, "no model yet: the batch is drawn at random")
    bad = [
        f"of {question} is between {found.lowest:.3g} and {found.highest:.3g} nats"
        + (f", {found.wrong} are not a number" if found.wrong else "")
        for question, found in catalogue.summarise(scores.path).items()
        if found.wrong or found.highest <= 0 or (found.rows > 1 and found.highest == found.lowest)
    ]
    return Check(
        "information",
        not bad,
        f"The mutual information {'; '.join(bad)}"
        if bad
        else "the mutual information tells galaxies apart",
        "If it is zero everywhere, dropout does not act: do not upload by it; train anew with: "
        "zoo-bridge run retrain --force.",
    )


def check_previews(paths: list[Path], faults: Counter[str], planned: int, sheet: Path) -> Check:
    """Pictures could be drawn, show something, and differ from one another, as galaxies do.

    Those in which there is nothing to see were left out before, each by itself: ``faults``, by
    reason.
    """
    alike = share_alike(_open(path) for path in paths)
    same = alike > MOST_ALIKE and len(paths) >= FEWEST_TO_COMPARE
    lost = planned - len(paths)
    text = f"{len(paths)} previews differ from one another"
    if same:
        text = f"{round(alike * len(paths))} of {len(paths)} previews look the same"
    if lost > MOST_LOST * planned:
        why = ", ".join(f"{count} {kind}" for kind, count in faults.most_common())
        text = f"{lost} of {planned} objects cannot be shown ({why})"
    return Check(
        "previews",
        not same and lost <= MOST_LOST * planned,
        text,
        "zoo-bridge check --pictures FOLDER shows why, and proposes a setting where one helps; "
        f"correct [cutouts], or the survey's files, and try again. What was drawn is in {sheet}.",
    )


def _open(path: Path) -> NDArray[np.float32]:
    """A picture of shape (height, width, 3), 0 to 1."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), np.float32) / np.float32(255)
