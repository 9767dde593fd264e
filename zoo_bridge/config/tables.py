"""The tables of the settings file, one class each: keys, types, defaults, what cannot be."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Literal, Self, get_args
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

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Project(Section):
    """``[project]``: which project, which workflow."""

    slug: str = Field(pattern=r"^[^/\s]+/[^/\s]+$")
    """The project, as the end of its address: `owner/name`."""
    workflow: Positive
    """The workflow's number, as the project builder shows it."""
    endpoint: str = Field("https://www.zooniverse.org", pattern=r"^https?://[^\s]+[^/\s]$")
    """The server."""
    pause_seconds: float = Field(1.0, gt=0)
    """Seconds before something that failed is tried again; then longer."""
    timeout_seconds: float = Field(60, gt=0)
    """Seconds that a single request may take, without a byte."""


class AskedAfter(Section):
    """``asked_after``: the question, and its answers, that lead to this one."""

    question: str
    """The name of the question before this one."""
    answers: list[str] = Field(min_length=1)
    """Its answers that lead here."""


def _version(text: str) -> tuple[int, int]:
    """A version as (major, minor): "28.30" is not the number 28.3."""
    major, _, minor = text.partition(".")
    return int(major), int(minor or 0)


VersionText = Annotated[str, Field(pattern=r"^\d+(\.\d+)?$")]


TaskKey = Annotated[str, Field(min_length=1)]


class QuestionSource(Section):
    """``[[question.source]]``: a place where a question is asked; versions are included."""

    workflow: Positive | None = None
    """The workflow that asks; by default the project's own."""
    task: TaskKey | None = None
    """The task's key there; by default the question's."""
    from_version: VersionText | None = None
    """The first version that counts; by default `votes.from_version`."""
    to_version: VersionText | None = None
    """The last version that counts; `"8"` takes in every 8.x."""

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
    """What the question is called here and in every table."""
    task: TaskKey | Annotated[list[TaskKey], Field(min_length=1)] | None = None
    """The task's key in the workflow, such as `T0`; or several, of a shortcut, say."""
    source: list[QuestionSource] = []
    """Other places where it is asked: workflows, tasks, versions."""
    answers: dict[str, list[str]] = Field(min_length=2, max_length=62)
    """Answers by their names here; for each, the labels that volunteers read. Images, links and
    markdown in labels do not matter.
    """
    target: str
    """The answer whose k of N is ranked."""
    multiple: bool = False
    """Whether volunteers may tick several answers."""
    asked_after: AskedAfter | None = None
    """For a question down a decision tree: when it is asked."""

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
    """`export` asks for new exports; `incremental` takes the last ones, however old, and what came
    since through the classifications API.
    """
    max_age_hours: float = Field(20, gt=0)
    """A last export that is older is asked for anew."""
    stale_after_days: float = Field(14, gt=0)
    """Past this age, without a new one, a run fails as `stale`."""
    wait_minutes: float = Field(120, gt=0)
    """How long a run waits for a new export."""
    poll_seconds: float = Field(10, gt=0)
    """Seconds between two looks whether it is ready."""


class Votes(Section):
    """``[votes]``: which votes count."""

    repeats: Literal["first", "all"] = "first"
    """Of a logged-in person's several looks at a subject: `first` counts one, `all` every one."""
    anonymous_repeats: Literal["first", "all"] = "all"
    """The same of people who are not logged in, by their address in an export."""
    from_version: str = Field("1.1", pattern=r"^\d+(\.\d+)?$")
    """Votes on older versions of the workflow do not count."""
    before_launch: bool = False
    """Whether votes count that were made before the project was live."""
    training_subjects: bool = False
    """Whether votes on training subjects count."""
    gold_standard: bool = False
    """Whether votes of experts that were marked as gold standard count."""
    excluded_users: list[str] = []
    """Log-ins whose votes do not count."""
    object_id_keys: list[str] = [
        "#zoo_bridge_id",
        "!objid",
        "#objid",
        "iauname",
        "!filename",
    ]
    """Keys of a subject's metadata that may hold the object's id; the first that is there counts.
    """
    same_object: Literal["merge", "apart"] = "merge"
    """Two subjects of one object: their votes are added up (`merge`), or they stay `apart`."""
    max_reject_share: Share = 0.01
    """If more rows than this share cannot be read, nothing is written."""
    max_unmatched_share: Share = 0.01
    """If more answers than this share stand for none of the settings', nothing is written."""

    @property
    def first_version(self) -> tuple[int, int]:
        """``from_version`` as (major, minor)."""
        return _version(self.from_version)


