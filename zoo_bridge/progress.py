"""Telling a person what is going on: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

Advance = Callable[[int], None]


class Progress:
    """Says nothing: for whoever only reads; the others are made of it."""

    def say(self, text: str) -> None:
        """One line of news."""

    @contextlib.contextmanager
    def bar(self, title: str, total: int | None = None, done: int = 0) -> Iterator[Advance]:
        """A piece of work with a known, or unknown, length.

        Parameters
        ----------
        title : str
            What is being done.
        total : int, optional
            How many steps there are.
        done : int
            How many of them were done before, by a run that was stopped.

        Yields
        ------
        callable
            To be called with the number of steps just done.
        """
        yield lambda steps: None


class LineProgress(Progress):
    """Plain lines, at most one every few seconds: for logs, cron and pipes.

    Parameters
    ----------
    every : float
        Seconds between two lines of one bar.
    """

    def __init__(self, every: float = 10.0) -> None:
        self.every = every

    def say(self, text: str) -> None:
        """One line on stderr."""
        print(text, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def bar(self, title: str, total: int | None = None, done: int = 0) -> Iterator[Advance]:
        """See `Progress.bar`."""
        started = last = time.monotonic()
        before = done

        def advance(steps: int) -> None:
            nonlocal done, last
            done += steps
            now = time.monotonic()
            if now - last >= self.every:
                last = now
                rate = (done - before) / max(now - started, 1e-9)
                left = f", {(total - done) / rate:.0f} s left" if total and rate else ""
                whole = f" of {total}" if total else ""
                self.say(f"    {title}: {done}{whole}, {rate:,.3g} a second{left}")

        yield advance


class RichProgress(Progress):
    """Bars on a terminal."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False)

    def say(self, text: str) -> None:
        """One line above the bars."""
        self.console.print(text, markup=False)

    @contextlib.contextmanager
    def bar(self, title: str, total: int | None = None, done: int = 0) -> Iterator[Advance]:
        """See `Progress.bar`."""
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            ProgressColumn,
            Task,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.progress import (
            Progress as Bars,
        )
        from rich.text import Text

        class Rate(ProgressColumn):
            """Steps a second."""

            def render(self, task: Task) -> Text:
                """As long as it is known."""
                return Text(f"{task.speed:,.3g}/s" if task.speed else "")

        columns = (
            TextColumn("    {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            Rate(),
            TimeRemainingColumn(),
        )
        with Bars(*columns, console=self.console, transient=True) as bars:
            task = bars.add_task(title, total=total, completed=done)
            yield lambda steps: bars.advance(task, steps)


class NotedProgress(Progress):
    """Says what another says, and keeps in a file how far it is: for whoever looks from elsewhere.

    Parameters
    ----------
    inner : Progress
        That tells.
    path : Path
        A file of JSON with ``title``, ``done`` and ``total``, while a bar is open.
    every : float
        Seconds between two states of the file.
    """

    def __init__(self, inner: Progress, path: Path, every: float = 1.0) -> None:
        self.inner = inner
        self.path = path
        self.every = every

    def say(self, text: str) -> None:
        """As the other does."""
        self.inner.say(text)

    @contextlib.contextmanager
    def bar(self, title: str, total: int | None = None, done: int = 0) -> Iterator[Advance]:
        """See `Progress.bar`."""
        last = float("-inf")
        count = done

        def note() -> None:
            nonlocal last
            last = time.monotonic()
            text = json.dumps({"title": title, "done": count, "total": total})
            # Whoever looks may find half of it for a moment; a full disk is told by others.
            with contextlib.suppress(OSError):
                self.path.write_text(text, encoding="utf-8")

        with self.inner.bar(title, total, done) as inner:

            def advance(steps: int) -> None:
                nonlocal count
                count += steps
                if time.monotonic() - last >= self.every:
                    note()
                inner(steps)

            note()
            try:
                yield advance
            finally:
                with contextlib.suppress(OSError):
                    self.path.unlink(missing_ok=True)


def for_stream() -> Progress:
    """Bars when stderr is a terminal, lines otherwise."""
    return RichProgress() if sys.stderr.isatty() else LineProgress()
