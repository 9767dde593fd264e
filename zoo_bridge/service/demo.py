"""``zoo-bridge demo``: rounds of the loop in a sandbox, and a report of what they taught.

Nothing here knows more than an administrator would: the jobs are the real ones, against real
servers, and volunteers see only what is published.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from zoo_bridge.config import load
from zoo_bridge.errors import BusyError, SettingsError, ZooBridgeError
from zoo_bridge.files import write_json, write_text
from zoo_bridge.progress import Progress, for_stream
from zoo_bridge.sandbox.serve import serve_until_stopped
from zoo_bridge.sandbox.server import Sandbox
from zoo_bridge.sandbox.world import Plan, enter
from zoo_bridge.service.demo_report import Round, Story
from zoo_bridge.service.runner import Run, run_job
from zoo_bridge.steps.batches.publish import publish
from zoo_bridge.steps.context import Context
from zoo_bridge.steps.shelf import open_ledger

MARK = ".zoo_bridge_demo"
START_SIZE = 48
ROUND_SIZE = 150
VOTES = 40
# Of a console on this machine alone, which shows invented galaxies.
CONSOLE_PASSWORD = "galaxies"


class DemoFailedError(ZooBridgeError):
    """A job of the demo failed; carries its message, hint and exit code."""

    def __init__(self, run: Run) -> None:
        super().__init__(f"The demo ended at {run.job}: {run.message}", run.hint)
        self.exit_code = run.exit_code


class Loop:
    """The jobs of one demo, its sandbox and its ledger."""

    def __init__(self, box: Sandbox, config: Path, progress: Progress) -> None:
        self.box = box
        self.settings = load(config)
        self.ledger = open_ledger(self.settings)
        self.progress = progress

    @property
    def context(self) -> Context:
        """To look at what the jobs left behind."""
        return Context.reading(self.settings, self.ledger, "demo")

    def set_batch_size(self, size: int) -> None:
        """Change ``upload.per_run``, as a person would in the file."""
        path = self.settings.path
        before, after = f"per_run = {self.settings.upload.per_run}", f"per_run = {size}"
        write_text(path, path.read_text(encoding="utf-8").replace(before, after))
        self.settings = load(path)

    def run(self, job: str) -> Run:
        """Run a job; a model that the gate keeps out is no failure."""
        run = run_job(job, self.settings, self.ledger, self.progress)
        if run.exit_code and not run.kept_out:
            raise DemoFailedError(run)
        return run

    def show(self, batch: str) -> int:
        """Publish a batch and let volunteers work for a week; how many classifications came."""
        self.progress.say(f"publish: {publish(self.context, batch)}")
        made = self.box.volunteers.classify(self.settings.project.workflow)
        self.progress.say(
            f"volunteers: a week passes, {made['classifications']} classifications, "
            f"{made['retired']} subjects retired"
        )
        return made["classifications"]

    def round(self, number: int) -> Round:
        """One round: pull, aggregate, retrain, score, upload, publish, votes."""
        began = time.monotonic()
        self.run("pull")
        self.run("aggregate")
        trained = self.run("retrain")
        self.run("score")
        batch = self.run("upload")
        assert batch.artifact is not None
        model = next(a for a in self.ledger.list_artifacts("model") if a.name == trained.artifact)
        metrics = next(iter(model.facts["metrics"].values()))
        return Round(
            number=number,
            labelled=trained.counts["trained_on"] + trained.counts["held_out"],
            trained_on=trained.counts["trained_on"],
            held_out=trained.counts["held_out"],
            model=self.ledger.model_in_use() or "",
            verdict=model.facts["verdict"],
            rmse=metrics["rmse"],
            log_likelihood=metrics["log_likelihood"],
            batch=batch.artifact,
            uploaded=batch.counts["created"] + batch.counts["linked"],
            classifications=self.show(batch.artifact),
            seconds=round(time.monotonic() - began, 1),
        )


def run_demo(folder: Path, rounds: int, galaxies: int, seed: int, keep_serving: bool) -> int:
    """Run the demo.

    Parameters
    ----------
    folder : Path
        Where everything is left; a demo that lies there already is replaced.
    rounds, galaxies, seed : int
        Rounds of the loop, size of the invented survey, seed of everything.
    keep_serving : bool
        Leave the sandbox up afterwards, until Ctrl-C or SIGTERM.

    Returns
    -------
    int
        The exit code.

    Raises
    ------
    SettingsError
        If the folder holds something else.
    BusyError
        If a demo is running in it.
    DemoFailedError
        If a job failed.
    """
    from zoo_bridge.service.demo_report import judge_rounds, write_demo_report

    began = time.monotonic()
    with _clean_folder(folder), enter():
        progress = for_stream()
        plan = Plan(galaxies=galaxies, seed=seed, votes=VOTES, size=48)
        with Sandbox(folder / "sandbox", plan, progress) as box:
            progress.say(f"sandbox: Panoptes at {box.urls['panoptes']}, S3 at {box.urls['s3']}")
            config = box.settings(
                folder,
                # The first round has a dozen galaxies to judge by, which is too few to be sure.
                # Later ones go on from the weights of the one before, which takes fewer epochs.
                model={
                    "start": "current",
                    "epochs": 12,
                    "patience": 12,
                    "batch_size": 16,
                    "heldout_share": 0.3,
                    "min_labels": 30,
                    "first_model": "any",
                },
                upload={"per_run": START_SIZE, "enough_votes": VOTES},
            )
            loop = Loop(box, config, progress)
            story = Story(galaxies, seed)
            progress.say(f"\nStart: {START_SIZE} galaxies at random, since there is no model yet")
            first = loop.run("upload")
            story.classifications = loop.show(str(first.artifact))
            loop.set_batch_size(ROUND_SIZE)
            for number in range(1, rounds + 1):
                progress.say(f"\nRound {number} of {rounds}")
                story.rounds.append(loop.round(number))
                story.classifications += story.rounds[-1].classifications
            progress.say("\nLast votes, and all models judged on the same galaxies")
            loop.run("pull")
            labels = loop.run("aggregate")
            data, judged = judge_rounds(loop.context, story.rounds)
            story.held_out_common = int(data.heldout.sum())
            story.shown = len(loop.ledger.list_objects())
            story.votes_kept = labels.counts["votes"]
            story.repeats = sum(labels.counts["repeats"].values())
            story.seconds = round(time.monotonic() - began, 1)
            write_json(folder / "summary.json", asdict(story))
            lines = closing_lines(folder, story)
            write_demo_report(folder / "report.html", loop.context, story, data, judged, lines[:3])
            for line in ["", *lines]:
                print(line, flush=True)
            if keep_serving:
                progress.say("\nA last batch, which waits for your decision")
                loop.run("upload")
                loop.ledger.close()
                with console_of(config) as address:
                    print(f"\nLook at it, and decide: {address}")
                    print(f"  log in with any name, and the password {CONSOLE_PASSWORD}")
                    return serve_until_stopped(box, config, week=20.0)
            loop.ledger.close()
    return 0


@contextmanager
def console_of(config: Path) -> Iterator[str]:
    """``zoo-bridge serve`` for the demo's project, and the address of its console.

    Parameters
    ----------
    config : Path
        The settings file.

    Yields
    ------
    str
        Where to point a browser.

    Raises
    ------
    DemoFailedError
        If it does not start.
    """
    command = [sys.executable, "-m", "zoo_bridge", "serve", "--config", str(config), "--port", "0"]
    env = {**os.environ, "ZOO_BRIDGE_CONSOLE_PASSWORD": CONSOLE_PASSWORD}
    serving = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, env=env
    )
    assert serving.stderr is not None
    try:
        said = []
        for line in serving.stderr:
            said.append(line)
            if found := re.search(r"console at (http://\S+)", line):
                break
        else:
            raise DemoFailedError(Run("", "serve", "failed", "".join(said[-2:]), "", 1))
        # Whatever it says from now on is read, or it would stand still.
        threading.Thread(target=serving.stderr.read, daemon=True).start()
        yield found[1]
    finally:
        serving.terminate()
        serving.wait()


def closing_lines(folder: Path, story: Story) -> list[str]:
    """What happened, in five lines, and where to look."""
    first, last = story.rounds[0], story.rounds[-1]
    minutes, seconds = divmod(round(story.seconds), 60)
    return [
        f"{len(story.rounds)} rounds in {minutes} min {seconds:02d} s: volunteers saw "
        f"{story.shown} of {story.galaxies} galaxies and made {story.classifications} "
        "classifications.",
        f"Every one is accounted for: {story.votes_kept} votes kept, {story.repeats} repeats by "
        "the same person set aside.",
        f"Held-out RMSE of the vote fraction: {first.rmse_common:.3f} after round 1, "
        f"{last.rmse_common:.3f} after round {last.number}; log-likelihood "
        f"{first.log_likelihood_common:.2f} to {last.log_likelihood_common:.2f} nats a galaxy "
        f"(the same {story.held_out_common} galaxies, which no model learned from).",
        f"Look at {folder / 'report.html'}; the numbers are in {folder / 'summary.json'}, every "
        f"artifact in {folder / 'data'}.",
        f"Go on with: zoo-bridge status --config {folder / 'zoo_bridge.toml'} (zoo-bridge is in "
        ".venv/bin); make demo ARGS=--keep-serving leaves sandbox and console up.",
    ]


@contextmanager
def _clean_folder(folder: Path) -> Iterator[None]:
    """An empty folder that is ours until the block ends."""
    mark = folder / MARK
    if folder.exists() and not folder.is_dir():
        raise SettingsError(f"{folder} is a file.", "Name a folder with --folder.")
    if folder.exists() and any(folder.iterdir()) and not mark.exists():
        raise SettingsError(
            f"{folder} holds something that is no demo.", "Name another folder with --folder."
        )
    folder.mkdir(parents=True, exist_ok=True)
    with mark.open("a") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BusyError(
                f"A demo is running in {folder}.", "Stop it, or name another with --folder."
            ) from None
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != MARK:
                path.unlink()
        yield