class Survey(Section):
    """``[survey]``: a catalogue, or a prefix and a pattern that gives the object id."""

    catalogue: str | None = None
    """A table with a row for each object: CSV, Parquet, FITS, VOTable or ECSV; `*` for many files.
    """
    prefix: str | None = None
    """In place of a catalogue: a folder, in which every file below is a cutout."""
    id_pattern: str | None = None
    """With `prefix`: a regular expression whose group ( ) is the object id in a key."""
    object_id_column: str = "object_id"
    """The catalogue's column of object ids."""
    uri_column: str = "uri"
    """The column of addresses: `s3://…`, a web address, a path, or a key beside the catalogue."""
    ra_column: str = "ra"
    """The column of right ascensions, in the unit that it gives, else degrees."""
    dec_column: str = "dec"
    """The column of declinations."""
    endpoint_url: str | None = Field(None, pattern=r"^https?://")
    """For any S3 that is not Amazon's."""
    anonymous: bool = False
    """Sign nothing: for a public bucket that refuses keys of other places."""
    requester_pays: bool = False
    """Let this account pay for what it reads."""
    fetch_threads: Positive = 8
    """Cutouts that are fetched at a time, in each process that does so."""
    missing_values: list[str] = []
    """What else stands for no value, such as `-99`."""

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
    """Side of the network's input, in pixels."""
    colour: Literal["grey", "rgb"] = "grey"
    """One plane, or three."""
    bands: tuple[Annotated[int, Field(ge=0)] | str, ...] = Field((), max_length=16)
    """Which planes of a FITS cube (from 0) or extensions (by name), red first; by default all of
    the first image's.
    """
    stretch: Literal["asinh", "linear", "lupton"] = "asinh"
    """How FITS pixels become brightness; `lupton` keeps colours as the eye would have them."""
    asinh_a: float = Field(0.1, gt=0, le=1)
    """Where the asinh stretch turns from linear to logarithmic, as a share of the range."""
    low_percentile: float = Field(1.0, ge=0, lt=100)
    """Percentile of the pixels that becomes black."""
    high_percentile: float = Field(99.8, gt=0, le=100)
    """Percentile of the pixels that becomes white."""
    lupton_minimum: float = 0.0
    """Of `lupton`: what becomes black, in the pixels' own units."""
    lupton_stretch: float = Field(5.0, gt=0)
    """Of `lupton`: the range of the linear part, in the pixels' own units."""
    lupton_q: float = Field(8.0, gt=0)
    """Of `lupton`: the softening of bright parts."""
    crop: Share = 1.0
    """Share of the side that is kept, around the centre."""
    cube: Literal["band, y, x", "y, x, band"] = "band, y, x"
    """The order of a FITS cube's axes, where its header does not say."""
    white_value: float = Field(65_535.0, ge=1)
    """Of 16-bit pictures: the value that is white; 4095 if they hold 12 bits."""
    max_empty_share: Share = 0.2
    """A cutout with more pixels without data than this is set aside as `partial sky`."""
    max_missing_bands: int = Field(0, ge=0)
    """One that lacks more bands than this is set aside as `missing band`."""
    min_contrast: Share = 0.1
    """One with less contrast, from 0 to 1, is set aside: there is nothing to see. 0 sets none
    aside.
    """

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
    """`walmsley2020` is the paper's, with 1.3 million weights."""
    pretrained_weights: str | None = None
    """A file of weights without their top, for the last two networks."""
    likelihood: Literal["binomial", "beta-binomial"] = "binomial"
    """`beta-binomial` learns how much more votes scatter than chance."""
    dropout: float = Field(0.5, gt=0, lt=1)
    """Share of the features that each drawn network goes without."""
    ensemble: int = Field(1, ge=1, le=20)
    """Networks that are trained side by side; their posteriors join."""
    trunk: str = Field("train", pattern=r"^(train|keep|onnx:.+)$")
    """`train`: a whole network each time. `keep`: the trunk of the model in use stays, and its last
    layer is learned, in seconds. `onnx:URI`: an encoder that learned elsewhere.
    """
    trunk_check: float = Field(2.0, ge=0)
    """With `keep`: with so many times the labels that the trunk had, a whole training is tried, and
    taken if it is surely better; 0 for never.
    """
    trunk_order: Literal["nchw", "nhwc"] = "nchw"
    """Of an encoder's images: planes first, or last."""
    trunk_mean: list[float] = [0.0]
    """Taken out of an encoder's images, from 0 to 1: one number, or one for each plane."""
    trunk_spread: list[Annotated[float, Field(gt=0)]] = [1.0]
    """What is left is divided by this."""
    views: Literal[1, 4, 8] | None = None
    """From how many sides a galaxy is seen: as it is, by quarter turns, or these mirrored as well;
    the mean counts. It takes as many times the time. Unless set, 4 with an encoder, else 1.
    """
    start: Literal["scratch", "current"] = "scratch"
    """`current` goes on from the weights of the model in use."""
    calibrate: bool = True
    """Whether error bars are fitted on held-out galaxies."""
    subject_media: bool = True
    """Whether objects that the survey lacks are learned from by the pictures that volunteers saw.
    """
    epochs: Positive = 60
    """Passes over the galaxies, at most."""
    patience: Positive = 8
    """Passes without improvement after which training ends."""
    batch_size: Positive = 64
    """Galaxies in one step of the training."""
    learning_rate: float = Field(1e-3, gt=0)
    """Of Adam."""
    min_labels: Positive = 50
    """With fewer labelled galaxies there is no training."""
    min_votes: Positive = 3
    """Galaxies with fewer votes on the first question are not learned from."""
    heldout_share: float = Field(0.2, gt=0, lt=1)
    """Share of the galaxies, of those that BALD did not choose, that only judge models."""
    gate_confidence: float = Field(0.9, gt=0.5, lt=1)
    """A model that is worse with this probability is kept out of use."""
    gate_calibration: Share = 0.1
    """So is one with a credible interval that is off by more than this share."""
    first_model: Literal["better", "any"] = "better"
    """`better`: the first model must beat the mean vote fraction."""

    @property
    def sides(self) -> int:
        """``views``, if they are set; else those of the trunk."""
        return self.views or (4 if self.trunk.startswith("onnx:") else 1)

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        if self.pretrained_weights and self.network in ("walmsley2020", "small", "large"):
            raise ValueError(f"pretrained_weights are of no use to the network {self.network}")
        return self


