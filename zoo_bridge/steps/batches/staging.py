"""One staging under way: its set, its members, its pictures, and what the ledger is told.

The parts that the story of `stage` is made of; `creating` brings in the subjects that are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_bridge.errors import InputError, RefusedError, SettingsError, ZooniverseError
from zoo_bridge.ledger import Batch, ObjectState
from zoo_bridge.steps.batches.patience import Patience
from zoo_bridge.steps.context import Context

if TYPE_CHECKING:
    from zoo_bridge.zooniverse.project import Project
    from zoo_bridge.zooniverse.session import Session
    from zoo_bridge.zooniverse.subjects import Picture, Pictures, Subject

MIMES = {".jpg": "image/jpeg", ".png": "image/png"}
# A store that answers and keeps nothing is not waited for.
ROUNDS = 4
# What the ledger is told of a batch.
SET_MADE = "set made"
NO_ANSWER, GIVEN_UP = "create without answer", "create given up"
# What says that a create may still be carried out: today, and in batches of version 0.1.
LATE = (GIVEN_UP, "create unanswered")

Row = dict[str, Any]


def give_up(name: str) -> str:
    """What to do about a batch whose folder is gone: the hint of an error."""
    return (
        f"If its folder cannot be put back, give the batch up with: zoo-bridge abandon {name}; "
        "what was not created yet can be planned again."
    )


def facts_of(ctx: Context, name: str) -> dict[str, Any]:
    """What was settled when a batch was planned, whatever the settings say by now."""
    planned = [row for row in ctx.ledger.list_events(name) if row.what == "planned"]
    return dict(planned[0].facts) if planned else {}


def publishes_itself(ctx: Context, name: str) -> bool:
    """Whether a batch was planned to be shown without approval, and no person has touched it."""
    events = ctx.ledger.list_events(name)
    touched = any(row.what in ("left out", "replaced") for row in events)
    return not touched and facts_of(ctx, name).get("publish") == "automatic"


@dataclass
class Staging:
    """One staging under way.

    ``complete`` has the members whose pictures were fetched back and are right, by object id;
    ``linked`` those that were subjects before, ``refused`` those of them that cannot be shown.
    """

    ctx: Context
    session: Session
    pictures: Pictures
    project: Project
    batch: Batch
    folder: Path
    rows: list[Row]
    account: str
    set_id: str = ""
    final_id: str = ""
    complete: dict[str, Subject] = field(default_factory=dict)
    linked: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    hint: str = ""
    extra: int = 0

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What was settled when the batch was planned."""
        return facts_of(self.ctx, self.batch.name)

    def open_set(self) -> None:
        """Make the set that subjects are created in, or find it."""
        name = self.batch.name
        made = [row for row in self.ctx.ledger.list_events(name) if row.what == SET_MADE]
        if made:
            self.set_id = str(made[0].facts["id"])
        else:
            self.set_id = self._make_set()
            self.ctx.ledger.add_event(name, SET_MADE, {"id": self.set_id})
            self.ctx.ledger.set_batch(name, subject_set_id=self.set_id)

    def _make_set(self, which: str = "") -> str:
        """A subject set, or the one of that name: called after project, date and run."""
        from zoo_bridge.zooniverse import subjects

        name, day = self.batch.name, self.batch.created_at[:10]
        title = f"zoo_bridge {self.project.name} {day} {name}{which}"
        project_id = self.project.project_id
        return self.patience.on(
            lambda: subjects.create_set(self.session, project_id, title, f"{name}{which}")
        )

    @cached_property
    def patience(self) -> Patience:
        """For what is not creating."""
        minutes = self.ctx.settings.upload.patience_minutes
        return Patience(60 * minutes, self.session.pause)

    @cached_property
    def creates(self) -> list[Row]:
        """What is to become a subject."""
        return [row for row in self.rows if row["action"] == "create"]

    @cached_property
    def links(self) -> list[Row]:
        """What is a subject already."""
        return [row for row in self.rows if row["action"] == "link"]

    def reason(self) -> str:
        """Why something failed."""
        return next(iter(self.failures.values()), "no reason was given")

    # creating

    def create_one(self, metadata: dict[str, Any], mimes: list[str]) -> Subject:
        """Create a subject in the set; called by several threads."""
        from zoo_bridge.zooniverse import subjects

        return subjects.create(self.session, self.project.project_id, self.set_id, metadata, mimes)

    def bring_back(self, present: dict[str, Subject]) -> None:
        """What was created and is in the set no longer is put back, never created again."""
        from zoo_bridge.zooniverse import subjects

        created_here = {row["object_id"] for row in self.creates}
        back: dict[str, str] = {}
        for row in self.ctx.ledger.list_objects(self.batch.name):
            name, ident = row.object_id, row.subject_id
            if ident is None or name in present or name not in created_here:
                continue
            try:
                self.patience.on(partial(subjects.link, self.session, self.set_id, [ident]))
            except ZooniverseError as error:
                if error.status != 422:
                    raise
                self.failures[name] = f"subject {ident} left its set: {error.message}"
            else:
                back[name] = ident
        found = self.patience.on(self.members) if back else {}
        for name, ident in back.items():
            if name in found:
                present[name] = found[name]
            else:
                self.failures[name] = (
                    f"subject {ident} no longer says under {self.key} what it shows; put that "
                    "right on Zooniverse"
                )

    def members(self) -> dict[str, Subject]:
        """All of the set's members by object id; of what is there twice, the first."""
        from zoo_bridge.zooniverse import subjects

        try:
            found = subjects.list_members(self.session, self.set_id)
        except ZooniverseError as error:
            if error.status == 404:
                error.hint = (
                    f"The subject set of {self.batch.name} was deleted, or this account has "
                    f"lost its rights ({self.session.who}). Put that right, or give the batch up "
                    f"with: zoo-bridge abandon {self.batch.name}."
                )
            raise
        return self.by_object(found)

    def by_object(self, found: list[Subject]) -> dict[str, Subject]:
        """Some members by object id; of what is there twice, the first."""
        planned = {row["object_id"] for row in self.creates}
        grouped: dict[str, list[Subject]] = {}
        for subject in found:
            name = str(subject.metadata.get(self.key, ""))
            if name in planned:
                grouped.setdefault(name, []).append(subject)
        self.extra = max(self.extra, sum(len(many) - 1 for many in grouped.values()))
        return {name: min(many, key=_age) for name, many in grouped.items()}

    # pictures

    def check_all(self, advance: Callable[[int], None]) -> None:
        """Fetch every picture back and compare; send again what is not right."""
        self.patience.progress()
        stalled = 0
        while True:
            present = self.patience.on(self.members)
            asked = {
                name: self.pictures.are_there(subject.urls, self.frames(name))
                for name, subject in present.items()
                if name not in self.complete
            }
            right = {name: present[name] for name, future in asked.items() if future.result()}
            self.note_subjects(right, ObjectState.UPLOADED)
            self.complete |= right
            advance(len(right))
            wrong = [name for name in asked if name not in right]
            if right:
                self.patience.progress()
            stalled = 0 if right else stalled + 1
            if not wrong:
                break
            self.ctx.log.warning("%d pictures are missing or wrong, sending again", len(wrong))
            away = self._send_again({name: present[name] for name in wrong})
            if away and self.patience.wait():
                # The store is in trouble: that passes.
                continue
            if stalled >= ROUNDS:
                break
        for name in self.complete:
            self.failures.pop(name, None)

    def _send_again(self, wrong: dict[str, Subject]) -> bool:
        """Send pictures to new addresses of their files; whether the store was in trouble."""
        from zoo_bridge.zooniverse import subjects

        sent = {}
        for name, subject in wrong.items():
            ident = subject.subject_id
            try:
                urls = self.patience.on(partial(subjects.fresh_addresses, self.session, ident))
            except ZooniverseError as error:
                self.failures[name] = error.message
                continue
            sent[name] = self.pictures.put(urls, self.frames(name))
        away = False
        for name, future in sent.items():
            told = future.result()
            away = away or told.startswith(subjects.STORE_AWAY)
            why = told or "the store kept nothing"
            ident = wrong[name].subject_id
            self.failures[name] = f"the picture of subject {ident} did not arrive: {why}"
        return away

    def frames(self, object_id: str) -> list[Picture]:
        """An object's pictures, as they were drawn when the batch was planned."""
        from zoo_bridge.zooniverse.subjects import Picture

        paths = self._paths.get(object_id, [])
        if not paths or not all(path.is_file() for path in paths):
            raise InputError(
                f"The pictures of {object_id} are no longer in {self.folder / 'previews'}.",
                give_up(self.batch.name),
            )
        return [Picture(path.read_bytes(), MIMES[path.suffix]) for path in paths]

    @cached_property
    def _paths(self) -> dict[str, list[Path]]:
        """Files by object, frame after frame."""
        by_rank: dict[int, list[Path]] = {}
        for path in sorted((self.folder / "previews").glob("*-*")):
            by_rank.setdefault(int(path.name.partition("-")[0]), []).append(path)
        return {row["object_id"]: by_rank.get(row["rank"], []) for row in self.rows}

    # the end

    def link_all(self) -> None:
        """Put everything into the set that volunteers will see, and read it a last time.

        That is the set of the creates, unless one of them was given up. For its members the call
        does nothing but has the side effects of a link: the server counts the set anew.
        """
        from zoo_bridge.zooniverse import subjects

        self.patience.progress()
        self.final_id = self.set_id
        made = {name: subject.subject_id for name, subject in self.complete.items()}
        events = self.ctx.ledger.list_events(self.batch.name)
        if any(row.what in LATE for row in events):
            self.final_id = self._make_set(" (checked)")
        linked = list(dict.fromkeys(made.values()))
        self.patience.on(lambda: subjects.link(self.session, self.final_id, linked))
        self._link_known()
        self._take_out()
        wanted = {*made.values(), *self.linked.values()}
        members = self.patience.on(lambda: subjects.list_members(self.session, self.final_id))
        found = [each.subject_id for each in members]
        if sorted(found) != sorted(wanted):
            strange, lost = sorted(set(found) - wanted), sorted(wanted - set(found))
            odd = [_some("more", strange), _some("missing", lost)]
            raise RefusedError(
                f"The subject set {self.final_id} does not hold just the {len(wanted)} subjects "
                f"that were planned: {' and '.join(filter(None, odd))}.",
                "Take out by hand what was put in by hand; then run zoo-bridge run upload again.",
            )
        for objects in (made, self.linked):
            self.note_ids(objects, ObjectState.STAGED)

    def _take_out(self) -> None:
        """Unlink what a person left out: the server may not have heard of it."""
        from zoo_bridge.zooniverse import subjects

        rows = self.ctx.ledger.list_objects(self.batch.name)
        out = [str(row.subject_id) for row in rows if row.state == ObjectState.LEFT_OUT]
        if out:
            self.patience.on(lambda: subjects.unlink(self.session, self.final_id, out))

    def _link_known(self) -> None:
        """Link what was a subject before, if its pictures are to be seen."""
        from zoo_bridge.zooniverse import subjects

        known = {row["object_id"]: str(row["subject_id"]) for row in self.links}
        if not known:
            return
        for name, ident in known.items():
            try:
                self.patience.on(partial(subjects.link, self.session, self.final_id, [ident]))
            except ZooniverseError as error:
                # It was deleted, say: one object less. A 404 would be about the set, or us.
                if error.status != 422:
                    raise
                self.refused[name] = error.message
        present = {
            each.subject_id: each for each in subjects.list_members(self.session, self.final_id)
        }
        there = {
            name: present[ident]
            for name, ident in known.items()
            if name not in self.refused and ident in present
        }
        ours = {name: there.pop(name) for name in list(there) if name in self.redrawn}
        asked = {name: self.pictures.are_seen(each.urls) for name, each in there.items()}
        dark = {
            name: "its picture cannot be seen"
            for name, future in asked.items()
            if not future.result()
        } | self._redraw(ours)
        if dark:
            subjects.unlink(self.session, self.final_id, [known[name] for name in dark])
        self.refused |= dark
        for name, why in self.refused.items():
            self.ctx.say(f"{name} (subject {known[name]}) is skipped: {why}")
        self.note_ids({name: known[name] for name in self.refused}, ObjectState.SKIPPED)
        self.linked = {name: ident for name, ident in known.items() if name not in self.refused}

    def _redraw(self, ours: dict[str, Subject]) -> dict[str, str]:
        """Let subjects of a batch that was given up show what this one drew; which cannot, and why.

        They may be without a picture, or with one that was the reason for giving the batch up.

        Raises
        ------
        ZooniverseError
            If pictures do not arrive: the batch stays as it is, and the next run goes on.
        """
        wrong = {}
        for name, subject in ours.items():
            if str(subject.metadata.get(self.key, "")) != name:
                wrong[name] = f"its metadata do not say {name} under {self.key}"
            elif len(subject.urls) != len(self.frames(name)):
                wrong[name] = f"it has {len(subject.urls)} pictures, not {len(self.frames(name))}"
        left = {name: subject for name, subject in ours.items() if name not in wrong}
        self.patience.progress()
        attempts = 0
        while left:
            asked = {
                name: self.pictures.are_there(subject.urls, self.frames(name))
                for name, subject in left.items()
            }
            before = len(left)
            left = {name: left[name] for name, future in asked.items() if not future.result()}
            if len(left) < before:
                self.patience.progress()
            if not left:
                break
            away = self._send_again(left)
            if away and self.patience.wait():
                continue
            attempts += 1
            if attempts >= ROUNDS:
                raise ZooniverseError(
                    f"{self.batch.name}: pictures of {len(left)} subjects that are to be linked "
                    f"did not arrive; {self.reason()}",
                    "It stays unpublished; zoo-bridge run upload goes on with it.",
                )
        for name in ours:
            self.failures.pop(name, None)
        return wrong

    # notes

    @cached_property
    def redrawn(self) -> frozenset[str]:
        """What is linked of batches of ours that were given up, and has no votes."""
        events = self.ctx.ledger.list_events(self.batch.name)
        return frozenset(name for row in events for name in row.facts.get("redrawn", ()))

    @property
    def key(self) -> str:
        """Of the object id in a subject's metadata."""
        return str(self.facts.get("key") or self.ctx.settings.upload.metadata_key)

    @cached_property
    def metadata(self) -> dict[str, dict[str, str]]:
        """Chosen catalogue columns, by object id."""
        return catalogue_columns(self.ctx, [row["object_id"] for row in self.creates])

    def note_asked(self, object_id: str) -> None:
        """Write the intent to create an object's subject, before it is asked for."""
        self.ctx.ledger.ask_for(self.batch.name, object_id, self.account)

    def note_doubt(self, object_id: str, error: ZooniverseError) -> None:
        """Write that a create was not answered."""
        self.ctx.ledger.add_event(
            self.batch.name, NO_ANSWER, {"object": object_id, "why": error.message}
        )
        self.note([object_id], ObjectState.DOUBTFUL)

    def note(self, object_ids: Sequence[str], state: ObjectState) -> None:
        """Write a state of objects without a subject."""
        self.note_ids(dict.fromkeys(object_ids), state)

    def note_subjects(self, subjects: dict[str, Subject], state: ObjectState) -> None:
        """Write what became of objects."""
        self.note_ids({name: each.subject_id for name, each in subjects.items()}, state)

    def note_ids(self, subject_ids: dict[str, Any], state: ObjectState) -> None:
        """Write a state and the subjects' ids."""
        self.ctx.ledger.set_objects(self.batch.name, subject_ids, state)


def _age(subject: Subject) -> tuple[int, str]:
    return len(subject.subject_id), subject.subject_id


def _some(what: str, ids: list[str]) -> str:
    return f"{len(ids)} {what} ({', '.join(ids[:5])})" if ids else ""


def catalogue_columns(ctx: Context, object_ids: list[str]) -> dict[str, dict[str, str]]:
    """Chosen catalogue columns for the subjects' metadata; never a score or a prediction."""
    from zoo_bridge.steps.inputs import open_store, read_survey

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
        row["object_id"]: {
            name: str(value)
            for name in wanted
            if (value := row[name.lstrip("#!/")]) is not None and value == value
        }
        for row in survey.find(object_ids, columns).to_dicts()
    }
