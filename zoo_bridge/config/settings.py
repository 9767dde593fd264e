"""The settings as a whole: what their tables must agree on."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import (
    Field,
    PrivateAttr,
    field_validator,
    model_validator,
)

from zoo_bridge.config.tables import (
    Console,
    Cutouts,
    Keep,
    Model,
    Notify,
    Project,
    Pull,
    Question,
    Report,
    Schedule,
    Score,
    Section,
    Serve,
    Survey,
    Upload,
    Votes,
)

DEFAULT_PATH = Path("zoo_bridge.toml")


class Settings(Section):
    """The whole file."""

    work_dir: str = "data"
    """The folder of every artifact, from the folder of the settings file."""
    ledger: str = "sqlite:///data/ledger.sqlite3"
    """The ledger's database, as any SQLAlchemy URL; PostgreSQL needs the extra `postgresql`.
    Several projects may share one.
    """
    artifacts: str | None = Field(None, pattern=r"^s3://[^/\s]+(/\S*)?$")
    """Where every artifact is kept beside `work_dir`, which is a cache of it then, as
    `s3://bucket/prefix`; needs a ledger in PostgreSQL if the machine's disk does not last.
    """
    artifacts_endpoint_url: str | None = Field(None, pattern=r"^https?://")
    """For artifacts in any S3 that is not Amazon's."""
    seed: int = Field(0, ge=0)
    """Of everything that is drawn: the same inputs, settings and seed give the same results."""
    project: Project
    question: list[Question] = Field(min_length=1)
    pull: Pull = Pull()
    votes: Votes = Votes()
    survey: Survey
    cutouts: Cutouts = Cutouts()
    model: Model = Model()
    score: Score = Score()
    upload: Upload = Upload()
    schedule: Schedule = Schedule()
    notify: Notify = Notify()
    report: Report = Report()
    serve: Serve = Serve()
    console: Console = Console()
    keep: Keep = Keep()

    _path: Path = PrivateAttr(default=DEFAULT_PATH)
    _warnings: tuple[str, ...] = PrivateAttr(default=())

    @field_validator("work_dir")
    @classmethod
    def _local(cls, value: str) -> str:
        if "://" in value:
            raise ValueError("only a local folder is supported so far")
        return value

    @model_validator(mode="after")
    def _questions_agree(self) -> Self:
        names = [question.name for question in self.question]
        if len(set(names)) < len(names):
            raise ValueError("two questions have the same name")
        by_name = {question.name: question for question in self.question}
        for question in self.question:
            after = question.asked_after
            if after is None:
                continue
            if after.question not in by_name or after.question == question.name:
                raise ValueError(
                    f"{question.name} is asked after {after.question!r}, which is no other question"
                )
            unknown = set(after.answers) - set(by_name[after.question].answers)
            if unknown:
                raise ValueError(f"{after.question} has no answer {', '.join(sorted(unknown))}")
            _check_tree(question, by_name)
        if unknown_weights := set(self.upload.weights) - set(names):
            raise ValueError(
                f"upload.weights: there is no question {', '.join(sorted(unknown_weights))}"
            )
        if self.upload.weights and not any(self.weight_of(name) for name in names):
            raise ValueError("upload.weights: one question at least must count")
        if self.pull.mode == "incremental" and self.votes.anonymous_repeats == "first":
            raise ValueError(
                'votes.anonymous_repeats = "first" needs pull.mode = "export": the classifications '
                "API does not tell anonymous people apart"
            )
        return self

    @property
    def other_workflows(self) -> tuple[int, ...]:
        """Workflows that questions are asked in, beside the project's own."""
        named = (number for question in self.question for number in question.workflows)
        return tuple(each for each in dict.fromkeys(named) if each != self.project.workflow)

    def weight_of(self, question: str) -> float:
        """What a question counts when a batch is chosen: 1 unless ``upload.weights`` says."""
        return self.upload.weights.get(question, 1.0)

    @property
    def path(self) -> Path:
        """The file that these settings came from."""
        return self._path

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the file holds that will be refused one day: a line for each."""
        return self._warnings

    @property
    def work(self) -> Path:
        """``work_dir``, from the folder of the settings file."""
        return self._path.parent / self.work_dir

    @property
    def ledger_url(self) -> str:
        """The ledger's URL; a relative SQLite path starts at the folder of the settings file."""
        prefix = "sqlite:///"
        if self.ledger.startswith(prefix) and not self.ledger.startswith(prefix + "/"):
            return f"{prefix}{(self._path.parent / self.ledger[len(prefix) :]).resolve()}"
        return self.ledger


def _check_tree(question: Question, by_name: dict[str, Question]) -> None:
    """A question must not, by any way, be asked after itself."""
    seen = {question.name}
    after = question.asked_after
    while after is not None:
        if after.question in seen:
            raise ValueError(f"{question.name} is asked after itself, by way of {after.question}")
        seen.add(after.question)
        after = by_name[after.question].asked_after if after.question in by_name else None
