"""Check: what works and what does not, a line each, before anything is done."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zoo_bridge.config import Settings
from zoo_bridge.errors import ZooBridgeError
from zoo_bridge.service.watching.channels import URLS
from zoo_bridge.trouble import unexpected


@dataclass(frozen=True)
class Line:
    """One finding: ``ok`` is None when it could not be looked at; a warning is ok, too."""

    what: str
    ok: bool | None
    text: str
    hint: str = ""
    exit_code: int = 0
    warning: bool = False


def check(settings: Settings, pictures: Path | None = None) -> Iterator[Line]:
    """Look at everything that a cycle needs.

    Parameters
    ----------
    settings : Settings
        Settings that were read, and are valid in themselves.
    pictures : Path, optional
        A folder for a contact sheet of a sample.

    Yields
    ------
    Line
        Settings, ledger, log-in, quota, project, workflow, questions, bucket, survey, subjects,
        known objects, cutouts.
    """
    questions = len(settings.question)
    yield Line("settings", True, f"{settings.path}: {questions} question(s)")
    for warning in settings.warnings:
        yield Line("settings", True, warning, "Correct that line of the file.", warning=True)
    found: dict[str, Any] = {"pictures": pictures}
    steps: list[tuple[str, Callable[[Settings, dict[str, Any]], str], str]] = [
        ("ledger", _ledger, ""),
        ("log-in", _session, ""),
        ("quota", _quota, "session"),
        ("project", _project, "session"),
        ("workflow", _workflow, "project"),
        ("questions", _questions, "project"),
        ("bucket", _bucket, ""),
        ("survey", _survey, "bucket"),
        ("subjects", _subjects, "survey"),
        ("known", _known, "survey"),
        ("cutouts", _cutouts, "survey"),
    ]
    if settings.artifacts is not None:
        steps.append(("artifacts", _artifacts, ""))
    if os.environ.get(URLS) or os.environ.get(f"{URLS}_FILE"):
        steps.append(("notify", _notify, ""))
    for what, look, needs in steps:
        if needs and needs not in found:
            yield Line(what, None, f"not looked at: needs the {needs}")
            continue
        try:
            yield Line(what, True, look(settings, found))
        except _Warned as warned:
            yield Line(what, True, warned.message, warned.hint, warning=True)
        except Exception as error:
            known = unexpected(error, f"check ({what})")
            yield Line(what, False, known.message, known.hint, known.exit_code)


def _artifacts(settings: Settings, found: dict[str, Any]) -> str:
    """What is put there can be fetched again, and taken away."""
    from zoo_bridge.errors import StorageError
    from zoo_bridge.steps.shelf import shelf_of

    shelf = shelf_of(settings)
    assert shelf is not None
    settings.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".check-", dir=settings.work) as folder:
        path = Path(folder) / "probe"
        path.write_text("zoo-bridge check", encoding="utf-8")
        shelf.put(path)
        path.unlink()
        back = shelf.bring(path)
        shelf.remove(path)
    if not back:
        raise StorageError(
            f"What was put into {settings.artifacts} is not there.", "Is it the right bucket?"
        )
    return f"{settings.artifacts}: written, read and taken away"


def _notify(settings: Settings, found: dict[str, Any]) -> str:
    """Somebody is to be told, and the library that does it is there."""
    from importlib.util import find_spec

    from zoo_bridge.errors import SettingsError
    from zoo_bridge.service.watching.channels import Channels

    many = len(Channels.of_environment().urls)
    if find_spec("apprise") is None:
        raise SettingsError(
            f"{URLS} is set, and apprise, which sends, is not installed.",
            "Install it with: pip install 'zoo-bridge[notify]'.",
        )
    return f"{many} address(es); try them with: zoo-bridge notify --test"


class _Warned(ZooBridgeError):
    """Something that is not as one would expect, and may be right all the same."""


def _ledger(settings: Settings, found: dict[str, Any]) -> str:

    from zoo_bridge.steps.shelf import open_ledger

    ledger = open_ledger(settings)
    model = ledger.model_in_use()
    found["labels"] = ledger.newest("labels")
    found["uploaded"] = {row.object_id for row in ledger.list_objects()}
    ledger.close()
    return f"model in use: {model or 'none yet'}"


def _session(settings: Settings, found: dict[str, Any]) -> str:
    from zoo_bridge.zooniverse.project import find_account
    from zoo_bridge.zooniverse.session import Session

    session = Session.of(settings)
    found["account"] = find_account(session)
    found["session"] = session
    return f"{found['account'].login} at {session.endpoint}"


def _quota(settings: Settings, found: dict[str, Any]) -> str:
    from zoo_bridge.errors import RefusedError

    account = found["account"]
    left = account.left()
    if left is None:
        return "no limit on uploads"
    text = f"{left} of {account.limit} subjects may still be uploaded (never refunded)"
    if left < settings.upload.per_run:
        raise RefusedError(
            f"{text}: fewer than upload.per_run, {settings.upload.per_run}.",
            "Ask Zooniverse for a higher limit, or lower upload.per_run.",
        )
    return text


def _project(settings: Settings, found: dict[str, Any]) -> str:
    from zoo_bridge.zooniverse.project import find_access

    slug, workflow = settings.project.slug, settings.project.workflow
    access = find_access(found["session"], slug, workflow)
    access.require_rights()
    found["project"] = access.project
    return access.described


def _workflow(settings: Settings, found: dict[str, Any]) -> str:
    workflow = found["project"].workflow
    return (
        f"{workflow.name}, version {workflow.version}, subjects retire after {workflow.limit} "
        "classifications"
    )


def _questions(settings: Settings, found: dict[str, Any]) -> str:
    """Every question's task is there, and every alias is one of its labels."""
    from zoo_bridge.errors import SettingsError
    from zoo_bridge.steps.counting.answers_now import Present, check_tasks, declared, require_known
    from zoo_bridge.votes.rules import NO_TEXTS
    from zoo_bridge.zooniverse.project import find_workflows

    workflow = found["project"].workflow
    tasks = workflow.tasks
    check_tasks(settings, tasks)
    questions = declared(settings)
    others = find_workflows(found["session"], found["project"], settings.other_workflows)
    for each in (workflow, *others):
        present = Present.of_tasks(each.workflow_id, each.version, each.tasks)
        require_known(present.differences(questions, NO_TEXTS))
    for question in questions:
        several = [
            place.task
            for place in question.places
            if place.workflow == workflow.workflow_id
            and tasks.get(place.task, {}).get("type") == "multiple"
        ]
        # One of several tasks may be a shortcut, with boxes to tick and one of them an answer.
        if several and len(question.all_tasks) == 1 and not question.multiple:
            raise SettingsError(
                f"{question.name}: volunteers may tick several answers to {several[0]}.",
                "Set multiple = true for it, or votes for several will be counted as unmatched.",
            )
    shown = ((each.name, "/".join(sorted(each.all_tasks))) for each in questions)
    return ", ".join(f"{name} ({tasks})" for name, tasks in shown)