class Score(Section):
    """``[score]``: reading the survey."""

    batch_size: Positive = 256
    """Galaxies that go through the networks at once."""
    workers: int | None = Field(None, ge=0)
    """Processes that fetch and decode; by default one for each core but one."""
    cluster: str | int | None = None
    """A Dask scheduler, as `tcp://host:8786`; or a number of processes of this machine."""
    part_objects: Positive = 10_000
    """Objects in a part, which a run that is stopped loses at most."""
    cache_gib: float = Field(2.0, ge=0)
    """GiB of prepared cutouts that are kept on disk for the next time."""
    max_reject_share: Share = 0.2
    """If more cutouts than this share cannot be used, the run fails."""
    max_partial_sky_share: Share = 0.1
    """The same of those that reach over the survey's edge."""
    max_missing_band_share: Share = 0.1
    """The same of those that lack a band."""
    pool: Positive | None = None
    """Galaxies that are scored, drawn at random once, and what is new; by default all. `run score
    --all` scores all.
    """
    expected_votes: Positive | None = None
    """Votes that a galaxy is expected to get; by default the workflow's retirement limit."""
    runtime: Literal["keras", "openvino", "onnxruntime"] = "keras"
    """What runs the trunk of the networks; the others need extras of the same names."""

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
    """As in `[cutouts]`."""
    stretch: Literal["asinh", "linear", "lupton"] | None = None
    """As in `[cutouts]`."""
    crop: Share | None = None
    """As in `[cutouts]`."""
    low_percentile: float | None = Field(None, ge=0, lt=100)
    """As in `[cutouts]`."""
    high_percentile: float | None = Field(None, gt=0, le=100)
    """As in `[cutouts]`."""


