"""What is not as it should be, by the ledger alone: of runs on whatever host, by whatever started.

Nothing is remembered here and nobody is told: the same ledger at the same time gives the same
findings. See `zoo_bridge.service.watching.telling` for who is told, and when again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from zoo_bridge.config import JOBS, Settings
from zoo_bridge.cron import Cron
from zoo_bridge.ledger import BatchState, Ledger, RunRecord
from zoo_bridge.ledger.runs import NO_LAST_WORD

# Runs among which the last that did something is looked for.
LOOKED_AT = 50
# What found another at work, or only said what it would do, did nothing.
NO_RUN = ("busy", "planned")
FAILED = ("failed", "stale")
# A run that is later than this is late; clocks of hosts may be apart by so much.
LATE, APART = timedelta(minutes=4), timedelta(minutes=1)
# What somebody stopped is told of only if nobody goes on with it; so is a batch that shows itself.
STOPPED_HOURS = 1.0
# Volunteers' work and the quota are told of before they are a reason to refuse.
NEAR_BACKLOG, RUNS_LEFT = 0.8, 2

# Those that keep the loop from going on; the others are for a person to decide or to know.
PROBLEMS = ("failed", "killed", "refused", "stopped", "overdue", "hangs")


@dataclass(frozen=True)
class Finding:
    """Something that a person should know.

    Parameters
    ----------
    kind : str
        One of those of the setting ``notify.kinds``.
    of : str
        The job, batch or model that it is of.
    text : str
        What happened, in one or two sentences.
    todo : str
        What to do about it.
    run_id : str or None
        The run whose log and report tell more.
    """

    kind: str
    of: str
    text: str
    todo: str = ""
    run_id: str | None = None

    @property
    def name(self) -> str:
        """The same for the same thing, however often it is looked at."""
        return f"{self.kind} {self.of}"

    @property
    def is_problem(self) -> bool:
        """Whether it keeps the loop from going on."""
        return self.kind in PROBLEMS


def look(
    settings: Settings,
    ledger: Ledger,
    at: datetime | None = None,
    notes: Mapping[str, str] | None = None,
) -> list[Finding]:
    """Everything that is not as it should be.

    Parameters
    ----------
    settings : Settings
        The schedule, and the limits of volunteers' work.
    ledger : Ledger
        What has run, on whatever host.
    at : datetime, optional
        The time by which something is late, with a time zone; now by default.
    notes : mapping, optional
        What the scheduler saw of jobs whose processes left no run, by job.

    Returns
    -------
    list of Finding
        Problems first.
    """
    at = at or datetime.now(UTC)
    seen = {job: ledger.list_runs(job, LOOKED_AT) for job in JOBS}
    found = [
        *_of_runs(settings, ledger, seen, at),
        *_overdue(settings, ledger, seen, at, notes or {}),
        *_of_batches(settings, ledger, at),
        *_of_volunteers(settings, ledger, seen),
    ]
    return sorted(found, key=lambda each: not each.is_problem)


def ended_last(runs: list[RunRecord]) -> RunRecord | None:
    """The newest run that did something and has ended."""
    return next((run for run in runs if run.outcome not in (*NO_RUN, "running")), None)


def under_way(runs: list[RunRecord]) -> RunRecord | None:
    """The run that is going on."""
    return next((run for run in runs if run.outcome == "running"), None)


def only_kept_out(ledger: Ledger, run: RunRecord) -> bool:
    """Whether all that was refused in a run is a new model: the loop goes on without it."""
    if run.outcome != "refused":
        return False
    if run.job != "cycle":
        return run.kept_out
    refused = [part for part in ledger.list_parts(run.run_id) if part.outcome == "refused"]
    return bool(refused) and all(part.kept_out for part in refused)


def _of_runs(
    settings: Settings, ledger: Ledger, seen: dict[str, list[RunRecord]], at: datetime
) -> Iterator[Finding]:
    for job, runs in seen.items():
        going, last = under_way(runs), ended_last(runs)
        if going is not None and (late := _past_limit(settings, going, at)):
            yield late
        if last is None:
            continue
        if only_kept_out(ledger, last):
            if job == "retrain":
                yield Finding(
                    "kept out",
                    last.artifact or "",
                    f"The new model was kept out of use: {last.message}",
                    "The model in use goes on; its card says why: zoo-bridge models.",
                    last.run_id,
                )
            continue
        if last.parent is not None:
            # Its cycle tells of it, at its own end.
            continue
        if finding := _of_ended(last, going, at):
            yield finding


def _of_ended(last: RunRecord, going: RunRecord | None, at: datetime) -> Finding | None:
    """What is to be said of a job's last run, if it did not end well."""
    job, message = last.job, last.message or "it did not say why"
    log = f"Its log: zoo-bridge runs {last.run_id}"
    if last.message == NO_LAST_WORD:
        again = f"Run it again, and it goes on: zoo-bridge run {job}. {log}"
        return Finding("killed", job, f"{job}: {message}", again, last.run_id)
    if last.outcome in FAILED:
        return Finding("failed", job, f"{job} failed: {message}", log, last.run_id)
    if last.outcome == "refused":
        return Finding("refused", job, f"{job} was refused: {message}", log, last.run_id)
    if last.outcome == "stopped" and going is None:
        ended = _moment(last.ended_at or last.started_at)
        if at - ended >= timedelta(hours=STOPPED_HOURS):
            again = f"Go on with it: zoo-bridge run {job}"
            return Finding(
                "stopped", job, f"{job} was stopped at {told(ended)}.", again, last.run_id
            )
    return None


