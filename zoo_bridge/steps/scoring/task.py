"""What is to be scored, by which model, and what an earlier run has done of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from zoo_bridge.cutouts.survey import Survey
from zoo_bridge.cutouts.versions import digest_versions, list_versions
from zoo_bridge.errors import NotReadyError
from zoo_bridge.files import digest_value
from zoo_bridge.ledger import Artifact
from zoo_bridge.steps.context import Context, settings_digest
from zoo_bridge.steps.inputs import expected_votes, open_store, read_survey, scored_survey
from zoo_bridge.steps.scoring.catalogue import FORM
from zoo_bridge.steps.scoring.features import HOME, Kept, folder_name, trunk_of
from zoo_bridge.steps.scoring.todo import Asked, Pool
from zoo_bridge.steps.shelf import shelf_of


@dataclass(frozen=True)
class Task:
    """One scoring of a survey.

    Parameters
    ----------
    version : str
        The model in use.
    survey : Survey
        All objects that there are now.
    expected : dict
        Votes that a galaxy is expected to get, by question.
    inputs, settings : str
        Digests: the same for a run that would make the same catalogue.
    made_by : str
        The same for scores of one object that need not be made again.
    base : Artifact or None
        Earlier scores that were made by the same.
    trunk : str
        What turns cutouts into features: see `model.record.Record`.
    versions : Path or None
        The version of each cutout, as far as it is known.
    pool : Pool or None
        What of the survey is scored; None for all of it.
    """

    version: str
    survey: Survey
    expected: dict[str, int]
    inputs: str
    settings: str
    made_by: str
    base: Artifact | None
    trunk: str = ""
    versions: Path | None = None
    pool: Pool | None = None

    @classmethod
    def of(cls, ctx: Context) -> Task:
        """What these settings and this ledger ask for.

        Raises
        ------
        NotReadyError
            If no model is in use.
        """
        version = ctx.ledger.model_in_use()
        if version is None:
            raise NotReadyError(
                "There is no model to score with.", "Train one with: zoo-bridge run retrain."
            )
        store = open_store(ctx.settings)
        survey = read_survey(ctx, store)
        expected = expected_votes(ctx)
        versions, why = list_versions(store, survey)
        if why:
            ctx.say(f"whether cutouts have changed cannot be seen: {why}")
        pool = _pool(ctx, survey)
        facts = [FORM, version, survey.content, expected]
        facts += [digest_versions(versions, survey), pool.share if pool else None]
        inputs = digest_value(facts)
        # Not the runtime: features agree, whichever made them.
        settings = settings_digest(ctx.settings, "cutouts", "question", "survey")
        sections = settings_digest(ctx.settings, "cutouts", "question")
        # The same address on another server is another cutout.
        server = ctx.settings.survey.endpoint_url
        made_by = digest_value([FORM, version, expected, sections, server])
        known = () if ctx.options.force else ctx.ledger.list_artifacts("scores")
        base = next((each for each in known if each.facts.get("made_by") == made_by), None)
        made = version, survey, expected, inputs, settings, made_by, base
        return cls(*made, _trunk_of(ctx, version), versions, pool)

    def kept(self, ctx: Context) -> Kept:
        """Where what the networks saw is kept."""
        return kept_features(ctx, self.trunk)

    def asked(self, ctx: Context) -> Asked:
        """What is to be scored, and what there is already; with ``--force`` nothing is."""
        if ctx.options.force:
            return Asked(self.survey, None, (), self.versions, self.pool)
        old = self.base.path if self.base else None
        return Asked(self.survey, old, self.kept(ctx).parts(), self.versions, self.pool)

    def folder(self, ctx: Context) -> Path:
        """Where its parts wait for the rest: the same for a run that goes on with it."""
        base = self.base.name if self.base else None
        name = digest_value([self.made_by, self.inputs, base, ctx.options.force])
        return ctx.work / "scores" / f".work-{name}"


def kept_features(ctx: Context, trunk: str) -> Kept:
    """The features of a trunk that scoring has kept."""
    name = folder_name(trunk, ctx.settings.survey.endpoint_url)
    return Kept(ctx.work / HOME / name, shelf_of(ctx.settings))


def features_in_use(ctx: Context, version: str) -> Kept:
    """The features of a model's trunk that scoring has kept."""
    return kept_features(ctx, _trunk_of(ctx, version))


def _trunk_of(ctx: Context, version: str) -> str:
    model = ctx.ledger.find_artifact("model", version)
    return trunk_of(model) if model else version


def pool_share(scores: Artifact | None) -> float | None:
    """The share of the survey that scores are of, where it was a pool; None for all of it."""
    share = (scores.facts.get("pool") or {}).get("share") if scores else None
    return None if share is None else float(share)


def _pool(ctx: Context, survey: Survey) -> Pool | None:
    """What `score.pool` asks for; its share only grows."""
    size = ctx.settings.score.pool
    if size is None or ctx.options.everything:
        return None
    before = ctx.ledger.newest("scores")
    share = max(min(1.0, size / max(len(survey), 1)), pool_share(before) or 0.0)
    seen = scored_survey(ctx.settings, before) if before else None
    return Pool(share, ctx.settings.seed, seen)