class Upload(Section):
    """``[upload]``: which galaxies go to volunteers, how many, and who shows them."""

    per_run: Positive = 500
    """Objects in a batch, at most."""
    per_week: Positive = 2000
    """Objects that are planned in seven days, at most."""
    random_share: Share = 0.2
    """Share of every batch that is drawn at random; models are judged by these."""
    publish: Literal["manual", "automatic"] = "manual"
    """`automatic` shows batches to volunteers without a person."""
    wait_for_approval: bool = True
    """Whether there is no new batch while one is staged and not shown."""
    min_survey_share: Share = 0.5
    """No upload while fewer labelled objects than this share are in the survey: their ids do not
    meet.
    """
    enough_votes: Positive = 20
    """Objects with so many votes on the first question are not uploaded again."""
    weights: dict[str, Annotated[float, Field(ge=0)]] = {}
    """What questions count when galaxies are ranked; by default 1 each."""
    where: str = ""
    """Only these objects, as SQL over the catalogue's columns; the random share is drawn from them,
    too.
    """
    diversity: Literal["none", "power", "features"] = "none"
    """`power` is PowerBALD; `features` takes galaxies that the networks see as unlike."""
    power: float = Field(1.0, gt=0)
    """Of PowerBALD: large is nearly the top of the ranking."""
    min_separation_arcsec: float = Field(0.0, ge=0)
    """What lies nearer than this to a better one is left out."""
    max_backlog_days: float = Field(60.0, gt=0)
    """No upload while volunteers have work for more days before them."""
    preview_size: int = Field(424, ge=64, le=1024)
    """Side of the pictures that volunteers see, in pixels."""
    preview_format: Literal["jpeg", "png"] = "jpeg"
    """Their format."""
    second_frame: SecondFrame | None = None
    """Another picture of each galaxy; keys that are not set are those of `[cutouts]`."""
    metadata_columns: list[str] = []
    """Catalogue columns that go into a subject's metadata; a `#` before the name hides one from
    volunteers.
    """
    metadata_key: str = Field("#zoo_bridge_id", pattern=r"^(#|//|!)?\S+$")
    """The key of a subject's metadata that holds its object id."""
    connections: int = Field(8, ge=1, le=32)
    """Subjects that are created, and pictures that are sent, at a time."""
    patience_minutes: float = Field(30.0, gt=0)
    """Without progress for so long, a run ends."""
    doubt_seconds: float = Field(60.0, ge=0)
    """How long a create without an answer is looked for before it may be sent again."""
    doubt_share: Share = 0.05
    """Share of a batch (five objects at least) that a run may ask for again so."""

    @model_validator(mode="after")
    def _metadata_is_ours_to_set(self) -> Self:
        if self.metadata_key.lower() == "#priority":
            raise ValueError("metadata_key: #priority has a meaning of its own on Zooniverse")
        taken = {"#priority", self.metadata_key.lower()}
        for name in self.metadata_columns:
            if name.lower() in taken or not name.lstrip("#!/"):
                raise ValueError(f"metadata_columns: {name!r} has a meaning of its own there")
        return self


def _cron_line(value: str | None) -> str | None:
    """See that it is one, if it is given."""
    if value is not None:
        from zoo_bridge.cron import Cron

        Cron(value)
    return value


class Schedule(Section):
    """``[schedule]``: a cron line for each job that ``zoo-bridge serve`` is to run."""

    timezone: str = "UTC"
    """In which the lines are read, such as `Europe/London`."""
    pull: str | None = None
    """A cron line of five fields, or `@weekly` and the like."""
    aggregate: str | None = None
    """The same."""
    retrain: str | None = None
    """The same."""
    score: str | None = None
    """The same."""
    upload: str | None = None
    """The same."""
    cycle: str | None = None
    """The same: all five jobs in order."""
    time_limit_hours: float = Field(24, gt=0)
    """A run that takes longer is stopped."""
    catch_up_hours: float = Field(168, ge=0)
    """What was due so long ago at most while nothing ran, runs once when `serve` starts; 0 never.
    """
    jitter_minutes: float = Field(0, ge=0, le=60)
    """A run begins up to so many minutes late, differently each time: for many that share a server.
    """

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
        return _cron_line(value)

    @property
    def lines(self) -> dict[str, str]:
        """The jobs that have a line, in the order of the flow."""
        return {job: line for job in JOBS if (line := getattr(self, job))}