def _past_limit(settings: Settings, run: RunRecord, at: datetime) -> Finding | None:
    limit = settings.schedule.time_limit_hours
    began = _moment(run.started_at)
    if at - began <= timedelta(hours=limit) + LATE:
        return None
    return Finding(
        "hangs",
        run.job,
        f"{run.job} has been running since {told(began)}, longer than "
        f"schedule.time_limit_hours ({limit:g} h), and does not stop.",
        f"Its process is {run.owner}: look what it waits for, or kill it; another goes on.",
        run.run_id,
    )


def _overdue(
    settings: Settings,
    ledger: Ledger,
    seen: dict[str, list[RunRecord]],
    at: datetime,
    notes: Mapping[str, str],
) -> Iterator[Finding]:
    lines = settings.schedule.lines
    since, paused = ledger.note_schedule(lines), ledger.paused()
    for job, line in lines.items():
        if job in paused:
            continue
        due = due_by(settings, line, at)
        if due is None or due < _moment(since[job]):
            continue
        if any(run.outcome == "running" for run in seen[job]) or _ran(seen[job], due):
            continue
        note = notes.get(job, "Is zoo-bridge serve (or cron) running?")
        text = f"{job} was due at {told(due)} ({line}) and did not run."
        yield Finding("overdue", job, text, f"{note} Run it by hand: zoo-bridge run {job}")


def due_by(settings: Settings, line: str, at: datetime) -> datetime | None:
    """The last time by which a run of a line must have begun, by now."""
    jitter = timedelta(minutes=settings.schedule.jitter_minutes)
    return Cron(line, settings.schedule.timezone).last(at - LATE - jitter)


def _ran(runs: list[RunRecord], due: datetime) -> bool:
    """Whether a run began when it was due, or was going on then: two at once there are not."""
    did = [run for run in runs if run.outcome not in NO_RUN]
    return any(
        _moment(run.started_at) >= due - APART or _moment(run.ended_at or run.started_at) >= due
        for run in did
    )


def _of_batches(settings: Settings, ledger: Ledger, at: datetime) -> Iterator[Finding]:
    for batch in ledger.list_batches():
        if batch.state != BatchState.STAGED:
            continue
        done = [event.at for event in ledger.list_events(batch.name) if event.what == "staged"]
        since = _moment(max(done, default=batch.created_at))
        itself = settings.upload.publish == "automatic"
        if itself and at - since < timedelta(hours=STOPPED_HOURS):
            continue
        yield Finding(
            "approval",
            batch.name,
            f"{batch.name} waits for approval since {told(since)}: {batch.size} galaxies.",
            f"Look at its contact sheet, then: zoo-bridge publish {batch.name} (or abandon).",
        )


def _of_volunteers(
    settings: Settings, ledger: Ledger, seen: dict[str, list[RunRecord]]
) -> Iterator[Finding]:
    measures = ledger.measures()
    upload = settings.upload
    days, left = measures.get("backlog_days"), measures.get("quota_left")
    if days is not None and days > NEAR_BACKLOG * upload.max_backlog_days:
        yield Finding(
            "backlog",
            "volunteers",
            f"Volunteers have {days:.0f} days of work before them; no batch is uploaded beyond "
            f"{upload.max_backlog_days:g} (upload.max_backlog_days).",
            "Upload less often or fewer, or raise the limit.",
        )
    if left is not None and left < RUNS_LEFT * upload.per_run:
        yield Finding(
            "quota",
            "account",
            f"The account may upload {left:.0f} more subjects, ever: fewer than {RUNS_LEFT} times "
            f"upload.per_run ({upload.per_run}).",
            "Ask Zooniverse for a higher limit, or lower upload.per_run.",
        )
    staged = any(
        batch.state in (BatchState.STAGED, BatchState.STAGING) for batch in ledger.list_batches()
    )
    last = ended_last(seen["upload"])
    if staged or last is None or last.artifact is not None:
        return
    if measures.get("waiting_subjects") == 0:
        yield Finding(
            "dry",
            "volunteers",
            f"Volunteers have finished every galaxy, and no batch waits: {last.message}.",
            "See why the last upload made none: zoo-bridge runs " + last.run_id,
            last.run_id,
        )


def too_old(settings: Settings, ledger: Ledger, most: timedelta) -> str | None:
    """What is to be said if the loop's last success is older than it may be.

    Parameters
    ----------
    settings : Settings
        Its schedule says which job stands for the loop: the cycle, or else whatever is scheduled,
        or else whatever has ever run.
    ledger : Ledger
        What has run.
    most : timedelta
        How old it may be.

    Returns
    -------
    str or None
        A sentence, if it is too old.
    """
    ran = [job for job in JOBS if ledger.list_runs(job, 1)]
    jobs = list(settings.schedule.lines) or ran
    if "cycle" in jobs:
        jobs = ["cycle"]
    if not jobs:
        return "Nothing has ever run."
    for job in jobs:
        last = last_well(ledger, job)
        if last is None:
            return f"{job} has never ended well."
        age = datetime.now(UTC) - _moment(last.ended_at or last.started_at)
        if age > most:
            hours = age.total_seconds() / 3600
            return f"{job} last ended well {hours:.0f} h ago, longer than --max-age."
    return None


def last_well(ledger: Ledger, job: str) -> RunRecord | None:
    """The last run that ended well, a cycle whose new model was kept out among them."""
    good = ledger.last_done(job)
    if job != "cycle":
        return good
    for run in ledger.list_runs(job, LOOKED_AT):
        if run.outcome == "refused" and only_kept_out(ledger, run):
            return run
        if good is not None and run.run_id == good.run_id:
            break
    return good


def told(moment: datetime) -> str:
    """A time as it stands in a message."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
