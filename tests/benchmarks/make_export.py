"""A classifications export of any size, shaped like Galaxy Zoo's.

An eleven-task decision tree with pictures in its labels, some forty votes a subject, anonymous and
logged-in volunteers, repeats, rows before launch and rows of another workflow, as real files have
them; about 1.7 kB a row. The same size and seed give the same file.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np

WORKFLOW = 6122
VOTES_EACH = 40
COLUMNS = (
    "classification_id,user_name,user_id,user_ip,workflow_id,workflow_name,workflow_version,"
    "created_at,gold_standard,expert,metadata,annotations,subject_data,subject_ids"
)
# Task: question, answers with the task that follows.
TREE: dict[str, tuple[str, list[tuple[str, str | None]]]] = {
    "T0": (
        "Is the galaxy smooth, or does it have features?",
        [("Smooth", "T1"), ("Features or Disk", "T2"), ("Star or Artifact", None)],
    ),
    "T1": (
        "How rounded is it?",
        [("Completely round", "T11"), ("In between", "T11"), ("Cigar shaped", "T11")],
    ),
    "T2": ("Could this be a disk viewed edge-on?", [("Yes - Edge On", "T3"), ("No", "T4")]),
    "T3": (
        "Does it have a bulge at its centre?",
        [("Boxy", "T11"), ("None", "T11"), ("Round", "T11")],
    ),
    "T4": ("Is there a bar?", [("Strong Bar", "T5"), ("Weak Bar", "T5"), ("No Bar", "T5")]),
    "T5": ("Is there a spiral pattern?", [("Yes", "T6"), ("No", "T8")]),
    "T6": (
        "How tightly wound are the arms?",
        [("Tight", "T7"), ("Medium", "T7"), ("Loose", "T7")],
    ),
    "T7": (
        "How many arms are there?",
        [(name, "T8") for name in ("1", "2", "3", "4", "More than 4", "Can't tell")],
    ),
    "T8": (
        "How prominent is the bulge?",
        [(name, "T11") for name in ("None", "Small", "Moderate", "Large", "Dominant")],
    ),
    "T11": (
        "Is it merging or disturbed?",
        [("Merging", "T10"), ("Minor disturbance", "T10"), ("None", "T10")],
    ),
    "T10": (
        "Do you see any of these rare features?",
        [(name, None) for name in ("Ring", "Lens or arc", "Dust lane", "Irregular", "Overlapping")],
    ),
}
PEOPLE = 20_000
POOL = 20_000


def make(path: Path, rows: int, seed: int = 0, first_id: int = 100_000_000) -> Path:
    """Write a gzipped export.

    Parameters
    ----------
    path : Path
        Where to.
    rows : int
        How many classifications.
    seed : int
        Same seed, same file.
    first_id : int
        The first classification's number.

    Returns
    -------
    Path
        The same path.
    """
    rng = np.random.default_rng(seed)
    subjects = max(1, rows // VOTES_EACH)
    facts = [_cell(_subject(15_000_000 + number, rng)) for number in range(min(subjects, POOL))]
    answers = [_cell(_annotations(rng)) for _ in range(POOL)]
    devices = [_metadata(rng) for _ in range(500)]
    people = 1 + (PEOPLE * rng.uniform(size=rows) ** 3).astype(int)
    anonymous = rng.uniform(size=rows) < 0.35
    other = rng.uniform(size=rows) < 0.02
    early = rng.uniform(size=rows) < 0.01
    # Volunteers see subjects in a window that moves through the survey, as Panoptes serves them.
    window = (np.arange(rows) / VOTES_EACH + rng.uniform(-200, 200, rows)).astype(int) % subjects
    picks = rng.integers(POOL, size=rows)
    device = rng.integers(len(devices), size=rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(f"{COLUMNS}\n".encode())
        for start in range(0, rows, 10_000):
            lines = []
            for row in range(start, min(start + 10_000, rows)):
                seconds = row * 3
                clock = f"{seconds // 3600 % 24:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
                day = f"20{18 + seconds // 31_104_000:02d}-{seconds // 2_592_000 % 12 + 1:02d}"
                day = f"{day}-{seconds // 86_400 % 28 + 1:02d}"
                address = f"{(int(people[row]) * 2654435761 + seed) % 2**80:020x}"
                user = f"not-logged-in-{address}," if anonymous[row] else f"vol-{people[row]},"
                number = "" if anonymous[row] else str(200_000 + people[row])
                head, middle, tail = devices[device[row]]
                live = "false" if early[row] else "true"
                subject = int(window[row])
                lines.append(
                    f"{first_id + row},{user}{number},{address},"
                    f"{WORKFLOW + int(other[row])},DECaLS,{28 + row * 9 // rows}.{row % 97},"
                    f"{day} {clock} UTC,,,{head}{day}T{clock}.534Z{middle}{live}{tail},"
                    f"{answers[picks[row]]},"
                    + facts[subject % POOL].replace(
                        str(15_000_000 + subject % POOL), str(15_000_000 + subject)
                    )
                    + f",{15_000_000 + subject}\n"
                )
            file.write("".join(lines).encode())
    return path


def _cell(value: Any) -> str:
    """A JSON value as a cell of a CSV file."""
    text = json.dumps(value, separators=(",", ":"))
    return '"' + text.replace('"', '""') + '"'


def _metadata(rng: np.random.Generator) -> tuple[str, str, str]:
    """A browser's metadata, in three pieces: before the time, before live_project, the rest."""
    whole = _cell(
        {
            "source": "api",
            "session": rng.bytes(32).hex(),
            "viewport": {"width": int(rng.integers(400, 2600)), "height": 1259},
            "started_at": "@TIME@",
            "user_agent": "Mozilla/5.0 (Macintosh; Intel Mac OS X 10.12; rv:58.0) Gecko/20100101 "
            f"Firefox/{rng.integers(50, 140)}.0",
            "utc_offset": str(rng.integers(-12, 12) * 3600),
            "live_project": "@LIVE@",
            "interventions": {"opt_in": True, "messageShown": False},
            "user_language": "en",
            "user_group_ids": [],
            "subject_dimensions": [
                {"clientWidth": 424, "clientHeight": 424, "naturalWidth": 424, "naturalHeight": 424}
            ],
            "subject_selection_state": {"retired": False, "already_seen": False},
            "workflow_translation_id": "32257",
        }
    )
    head, _, rest = whole.partition("@TIME@")
    middle, _, tail = rest.partition('""@LIVE@""')
    return head, middle, tail


