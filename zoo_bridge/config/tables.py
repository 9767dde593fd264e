"""The tables of the settings file, one class each: keys, types, defaults, what cannot be."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

JOBS = ("pull", "aggregate", "retrain", "score", "upload", "cycle")


Share = Annotated[float, Field(ge=0, le=1)]


Positive = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A table of the settings file: immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Project(Section):
    """``[project]``: which project, which workflow."""

    slug: str = Field(pattern=r"^[^/\s]+/[^/\s]+$")
    workflow: Positive
    endpoint: str = Field("https://www.zooniverse.org", pattern=r"^https?://[^\s]+[^/\s]$")
    pause_seconds: float = Field(1.0, gt=0)
    timeout_seconds: float = Field(60, gt=0)


class AskedAfter(Section):
    """``asked_after``: the question, and its answers, that lead to this one."""

    question: str
    answers: list[str] = Field(min_length=1)


def _version(text: str) -> tuple[int, int]:
    """A version as (major, minor): "28.30" is not the number 28.3."""
    major, _, minor = text.partition(".")
    return int(major), int(minor or 0)


VersionText = Annotated[str, Field(pattern=r"^\d+(\.\d+)?$")]


TaskKey = Annotated[str, Field(min_length=1)]


class QuestionSource(Section):
    """``[[question.source]]``: a place where a question is asked; versions are included."""

    workflow: Positive | None = None
    task: TaskKey | None = None
    from_version: VersionText | None = None
    to_version: VersionText | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.first and self.last and self.first > self.last:
            raise ValueError("from_version is after to_version")
        return self

    @property
    def first(self) -> tuple[int, int] | None:
        """``from_version`` as (major, minor)."""
        return _version(self.from_version) if self.from_version else None

    @property
    def last(self) -> tuple[int, int] | None:
        """``to_version`` as (major, minor): of "8" every minor version, too."""
        if self.to_version is None:
            return None
        major, minor = _version(self.to_version)
        return major, minor if "." in self.to_version else 2**31 - 1


class Question(Section):
    """``[[question]]``: tasks of the workflow, its answers and the one that is learned."""

    name: str = Field(min_length=1)
    task: TaskKey | Annotated[list[TaskKey], Field(min_length=1)] | None = None
    source: list[QuestionSource] = []
    answers: dict[str, list[str]] = Field(min_length=2, max_length=62)
    target: str
    multiple: bool = False
    asked_after: AskedAfter | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """``task``, one or several."""
        if self.task is None:
            return ()
        return (self.task,) if isinstance(self.task, str) else tuple(self.task)

    @model_validator(mode="after")
    def _is_asked_somewhere(self) -> Self:
        if not self.tasks and not self.source:
            raise ValueError('give task = "T0", or a list of tasks, or [[question.source]] tables')
        if any(each.task is None for each in self.source) and not self.tasks:
            raise ValueError("a source without a task needs the question's own task")
        return self

    @model_validator(mode="after")
    def _target_is_an_answer(self) -> Self:
        if self.target not in self.answers:
            raise ValueError(
                f"target {self.target!r} is not one of the answers: {', '.join(self.answers)}"
            )
        seen: dict[str, str] = {}
        for answer, aliases in self.answers.items():
            for alias in aliases:
                if seen.setdefault(alias.casefold(), answer) != answer:
                    raise ValueError(f"the label {alias!r} stands for two answers")
        return self

    @property
    def workflows(self) -> tuple[int, ...]:
        """Workflows that its sources name."""
        return tuple(dict.fromkeys(each.workflow for each in self.source if each.workflow))


class Pull(Section):
    """``[pull]``: how votes are fetched, how fresh they must be, how long to wait for them."""

    mode: Literal["export", "incremental"] = "export"
    max_age_hours: float = Field(20, gt=0)
    stale_after_days: float = Field(14, gt=0)
    wait_minutes: float = Field(120, gt=0)
    poll_seconds: float = Field(10, gt=0)


class Votes(Section):
    """``[votes]``: which votes count."""

    repeats: Literal["first", "all"] = "first"
    anonymous_repeats: Literal["first", "all"] = "all"
    from_version: str = Field("1.1", pattern=r"^\d+(\.\d+)?$")
    before_launch: bool = False
    training_subjects: bool = False
    gold_standard: bool = False
    excluded_users: list[str] = []
    object_id_keys: list[str] = [
        "#zoo_bridge_id",
        "!objid",
        "#objid",
        "iauname",
        "!filename",
    ]
    same_object: Literal["merge", "apart"] = "merge"
    max_reject_share: Share = 0.01
    max_unmatched_share: Share = 0.01

    @property
    def first_version(self) -> tuple[int, int]:
        """``from_version`` as (major, minor)."""
        return _version(self.from_version)


class Survey(Section):
    """``[survey]``: a catalogue, or a prefix and a pattern that gives the object id."""

    catalogue: str | None = None
    prefix: str | None = None
    id_pattern: str | None = None
    object_id_column: str = "object_id"
    uri_column: str = "uri"
    ra_column: str = "ra"
    dec_column: str = "dec"
    endpoint_url: str | None = Field(None, pattern=r"^https?://")
    anonymous: bool = False
    requester_pays: bool = False
    fetch_threads: Positive = 8
    missing_values: list[str] = []

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.catalogue is None) == (self.prefix is None):
            raise ValueError("give either catalogue or prefix (with id_pattern)")
        if re.match(r"s3://(/|$)", self.catalogue or self.prefix or ""):
            raise ValueError("s3:// must be followed by the name of a bucket")
        if self.prefix is not None:
            if self.id_pattern is None:
                raise ValueError('prefix needs id_pattern, such as "([^/]+)\\\\.fits"')
            try:
                groups = re.compile(self.id_pattern).groups
            except re.error as error:
                raise ValueError(f"id_pattern is not a regular expression: {error}") from None
            if groups < 1:
                raise ValueError("id_pattern needs a group ( ) around the object id")
        return self


class Cutouts(Section):
    """``[cutouts]``: how image bytes become the array that the network sees.

    Part of every model: scoring with another is refused.
    """

    size: int = Field(128, ge=16, le=1024)
    colour: Literal["grey", "rgb"] = "grey"
    bands: tuple[Annotated[int, Field(ge=0)] | str, ...] = Field((), max_length=16)
    stretch: Literal["asinh", "linear", "lupton"] = "asinh"
    asinh_a: float = Field(0.1, gt=0, le=1)
    low_percentile: float = Field(1.0, ge=0, lt=100)
    high_percentile: float = Field(99.8, gt=0, le=100)
    lupton_minimum: float = 0.0
    lupton_stretch: float = Field(5.0, gt=0)
    lupton_q: float = Field(8.0, gt=0)
    crop: Share = 1.0
    cube: Literal["band, y, x", "y, x, band"] = "band, y, x"
    white_value: float = Field(65_535.0, ge=1)
    max_empty_share: Share = 0.2
    max_missing_bands: int = Field(0, ge=0)
    min_contrast: Share = 0.1

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low_percentile >= self.high_percentile:
            raise ValueError("low_percentile must be below high_percentile")
        if self.crop <= 0:
            raise ValueError("crop is the share of the side that is kept and must be above 0")
        return self


class Model(Section):
    """``[model]``: the network, how it is trained and how it is judged."""

    network: Literal["walmsley2020", "small", "large", "efficientnetv2-b0", "convnext-tiny"] = (
        "walmsley2020"
    )
    pretrained_weights: str | None = None
    likelihood: Literal["binomial", "beta-binomial"] = "binomial"
    dropout: float = Field(0.5, gt=0, lt=1)
    ensemble: int = Field(1, ge=1, le=20)
    start: Literal["scratch", "current"] = "scratch"
    calibrate: bool = True
    subject_media: bool = True
    epochs: Positive = 60
    patience: Positive = 8
    batch_size: Positive = 64
    learning_rate: float = Field(1e-3, gt=0)
    min_labels: Positive = 50
    min_votes: Positive = 3
    heldout_share: float = Field(0.2, gt=0, lt=1)
    gate_confidence: float = Field(0.9, gt=0.5, lt=1)
    gate_calibration: Share = 0.1
    first_model: Literal["better", "any"] = "better"

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        if self.pretrained_weights and self.network in ("walmsley2020", "small", "large"):
            raise ValueError(f"pretrained_weights are of no use to the network {self.network}")
        return self


class Score(Section):
    """``[score]``: reading the survey."""

    batch_size: Positive = 256
    workers: int | None = Field(None, ge=0)
    cluster: str | int | None = None
    part_objects: Positive = 10_000
    cache_gib: float = Field(2.0, ge=0)
    max_reject_share: Share = 0.2
    max_partial_sky_share: Share = 0.1
    max_missing_band_share: Share = 0.1
    expected_votes: Positive | None = None
    runtime: Literal["keras", "openvino", "onnxruntime"] = "keras"

    @field_validator("cluster")
    @classmethod
    def _scheduler_or_count(cls, value: str | int | None) -> str | int | None:
        if isinstance(value, str) and not re.match(r"(tcp|tls|ws|wss)://\S+:\d+$", value):
            raise ValueError(f"{value!r} is no address of a Dask scheduler such as tcp://host:8786")
        if isinstance(value, int) and value < 1:
            raise ValueError("a cluster of this machine needs at least one worker")
        return value


class SecondFrame(Section):
    """``[upload.second_frame]``: another picture of the same cutout, shown beside the first."""

    colour: Literal["grey", "rgb"] | None = None
    stretch: Literal["asinh", "linear", "lupton"] | None = None
    crop: Share | None = None
    low_percentile: float | None = Field(None, ge=0, lt=100)
    high_percentile: float | None = Field(None, gt=0, le=100)


class Upload(Section):
    """``[upload]``: which galaxies go to volunteers, how many, and who shows them."""

    per_run: Positive = 500
    per_week: Positive = 2000
    random_share: Share = 0.2
    publish: Literal["manual", "automatic"] = "manual"
    wait_for_approval: bool = True
    min_survey_share: Share = 0.5
    enough_votes: Positive = 20
    weights: dict[str, Annotated[float, Field(ge=0)]] = {}
    where: str = ""
    diversity: Literal["none", "power", "features"] = "none"
    power: float = Field(1.0, gt=0)
    min_separation_arcsec: float = Field(0.0, ge=0)
    max_backlog_days: float = Field(60.0, gt=0)
    preview_size: int = Field(424, ge=64, le=1024)
    preview_format: Literal["jpeg", "png"] = "jpeg"
    second_frame: SecondFrame | None = None
    metadata_columns: list[str] = []
    metadata_key: str = Field("#zoo_bridge_id", pattern=r"^(#|//|!)?\S+$")
    connections: int = Field(8, ge=1, le=32)
    patience_minutes: float = Field(30.0, gt=0)
    doubt_seconds: float = Field(60.0, ge=0)
    doubt_share: Share = 0.05

    @model_validator(mode="after")
    def _metadata_is_ours_to_set(self) -> Self:
        if self.metadata_key.lower() == "#priority":
            raise ValueError("metadata_key: #priority has a meaning of its own on Zooniverse")
        taken = {"#priority", self.metadata_key.lower()}
        for name in self.metadata_columns:
            if name.lower() in taken or not name.lstrip("#!/"):
                raise ValueError(f"metadata_columns: {name!r} has a meaning of its own there")
        return self


class Schedule(Section):
    """``[schedule]``: a cron line for each job that ``zoo-bridge serve`` is to run."""

    timezone: str = "UTC"
    pull: str | None = None
    aggregate: str | None = None
    retrain: str | None = None
    score: str | None = None
    upload: str | None = None
    cycle: str | None = None
    time_limit_hours: float = Field(24, gt=0)
    catch_up_hours: float = Field(168, ge=0)

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except Exception:
            raise ValueError(f"{value!r} is not a time zone such as Europe/London") from None
        return value

    @field_validator("pull", "aggregate", "retrain", "score", "upload", "cycle")
    @classmethod
    def _five_fields(cls, value: str | None) -> str | None:
        if value is not None:
            from zoo_bridge.cron import Cron

            Cron(value)
        return value

    @property
    def lines(self) -> dict[str, str]:
        """The jobs that have a line, in the order of the flow."""
        return {job: line for job in JOBS if (line := getattr(self, job))}
