"""Staging a planned batch: every object in its subject set once, each with its own pictures.

Staging may be interrupted anywhere and is simply done again. The set's members say what exists, by
the object id that each carries: a create puts a subject into the set in the same transaction, so
what is not there was not created, and nothing is created before they were read. Creates go out one
after the other, several subjects in each; pictures are sent and fetched back several at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_bridge.balance import Balance
from zoo_bridge.errors import OutcomeUnknownError, RefusedError, SettingsError, ZooniverseError
from zoo_bridge.files import digest_file
from zoo_bridge.steps.context import Context, Result
from zoo_bridge.tables import BATCH, read_table

if TYPE_CHECKING:
    from zoo_bridge.zooniverse.project import Project
    from zoo_bridge.zooniverse.session import Session
    from zoo_bridge.zooniverse.subjects import Picture, Pictures, Subject

MIMES = {".jpg": "image/jpeg", ".png": "image/png"}
ROUNDS = 4

Row = dict[str, Any]


def stage(ctx: Context, session: Session, project: Project, batch: Row) -> Result:
    """Bring every planned object of a batch into its subject set, with its pictures.

    Parameters
    ----------
    ctx : Context
        The run.
    session : Session
        The log-in.
    project : Project
        Where to.
    batch : dict
        The ledger's row of the batch.

    Returns
    -------
    Result
        Its counts say what was planned, created, linked, skipped and failed, and how many calls
        that took.

    Raises
    ------
    ZooniverseError
        If the batch is not complete; it stays as it is, and the next run goes on.
    RefusedError
        If the set holds what was not planned.
    """
    from zoo_bridge.zooniverse import subjects

    folder = ctx.work / batch["path"]
    rows = read_table(folder / "plan.parquet", BATCH).to_pylist()
    set_id = batch["subject_set_id"]
    if set_id is None:
        title, facts = set_name(project, batch), {"#zoo_bridge": batch["name"]}
        set_id = subjects.create_set(session, project.project_id, title, facts)
        ctx.ledger.set_batch(batch["name"], subject_set_id=set_id)
    config = ctx.settings.upload
    with subjects.Pictures(config.connections, session.timeout, session.pause) as pictures:
        work = _Staging(ctx, session, pictures, project, set_id, folder, rows)
        with ctx.progress.bar("uploading", len(work.creates)) as advance:
            work.create_all(advance)
        with ctx.progress.bar("checking", len(work.creates)) as advance:
            work.check_all(advance)
    work.link_all()
    return _finish(ctx, session, batch, work)


def _finish(ctx: Context, session: Session, batch: Row, work: _Staging) -> Result:
    """What became of the batch; staged if nothing is missing."""
    name, failed = batch["name"], len(work.creates) - len(work.complete)
    counts = {
        "planned": len(work.rows),
        "created": len(work.complete),
        "linked": len(work.links),
        "skipped": sum(row["action"] == "skip" for row in work.rows),
        "failed": failed,
    }
    parts = {part: count for part, count in counts.items() if part != "planned"}
    balance = Balance("planned", counts["planned"], parts)
    if failed:
        raise ZooniverseError(
            f"{failed} of {counts['planned']} objects of {name} are not uploaded: {work.reason()}",
            "The batch stays unpublished; zoo-bridge run upload finishes it.",
        )
    ctx.ledger.set_batch(name, state="staged")
    ctx.ledger.add_event(name, "staged", counts)
    plan = ctx.work / batch["path"] / "plan.parquet"
    ctx.ledger.add_artifact("batch", name, plan.parent, digest_file(plan), ctx.run_id, counts)
    message = f"{name} staged: {counts['created']} subjects created, {counts['linked']} linked"
    if work.extra:
        message += f"; {work.extra} that a late answer made twice were taken out of the set"
    if ctx.settings.upload.publish == "automatic":
        from zoo_bridge.steps.publish import publish

        message += f"; {publish(ctx, name, session)}"
    else:
        message += f"; show it with: zoo-bridge publish {name}"
    counts = counts | {"calls": session.calls, "media_calls": work.pictures.calls}
    return Result("done", message, counts, [balance], name)


def set_name(project: Project, batch: Row) -> str:
    """What a batch's subject set is called: project, date and run."""
    return f"zoo_bridge {project.name} {batch['created_at'][:10]} {batch['name']}"


