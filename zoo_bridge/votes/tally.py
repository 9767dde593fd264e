"""What became of every row of the exports, and of every answer in the rows that count."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from zoo_bridge.balance import Balance
from zoo_bridge.votes.rules import Question, Texts, clean

# Why a row cannot be read; all other reasons are rules.
UNREADABLE = ("cut short", "broken quotes", "NUL byte", "invalid UTF-8", "bad JSON", "bad value")
EXAMPLES = 5
# Free text would fill the memory: beyond so many different texts only known ones are counted on.
MOST_TEXTS = 10_000


@dataclass
class Fate:
    """What became of the rows that count, for one question; they add up to the used rows."""

    votes: int = 0
    repeats: int = 0
    not_answered: int = 0
    not_reached: int = 0
    off_path: int = 0
    unmatched: int = 0
    unknown_label: int = 0
    not_asked: int = 0


@dataclass
class Tally:
    """Counts that must add up.

    ``rows + opened == used + sum(dropped.values())``, and for each question the sum of its `Fate`
    is ``used``. ``opened`` counts what rows that show a grid of galaxies became: a row for each
    galaxy, less one. ``rejects`` are the rows that cannot be read, ``mended`` rows with damage
    where it does not matter, ``marked`` rows of the workflow in which a mark such as NA stands
    where nothing was, by column, ``grids`` rows that show a grid, ``elsewhere`` rows of other
    workflows, by their number, ``sizes`` how many labels of a question have how many votes,
    ``other_tasks`` annotations of tasks that no question asks about, by task and shape,
    ``unmatched`` texts that stand for no answer, by question, ``odd`` rows with such a text,
    ``missing`` the columns that files lack.
    """

    rows: int = 0
    used: int = 0
    mended: int = 0
    opened: int = 0
    grids: int = 0
    marked: Counter[str] = field(default_factory=Counter)
    elsewhere: Counter[str] = field(default_factory=Counter)
    odd: Counter[str] = field(default_factory=Counter)
    missing: dict[str, list[str]] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    fates: dict[str, Fate] = field(default_factory=dict)
    sizes: dict[str, Counter[int]] = field(default_factory=dict)
    rejects: list[dict[str, str]] = field(default_factory=list)
    other_tasks: Counter[tuple[str, str]] = field(default_factory=Counter)
    unmatched: dict[str, Counter[str]] = field(default_factory=dict)

    @property
    def unreadable(self) -> int:
        """Rows that cannot be read."""
        return sum(self.dropped[reason] for reason in UNREADABLE)

    def reject(self, file: str, line: int, reason: str, detail: str) -> None:
        """Count a row that cannot be read, and say where it is."""
        self.dropped[reason] += 1
        self.rejects.append(
            {
                "object_id": "",
                "uri": f"{file}:{line}",
                "reason": reason,
                "detail": detail[:200],
            }
        )

    def miss(self, question: str, text: str, rows: int) -> None:
        """Count a text that stands for no answer."""
        texts = self.unmatched.setdefault(question, Counter())
        if text in texts or len(texts) < MOST_TEXTS:
            texts[text] += rows

    def balances(self) -> list[Balance]:
        """What must add up."""
        what = "rows" if not self.opened else "rows and galaxies of grids"
        rows = Balance(what, self.rows + self.opened, {"used": self.used, **self.dropped})
        return [rows] + [
            Balance(f"used rows ({name})", self.used, dict(vars(fate)))
            for name, fate in self.fates.items()
        ]

    def summary(self, questions: list[Question], texts: Texts) -> dict[str, Any]:
        """As it is kept beside the labels."""
        return {
            "rows": self.rows,
            "used": self.used,
            "dropped": {reason: rows for reason, rows in sorted(self.dropped.items()) if rows},
            "mended": self.mended,
            "missing": {file: list(columns) for file, columns in self.missing.items()},
            "grids": {"rows": self.grids, "galaxies": self.grids + self.opened}
            if self.grids
            else {},
            "marked": {column: rows for column, rows in sorted(self.marked.items()) if rows},
            "questions": {
                name: {**vars(fate), **_spread(self.sizes.get(name, Counter()))}
                for name, fate in self.fates.items()
            },
            "unmatched": {
                question.name: self._examples(question, texts)
                for question in questions
                if question.name in self.unmatched
            },
            "other_tasks": {
                f"{task} ({shape})": rows
                for (task, shape), rows in sorted(self.other_tasks.items())
            },
        }

    def _examples(self, question: Question, texts: Texts) -> list[dict[str, Any]]:
        """The commonest texts that stand for no answer, and which answer each may mean."""
        ordered = sorted(
            self.unmatched[question.name].items(), key=lambda item: (-item[1], item[0])
        )
        found = []
        for text, rows in ordered[:EXAMPLES]:
            now = texts.name_now(question.task, text)
            place = question.aliases.get(clean(now)) if now else None
            guess = None if place is None else question.answers[place]
            found.append({"text": text, "rows": rows, "may_be": guess})
        return found


def _spread(sizes: Counter[int]) -> dict[str, Any]:
    """How many labels there are, and their N: least, median, most, and how many of each."""
    total, below, median = sum(sizes.values()), 0, 0
    for n, number in sorted(sizes.items()):
        if below < (total + 1) / 2:
            median = n
        below += number
    return {
        "labels": total,
        "n_min": min(sizes, default=0),
        "n_median": median,
        "n_max": max(sizes, default=0),
        "n_of_labels": {str(n): number for n, number in sorted(sizes.items())},
    }
