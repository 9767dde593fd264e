"""What is to be scored, by which model, and what an earlier run has done of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from zoo_bridge.cutouts.survey import Survey
from zoo_bridge.errors import NotReadyError
from zoo_bridge.files import digest_value
from zoo_bridge.ledger import Artifact
from zoo_bridge.steps.context import Context, settings_digest
from zoo_bridge.steps.inputs import expected_votes, open_store, read_survey
from zoo_bridge.steps.scoring.catalogue import FORM


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
    """

    version: str
    survey: Survey
    expected: dict[str, int]
    inputs: str
    settings: str
    made_by: str
    base: Artifact | None

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
        survey = read_survey(ctx, open_store(ctx.settings))
        expected = expected_votes(ctx)
        inputs = digest_value([FORM, version, survey.content, expected])
        # Not the runtime: features agree, whichever made them.
        settings = settings_digest(ctx.settings, "cutouts", "question", "survey")
        sections = settings_digest(ctx.settings, "cutouts", "question")
        # The same address on another server is another cutout.
        server = ctx.settings.survey.endpoint_url
        made_by = digest_value([FORM, version, expected, sections, server])
        known = () if ctx.options.force else ctx.ledger.list_artifacts("scores")
        base = next((each for each in known if each.facts.get("made_by") == made_by), None)
        return cls(version, survey, expected, inputs, settings, made_by, base)

    def folder(self, ctx: Context) -> Path:
        """Where its parts wait for the rest: the same for a run that goes on with it."""
        base = self.base.name if self.base else None
        name = digest_value([self.made_by, self.survey.content, base, ctx.options.force])
        return ctx.work / "scores" / f".work-{name}"