@dataclass
class _Staging:
    """One staging under way.

    ``complete`` has the members whose pictures were fetched back and are right, by object id.
    """

    ctx: Context
    session: Session
    pictures: Pictures
    project: Project
    set_id: str
    folder: Path
    rows: list[Row]
    complete: dict[str, Subject] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    extra: int = 0

    @property
    def creates(self) -> list[Row]:
        """What is to become a subject."""
        return [row for row in self.rows if row["action"] == "create"]

    @property
    def links(self) -> list[Row]:
        """What is a subject already."""
        return [row for row in self.rows if row["action"] == "link"]

    def reason(self) -> str:
        """Why something failed."""
        return next(iter(self.failures.values()), "no reason was given")

    # creating

    def create_all(self, advance: Callable[[int], None]) -> None:
        """Create what is missing.

        When a create ends without an answer, the members are read again before the next one: it is
        never sent a second time in the dark.
        """
        waiting: list[Future[str]] = []
        advanced, stalled, before = 0, 0, len(self.creates) + 1
        while True:
            present = self.members()
            missing = [row for row in self.creates if row["object_id"] not in present]
            there = len(self.creates) - len(missing)
            advance(there - advanced)
            advanced = there
            stalled = 0 if len(missing) < before else stalled + 1
            before = len(missing)
            if not missing or stalled == ROUNDS:
                break
            self.failures.clear()
            try:
                for some in self._chunks(missing):
                    made = self._create(some)
                    waiting += [self.pictures.put(made[i].urls, self.frames(i)) for i in made]
                    advance(len(made))
                    advanced += len(made)
            except OutcomeUnknownError as error:
                self._fail(missing, error)
                # What was asked for may still be under way.
                time.sleep(self.session.pause)
                continue
            except ZooniverseError as error:
                self._fail(missing, error)
                break
            if self.failures:
                break
        # Whatever came of them is seen when the pictures are fetched back.
        for future in waiting:
            future.result()

    def _chunks(self, rows: list[Row]) -> Iterator[list[Row]]:
        size = self.ctx.settings.upload.subjects_per_call
        yield from (rows[start : start + size] for start in range(0, len(rows), size))

    def _create(self, rows: list[Row]) -> dict[str, Subject]:
        """Create some subjects with one call; where that is refused, one by one."""
        from zoo_bridge.zooniverse import subjects

        ids = [row["object_id"] for row in rows]
        wanted = [
            (
                {self.key: ident, **self.metadata.get(ident, {})},
                [p.mime for p in self.frames(ident)],
            )
            for ident in ids
        ]
        self.note(ids, "creating")
        try:
            made = subjects.create(self.session, self.project.project_id, self.set_id, wanted)
        except OutcomeUnknownError:
            raise
        except ZooniverseError as error:
            # All or none were refused: by themselves, those that are good go through.
            if len(rows) == 1:
                if error.status in (401, 403, 503):
                    raise
                self.failures[ids[0]] = error.message
                return {}
            return {key: each for row in rows for key, each in self._create([row]).items()}
        found = {str(each.metadata.get(self.key)): each for each in made}
        self.note_subjects({ident: found[ident] for ident in ids if ident in found}, "created")
        return {ident: found[ident] for ident in ids if ident in found}

    def _fail(self, rows: Sequence[Row], error: ZooniverseError) -> None:
        self.ctx.log.warning("%s", error.message)
        for row in rows:
            self.failures.setdefault(row["object_id"], error.message)

    def members(self) -> dict[str, Subject]:
        """The set's members by object id; what is there twice is taken out but for one."""
        from zoo_bridge.zooniverse import subjects

        planned = {row["object_id"] for row in self.creates}
        found: dict[str, list[Subject]] = {}
        for subject in subjects.list_members(self.session, self.set_id):
            name = str(subject.metadata.get(self.key, ""))
            if name in planned:
                found.setdefault(name, []).append(subject)
        surplus = [each for many in found.values() for each in sorted(many, key=_age)[1:]]
        if surplus:
            # A create that was given up for lost came through after all. The first one stays.
            ids = [each.subject_id for each in surplus]
            self.ctx.log.warning("subjects %s are there twice and leave the set", ", ".join(ids))
            subjects.unlink(self.session, self.set_id, ids)
            self.extra += len(surplus)
        return {name: min(many, key=_age) for name, many in found.items()}

    # pictures

    def check_all(self, advance: Callable[[int], None]) -> None:
        """Fetch every picture back and compare; send again what is not right."""
        from zoo_bridge.zooniverse import subjects

        stalled = 0
        while True:
            present = self.members()
            asked = {
                name: self.pictures.are_there(subject.urls, self.frames(name))
                for name, subject in present.items()
                if name not in self.complete
            }
            right = {name: present[name] for name, future in asked.items() if future.result()}
            self.note_subjects(right, "uploaded")
            self.complete |= right
            advance(len(right))
            wrong = [name for name in asked if name not in right]
            stalled = 0 if right else stalled + 1
            if not wrong or stalled == ROUNDS:
                break
            self.ctx.log.warning("%d pictures are missing or wrong, sending again", len(wrong))
            for name in wrong:
                subject, frames = present[name], self.frames(name)
                try:
                    mimes = [frame.mime for frame in frames]
                    urls = subjects.fresh_addresses(self.session, subject.subject_id, mimes)
                except ZooniverseError as error:
                    self.failures[name] = error.message
                    continue
                told = self.pictures.put(urls, frames).result()
                ended = f"the picture of subject {subject.subject_id} did not arrive"
                self.failures[name] = f"{ended}: {told or 'the store kept nothing'}"
        for name in self.complete:
            self.failures.pop(name, None)

    def frames(self, object_id: str) -> list[Picture]:
        """An object's pictures, as they were drawn when the batch was planned."""
        from zoo_bridge.zooniverse.subjects import Picture

        rank = self._ranks[object_id]
        paths = sorted((self.folder / "previews").glob(f"{rank:06d}*"))
        return [Picture(path.read_bytes(), MIMES[path.suffix]) for path in paths]

    @cached_property
    def _ranks(self) -> dict[str, int]:
        return {row["object_id"]: row["rank"] for row in self.rows}

    # the end

    def link_all(self) -> None:
        """Put subjects that exist already into the set, and once more those that were created.

        The second does nothing to the members, but has the side effects of a link. Then the set is
        read a last time: it must hold what was planned and nothing else.
        """
        from zoo_bridge.zooniverse import subjects

        # Not before the batch is complete: its side effects are those of a set that is in use.
        if len(self.complete) < len(self.creates):
            return
        known = {row["object_id"]: str(row["subject_id"]) for row in self.links}
        made = {name: subject.subject_id for name, subject in self.complete.items()}
        wanted = list(dict.fromkeys([*made.values(), *known.values()]))
        subjects.link(self.session, self.set_id, wanted)
        found = [each.subject_id for each in subjects.list_members(self.session, self.set_id)]
        if sorted(found) != sorted(wanted):
            strange, lost = sorted(set(found) - set(wanted)), sorted(set(wanted) - set(found))
            odd = [_some("more", strange), _some("missing", lost)]
            raise RefusedError(
                f"The subject set {self.set_id} does not hold just the {len(wanted)} subjects that "
                f"were planned: {' and '.join(filter(None, odd))}.",
                "Take out by hand what was put in by hand; then run zoo-bridge run upload again.",
            )
        for objects in (made, known):
            self.note_ids(objects, "staged")

    # notes

    @property
    def key(self) -> str:
        """Of the object id in a subject's metadata."""
        return self.ctx.settings.upload.metadata_key

    @cached_property
    def metadata(self) -> dict[str, dict[str, str]]:
        """Chosen catalogue columns, by object id."""
        return catalogue_columns(self.ctx, [row["object_id"] for row in self.creates])

    def note(self, object_ids: Sequence[str], state: str) -> None:
        """Write a state to the ledger: the intent, before anything is asked for."""
        self.note_ids(dict.fromkeys(object_ids), state)

    def note_subjects(self, subjects: dict[str, Subject], state: str) -> None:
        """Write what became of objects."""
        self.note_ids({name: each.subject_id for name, each in subjects.items()}, state)

    def note_ids(self, subject_ids: dict[str, Any], state: str) -> None:
        """Write a state and the subjects' ids."""
        self.ctx.ledger.set_objects(self.ctx.settings.project.slug, subject_ids, state)


def _age(subject: Subject) -> tuple[int, str]:
    return len(subject.subject_id), subject.subject_id


def _some(what: str, ids: list[str]) -> str:
    return f"{len(ids)} {what} ({', '.join(ids[:5])})" if ids else ""


def catalogue_columns(ctx: Context, object_ids: list[str]) -> dict[str, dict[str, str]]:
    """Chosen catalogue columns for the subjects' metadata; never a score or a prediction."""
    from zoo_bridge.steps.galaxies import open_store, read_survey

    wanted = ctx.settings.upload.metadata_columns
    if not wanted:
        return {}
    survey = read_survey(ctx, open_store(ctx.settings))
    missing = [name for name in wanted if name.lstrip("#!/") not in survey.columns]
    if missing:
        raise SettingsError(
            f"upload.metadata_columns: the survey has no column {', '.join(missing)}.",
            f"It has {', '.join(survey.columns)}.",
        )
    plain = dict.fromkeys(name.lstrip("#!/") for name in wanted)
    columns = [name for name in plain if name != "object_id"]
    return {
        row["object_id"]: {name: str(row[name.lstrip("#!/")]) for name in wanted}
        for row in survey.find(object_ids, columns).to_dicts()
    }