Kind = Literal[
    "failed",
    "killed",
    "refused",
    "stopped",
    "overdue",
    "hangs",
    "approval",
    "kept out",
    "dry",
    "quota",
    "backlog",
]


class Notify(Section):
    """``[notify]``: what somebody is told of; the addresses stand in `ZOO_BRIDGE_NOTIFY_URLS`."""

    kinds: list[Kind] = list(get_args(Kind))
    """What is told; all by default."""
    remind_hours: float = Field(24, gt=0)
    """What lasts is told again after so many hours; of approvals, after three times as many."""
    report_url: str | None = Field(None, pattern=r"^https?://")
    """Where reports can be read, for links: `{run}` stands for the run's id."""


class Report(Section):
    """``[report]``: the page that each run leaves."""

    every_run: bool = True
    """Whether `runs/<run>/report.html` is written at the end of each run."""


class Serve(Section):
    """``[serve]``: the web port of `zoo-bridge serve`, with health and metrics."""

    host: str = "127.0.0.1"
    """The address that it listens at; `0.0.0.0` is every one."""
    port: int = Field(8470, ge=0, le=65_535)
    """The port; 0 takes any that is free, and says which."""
    textfile: str | None = None
    """A file for the metrics of runs without `serve`, for node_exporter's textfile collector."""


class Console(Section):
    """``[console]``: the pages of `zoo-bridge serve`, and who may see and change what.

    Its passwords, token and client secret are secrets: they come from the environment or files.
    """

    enabled: bool = True
    """Whether there are pages beside health and metrics."""
    public_url: str | None = Field(None, pattern=r"^https?://[^/\s]+$")
    """Where people reach it, such as `https://bridge.example.org`: for links in notifications, and
    for signing in with Zooniverse, which only goes back to https or to `http://localhost:PORT`.
    """
    session_hours: float = Field(12, gt=0, le=24 * 30)
    """Hours after which whoever logged in must do so again."""
    administrators: list[str] = []
    """Names, as a trusted proxy sends them, of those who may change things; others may read."""
    proxy_user_header: str = Field("X-Forwarded-User", pattern=r"^[A-Za-z0-9-]+$")
    """The header in which a trusted proxy says who somebody is."""
    trusted_proxies: list[str] = []
    """Addresses or networks whose headers are believed, such as `10.0.0.0/8`."""
    zooniverse_client_id: str | None = None
    """An application of Zooniverse's (https://signin.zooniverse.org/oauth/applications) with the
    scopes `public user project`: owners and collaborators of the project may sign in by it.
    """
    collaborators: Literal["administrator", "reader"] = "administrator"
    """What a collaborator who signs in with Zooniverse may do; an owner is an administrator."""
    seconds_per_classification: float = Field(30, gt=0)
    """What a classification takes a volunteer, to say how many hours a batch asks for."""

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: list[str]) -> list[str]:
        for text in value:
            ipaddress.ip_network(text, strict=False)
        return value

    @model_validator(mode="after")
    def _goes_back(self) -> Self:
        url = self.public_url or ""
        local = re.match(r"^http://localhost(:\d+)?$", url)
        if self.zooniverse_client_id and not (url.startswith("https://") or local):
            raise ValueError(
                "signing in with Zooniverse needs console.public_url, as https://… or "
                "http://localhost:PORT: it goes back nowhere else"
            )
        return self


class Keep(Section):
    """``[keep]``: what `zoo-bridge tidy` leaves, beside what is in use."""

    exports: Positive = 5
    """The newest pulls, with every file that they name."""
    labels: Positive = 20
    """The newest labels."""
    models: Positive = 10
    """The newest models; beside them the one in use, and the one before it."""
    scores: Positive = 3
    """The newest score catalogues."""
    runs_days: float = Field(365, gt=0)
    """Days for which logs and reports of runs are kept."""
    batches_days: float = Field(365, gt=0)
    """Days for which pictures of batches are kept that are with volunteers, or were given up."""
    cache: bool = False
    """Whether prepared cutouts are freed, too."""
    schedule: str | None = None
    """A cron line: `serve` tidies then."""

    @field_validator("schedule")
    @classmethod
    def _five_fields(cls, value: str | None) -> str | None:
        return _cron_line(value)