def _annotations(rng: np.random.Generator) -> list[dict[str, Any]]:
    """One volunteer's way through the tree."""
    found: list[dict[str, Any]] = []
    task: str | None = "T0"
    while task:
        question, answers = TREE[task]
        chances = rng.dirichlet(np.linspace(3, 1, len(answers)))
        place = int(rng.choice(len(answers), p=chances))
        label, after = answers[place]
        shown: Any = f"![{label.lower()}.png](https://example.org/{'0' * 36}.png) {label}"
        if task == "T10":
            shown = [shown] if rng.uniform() < 0.2 else []
        found.append({"task": task, "task_label": question, "value": shown})
        task = after
    return found


def _subject(number: int, rng: np.random.Generator) -> dict[str, Any]:
    """What an export says of a subject."""
    bands = ("g", "i", "r", "u", "z", "faruv", "nearuv", "abs_r")
    facts = {f"mag.{band}": float(rng.normal(17, 1)) for band in bands}
    sky = {"ra": float(rng.uniform(0, 360)), "dec": float(rng.uniform(-10, 30))}
    sizes = {f"petro{name}": float(rng.normal(9, 1)) for name in ("flux", "th50", "theta")}
    return {str(number): {"retired": None, "!objid": f"J{number}", **sky, **facts, **sizes}}
