"""What every step is given, and what every step gives back."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo_bridge.balance import Balance
from zoo_bridge.config import Settings
from zoo_bridge.files import digest_value
from zoo_bridge.ledger import Artifact, Ledger
from zoo_bridge.progress import Progress
from zoo_bridge.redact import redact

# What never changes what a step makes, but how it goes about it.
MANNERS = (("project", "timeout_seconds"), ("survey", "fetch_threads"))
# Of sections whose digest says whether a step has its work to do again.
LATER = (
    ("cutouts", "cube"),
    ("cutouts", "white_value"),
    ("cutouts", "max_empty_share"),
    ("cutouts", "max_missing_bands"),
    ("cutouts", "min_contrast"),
    ("model", "first_model"),
    ("model", "trunk"),
    ("model", "trunk_check"),
    ("model", "trunk_order"),
    ("model", "trunk_mean"),
    ("model", "trunk_spread"),
    ("model", "views"),
    ("survey", "missing_values"),
    ("survey", "anonymous"),
    ("survey", "requester_pays"),
)


@dataclass(frozen=True)
class Options:
    """What a command line adds to the settings.

    ``exports``, ``subjects`` and ``workflows`` are files to aggregate in place of pulled ones;
    ``accept_shrunk`` takes exports that are smaller than the last ones; ``everything`` scores the
    whole survey in place of a pool.
    """

    dry_run: bool = False
    force: bool = False
    exports: tuple[Path, ...] = ()
    subjects: Path | None = None
    workflows: Path | None = None
    accept_shrunk: bool = False
    everything: bool = False


@dataclass(frozen=True)
class Context:
    """One run: its settings, its ledger, its name and where to tell of it."""

    settings: Settings
    ledger: Ledger
    run_id: str
    progress: Progress
    log: logging.Logger
    options: Options = Options()
    warnings: list[str] = field(default_factory=list)
    # Numbers that are watched from run to run, whatever comes of this one.
    measures: dict[str, float] = field(default_factory=dict)

    @classmethod
    def reading(cls, settings: Settings, ledger: Ledger, name: str) -> Context:
        """For whoever only looks at what runs left behind: it tells nobody anything."""
        log = logging.getLogger(f"zoo_bridge.{name}")
        return cls(settings, ledger, name, Progress(), log)

    @property
    def work(self) -> Path:
        """The folder of all artifacts."""
        return self.settings.work

    @property
    def tag(self) -> str:
        """The run's name without its job: what models and batches are called after."""
        parts = self.run_id.split("-")
        return f"{parts[0]}-{parts[-1]}"

    def say(self, text: str, **facts: Any) -> None:
        """Tell a person and the log."""
        self.progress.say(redact(f"  {text}"))
        self.log.info(text, extra={"facts": facts})

    def warn(self, text: str) -> None:
        """Tell a person, the log and the ledger of what is not yet a failure."""
        self.progress.say(redact(f"  warning: {text}"))
        self.log.warning(text)
        self.warnings.append(redact(text))


@dataclass
class Result:
    """What a step did.

    ``outcome`` is done, unchanged, planned (a dry run) or refused (a safety rule kept the result
    from being used). ``hint`` says what to do next, and is shown but not kept: once that is done,
    it advises what cannot be done.
    """

    outcome: str
    message: str
    counts: dict[str, Any] = field(default_factory=dict)
    balances: list[Balance] = field(default_factory=list)
    artifact: str | None = None
    inputs_digest: str | None = None
    settings_digest: str | None = None
    hint: str = ""


def settings_digest(settings: Settings, *sections: str) -> str:
    """The digest of the settings that a step depends on."""
    values = settings.model_dump(mode="json")
    # Settings that came later: where they are not used, nothing is to be done anew for them.
    for question in values["question"]:
        if not question["source"]:
            del question["source"]
    for section, key in MANNERS:
        del values[section][key]
    for section, key in LATER:
        if values[section][key] == type(getattr(settings, section)).model_fields[key].default:
            del values[section][key]
    return digest_value({name: values[name] for name in sections})


def already_done(ctx: Context, job: str, kind: str, inputs: str, settings: str) -> Artifact | None:
    """The artifact of an earlier run with these inputs and settings, unless ``--force``."""
    if ctx.options.force:
        return None
    last = ctx.ledger.last_done(job)
    if not last or (last.inputs_digest, last.settings_digest) != (inputs, settings):
        return None
    known = ctx.ledger.list_artifacts(kind)
    return next((artifact for artifact in known if artifact.name == last.artifact), None)


def unchanged(message: str, artifact: Artifact, inputs: str, settings: str) -> Result:
    """The result of a step that has nothing to do."""
    return Result(
        "unchanged",
        message,
        artifact=artifact.name,
        inputs_digest=inputs,
        settings_digest=settings,
    )
