"""Creating a batch's subjects: several calls at a time, and never one twice in the dark.

The server takes one subject a call and forgets nothing: each create puts its subject into the
staging set in the same transaction, so the members of the set are the record of what was done. A
create whose answer did not come is in doubt. Then no new ones start, those under way end, the
members are read, newest first, and it goes on with the others; what is in doubt waits until it was
looked for over a while. Only then it is asked for again, and only so often in a run: a gateway
that answers 502 while creates are carried out minutes later must not double a batch. So there are
never more in doubt, nor under way, than may be asked for once more.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from zoo_bridge.errors import OutcomeUnknownError, SwitchedOffError, ZooniverseError
from zoo_bridge.ledger import IN_DOUBT, ObjectState
from zoo_bridge.steps.batches.patience import Patience, is_trouble
from zoo_bridge.steps.batches.staging import GIVEN_UP, Staging

if TYPE_CHECKING:
    from zoo_bridge.zooniverse.subjects import Subject

Row = dict[str, Any]
# At least so many may be asked for once more, however small the batch.
FEWEST_REPEATS = 5
# After so long nobody need wait for a create any longer.
LOST_SECONDS = 24 * 3600.0
# Answers about the run and not about one subject: who we are, what we may, where it goes.
OURS = (401, 403, 404)
NOT_LINKED = "Couldn't find linked"


@dataclass
class Doubt:
    """A create that may or may not have been carried out.

    Parameters
    ----------
    asked_at : float
        When it was sent, or when waiting for its answer ended, in seconds since 1970.
    above : int
        Its subject's number is greater than this, if there is one.
    """

    asked_at: float
    above: int = 0

    @property
    def age(self) -> float:
        """Seconds that it was looked for."""
        return time.time() - self.asked_at


class Creator:
    """Brings every planned object into the staging set, once.

    Parameters
    ----------
    work : Staging
        The staging under way: its set, plan and pictures.
    advance : callable
        Called with the number of subjects that are there now and were not before.

    Attributes
    ----------
    present : dict
        Members of the set by object id; of what is there twice, the first.
    """

    def __init__(self, work: Staging, advance: Callable[[int], None]) -> None:
        self.work = work
        self.advance = advance
        self.config = work.ctx.settings.upload
        self.patience = Patience(60 * self.config.patience_minutes, work.session.pause)
        self.present: dict[str, Subject] = {}
        self.doubts: dict[str, Doubt] = {}
        share = math.ceil(self.config.doubt_share * len(work.creates))
        self.repeats = max(FEWEST_REPEATS, share)
        # No more under way than may be asked for once more.
        self.most = min(self.config.connections, self.repeats)
        self.width = self.most
        # Whether the last create was answered; what was given up and is to be asked for again.
        self.well = True
        self._again: set[str] = set()
        self._given_up: dict[str, Doubt] = {}
        self.ended = False
        self._newest = 0
        self._advanced = 0
        self._sent: list[Future[str]] = []

    def run(self) -> None:
        """Create what is missing, until all is there or it does not go on.

        Raises
        ------
        ZooniverseError
            If the set is gone, or its members cannot be read.
        """
        self._take(self.patience.on(self.work.members))
        self.work.bring_back(self.present)
        self._recall_doubts()
        while self._goes_on():
            pass
        # Whatever came of them is seen when the pictures are fetched back.
        for future in self._sent:
            future.result()

    def _goes_on(self) -> bool:
        """One round: create what may be created; else wait for what is in doubt."""
        todo = [
            row
            for row in self.work.creates
            if (name := row["object_id"]) not in self.present
            and name not in self.doubts
            and name not in self.work.failures
        ]
        if self.doubts and len(self.doubts) >= self.repeats:
            # More would be more than can be asked for once more.
            todo = [row for row in todo if row["object_id"] in self._again]
        if todo:
            error = self._send(todo)
            return error is None or self._recover(error)
        if self.doubts:
            return self._settle()
        return False

    # sending

    def _send(self, rows: Iterable[Row]) -> ZooniverseError | None:
        """Create subjects side by side until all were sent or something is wrong: what it was."""
        waiting = iter(rows)
        under_way: dict[Future[Subject], tuple[str, Doubt]] = {}
        wrong: ZooniverseError | None = None
        with ThreadPoolExecutor(self.config.connections) as pool:
            try:
                while True:
                    while wrong is None and len(under_way) < self._room():
                        row = next(waiting, None)
                        if row is None:
                            break
                        future, doubt = self._start(pool, row)
                        under_way[future] = row["object_id"], doubt
                    if not under_way:
                        return wrong
                    for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                        wrong = self._ended(future, *under_way.pop(future)) or wrong
            except BaseException:
                # Told to stop: those under way end, and what they made is noted.
                for future in wait(under_way).done:
                    self._ended(future, *under_way[future])
                raise

    def _room(self) -> int:
        """How many may be under way: with those in doubt, as many as may be asked for again."""
        return max(1, min(self.width, self.repeats - len(self.doubts)))

    def _start(self, pool: ThreadPoolExecutor, row: Row) -> tuple[Future[Subject], Doubt]:
        """Write the intent, then send."""
        name = row["object_id"]
        self._again.discard(name)
        self.work.ctx.ledger.require_lock()
        frames = self.work.frames(name)
        metadata = {**self.work.metadata.get(name, {}), self.work.key: name}
        self.work.note_asked(name)
        doubt = Doubt(time.time(), self._newest)
        return pool.submit(self.work.create_one, metadata, [f.mime for f in frames]), doubt

    def _ended(self, future: Future[Subject], name: str, doubt: Doubt) -> ZooniverseError | None:
        """Take the answer to a create; the error that the run has to deal with, if it is one."""
        try:
            subject = future.result()
        except OutcomeUnknownError as error:
            # It was not looked for while its answer was waited for.
            doubt.asked_at = time.time()
            if (before := self._given_up.get(name)) is not None:
                doubt.above = min(doubt.above, before.above)
            self.doubts[name] = doubt
            self.well = False
            self.work.note_doubt(name, error)
            return error
        except ZooniverseError as error:
            # It was answered: nothing was made, though an earlier try may come through yet.
            again = name in self._given_up
            self.work.note([name], ObjectState.DOUBTFUL if again else ObjectState.PLANNED)
            if name in self._given_up:
                self._again.add(name)
            if error.status == 409 or is_trouble(error) or self._is_ours(error):
                return error
            self.work.failures[name] = error.message
            return None
        self._note_present({name: subject})
        self._sent.append(self.work.pictures.put(subject.urls, self.work.frames(name)))
        self.well, self.width = True, self.most
        return None

    @staticmethod
    def _is_ours(error: ZooniverseError) -> bool:
        """Whether the answer would be the same for every subject."""
        ours = error.status in OURS or isinstance(error, SwitchedOffError)
        return ours or error.reason.startswith(NOT_LINKED)

    # trouble

    def _recover(self, error: ZooniverseError) -> bool:
        """After something went wrong: wait, look, and say whether to go on."""
        passes = error.status == 409 or is_trouble(error)
        if not passes:
            self._end(error.message, error.hint)
            return False
        self.work.ctx.log.warning("%s", error.message)
        again = self.width == 1
        while self.patience.wait():
            try:
                self._read_new_members()
                if again:
                    self._try_a_write()
            except ZooniverseError as away:
                if not is_trouble(away):
                    raise
                self.work.ctx.log.warning("%s", away.message)
                continue
            # One at a time until one goes through.
            self.width = 1
            return True
        minutes = f"{self.config.patience_minutes:g} minutes"
        self._end(f"nothing got better for {minutes} (upload.patience_minutes): {error.message}")
        return False

    def _try_a_write(self) -> None:
        """Put nothing into the set: a write that does no harm, before one that may."""
        from zoo_bridge.zooniverse import subjects

        subjects.touch(self.work.session, self.work.set_id)

    def _read_new_members(self) -> None:
        """Read the members that are newer than what was there before the oldest doubt."""
        from zoo_bridge.zooniverse import subjects

        above = min((doubt.above for doubt in self.doubts.values()), default=self._newest)
        found = subjects.newest_members(self.work.session, self.work.set_id, above)
        self._take(self.work.by_object(found))

    def _take(self, found: dict[str, Subject]) -> None:
        """Members that were read: some may be new to us, some in doubt until now."""
        new = {name: each for name, each in found.items() if name not in self.present}
        if new:
            self._note_present(new)
        newest = (int(each.subject_id) for each in found.values())
        self._newest = max(self._newest, *newest, 0)

    def _note_present(self, subjects: dict[str, Subject]) -> None:
        """Subjects that are there, whoever said so."""
        for name, subject in subjects.items():
            self.present[name] = subject
            self.doubts.pop(name, None)
            self._newest = max(self._newest, int(subject.subject_id))
        self.work.note_subjects(subjects, ObjectState.CREATED)
        self.patience.progress()
        self.advance(len(self.present) - self._advanced)
        self._advanced = len(self.present)

    # doubts

    def _recall_doubts(self) -> None:
        """What earlier runs asked for and never heard of, and is not among the members."""
        for row in self.work.ctx.ledger.list_objects(self.work.batch.name):
            name = row.object_id
            if row.state not in IN_DOUBT or name in self.present:
                continue
            asked = datetime.fromisoformat(row.updated_at).timestamp()
            # A clock that was ahead then must not make this run wait for its time.
            self.doubts[name] = Doubt(min(asked, time.time()))

    def _settle(self) -> bool:
        """Look for what is in doubt until each was looked for long enough; then ask again."""
        # While nothing is answered, the newest too: each create is a try, and there are few.
        last = min if self.well else max
        while self.doubts:
            ages = (-doubt.age for doubt in self.doubts.values())
            left = self.config.doubt_seconds + last(ages)
            if left <= 0:
                break
            # Not more often than it takes to be found soon after it appears.
            time.sleep(min(left, max(self.work.session.pause, self.config.doubt_seconds / 6)))
            self.patience.on(self._read_new_members)
        self.patience.on(self._read_new_members)
        if not self.doubts:
            return True
        return self._give_up_doubts()

    def _give_up_doubts(self) -> bool:
        """Let what was looked for in vain be asked for once more, as far as a run may."""
        waited = self.config.doubt_seconds
        aged = [name for name, doubt in self.doubts.items() if doubt.age >= waited]
        if not aged:
            return True
        # A last time all of it, and whether the set is there: that of one that is gone is empty.
        self._take(self.patience.on(self.work.members))
        aged = [name for name in aged if name in self.doubts]
        if not aged:
            return True
        again = [name for name in aged if self.doubts[name].age >= LOST_SECONDS]
        others = [name for name in aged if name not in again][: self.repeats]
        # While nothing is answered, one try at a time.
        others = others if self.well else others[:1]
        self.repeats -= len(others)
        again += others
        if not again:
            count = len(self.doubts)
            self._end(
                f"{count} creates were not answered, and none of them can be seen in the set; this "
                "run has asked once more for as many as it may (upload.doubt_share)",
                "The next run looks for them again.",
            )
            return False
        self.work.ctx.ledger.add_event(self.work.batch.name, GIVEN_UP, {"objects": again})
        for name in again:
            self._given_up[name] = self.doubts.pop(name)
        self._again.update(again)
        return True

    def _end(self, why: str, hint: str = "") -> None:
        """Give every object that is still missing the reason why."""
        self.work.hint = hint
        self.ended = True
        for row in self.work.creates:
            if row["object_id"] not in self.present:
                self.work.failures.setdefault(row["object_id"], why)