def _bucket(settings: Settings, found: dict[str, Any]) -> str:
    from zoo_bridge.steps.inputs import open_store

    where = settings.survey.catalogue or settings.survey.prefix or ""
    store = open_store(settings)
    store.check(where)
    found["bucket"] = store
    return f"{where} at {settings.survey.endpoint_url or 'Amazon S3 or this machine'}"


def _survey(settings: Settings, found: dict[str, Any]) -> str:
    from zoo_bridge.steps.batches.contenders import count_chosen
    from zoo_bridge.steps.inputs import find_survey

    survey = find_survey(settings, found["bucket"])
    found["survey"] = survey
    told = [f"{len(survey)} objects"]
    if rejects := survey.rejects:
        kinds = Counter(rejects["reason"].to_pylist()).most_common()
        why = ", ".join(f"{count} {kind}" for kind, count in kinds)
        told.append(f"{rejects.num_rows} rows set aside ({why})")
    if survey.ignored:
        told.append(f"{survey.ignored} keys do not match survey.id_pattern")
    told += [f"column {name} left out ({why})" for name, why in survey.left_out.items()]
    if settings.upload.where:
        chosen = count_chosen(survey, settings.upload.where)
        told.append(f"upload.where chooses {chosen} of them")
    return ", ".join(told)


def _subjects(settings: Settings, found: dict[str, Any]) -> str:
    """Labels, and what the workflow shows, are of the survey."""
    from zoo_bridge.errors import RefusedError
    from zoo_bridge.steps.counting.matching import Matching, match_subjects
    from zoo_bridge.steps.inputs import read_labels

    shown = None
    if "project" in found:
        shown = match_subjects(settings, found["session"], found["project"], found["survey"])
    labels = found.get("labels")
    if labels is not None:
        told = Matching.of(
            "labelled objects", read_labels(labels)["object_id"], found["survey"], {}
        )
        known = labels.facts.get("survey") or (shown.as_facts() if shown else {})
        told = replace(told, **{name: known[name] for name in ("sampled", "keys") if name in known})
    elif shown is not None and shown.total:
        told = shown
    else:
        return "there are none yet"
    if told.share < settings.upload.min_survey_share:
        raise RefusedError(f"{told.text}.", told.proposal(settings))
    return told.text


def _known(settings: Settings, found: dict[str, Any]) -> str:
    """How many objects of the survey we have met before: is it the right one?"""
    from zoo_bridge.steps.inputs import read_labels

    survey = found["survey"]
    met = {"earlier uploads": found.get("uploaded", set())}
    if (labels := found.get("labels")) is not None:
        met = {"votes": set(read_labels(labels)["object_id"]), **met}
    told, none = [], []
    for what, names in met.items():
        here = len(survey.find(names, ())) if names else 0
        told.append(f"{here} of {len(survey)} objects are known from {what}")
        if names and not here:
            none.append(f"{len(names)} of {what}")
    if none:
        raise _Warned(
            f"{', '.join(told)}, though there are {' and '.join(none)}.",
            "Is it the right survey? See survey.catalogue, survey.prefix and "
            "survey.object_id_column.",
        )
    return ", ".join(told)


def _cutouts(settings: Settings, found: dict[str, Any]) -> str:
    """Volunteers, and the network, would see galaxies."""
    from zoo_bridge.service.sample import LOOK, judge_sample, read_sample, write_sheet

    sample = read_sample(settings, found["bucket"], found["survey"])
    if (folder := found["pictures"]) is None:
        return judge_sample(settings, sample)
    sheet = write_sheet(settings, sample, folder)
    try:
        return f"{judge_sample(settings, sample)}; look at {sheet}"
    except ZooBridgeError as error:
        error.hint = error.hint.replace(LOOK, f"Look at {sheet}.")
        raise
