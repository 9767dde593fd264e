"""What votes are counted from: the files of one aggregation, and the rules of the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from zoo_bridge.errors import InputError, NotReadyError
from zoo_bridge.files import digest_file, digest_value
from zoo_bridge.steps.context import (
    Context,
)
from zoo_bridge.steps.counting.answers_now import Present
from zoo_bridge.steps.shelf import here
from zoo_bridge.votes.labels import Reach
from zoo_bridge.votes.rules import Rules


@dataclass(frozen=True)
class Sources:
    """The files of one aggregation; ``since`` ones hold what came after the export.

    ``excluded`` are the numbers of excluded users, whom these do not name; ``reach`` tells which
    of these the export would have, had they been completed; ``present`` what each workflow
    asked when they were pulled.
    """

    classifications: tuple[Path, ...]
    subjects: Path | None
    workflows: tuple[Path, ...]
    since: tuple[Path, ...] = ()
    excluded: tuple[str, ...] = ()
    reach: Mapping[int, Reach] = field(default_factory=dict)
    present: Mapping[int, Present] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The same for the same content."""
        files = [*self.classifications, *self.since, self.subjects, *self.workflows]
        digests = [digest_file(path) if path else None for path in files]
        reach = [str(part) for each in self.reach.values() for part in vars(each).values()]
        return digest_value([digests, self.excluded, *reach])


def find_sources(ctx: Context) -> Sources:
    """The files of the last pull, or those of the command line; raise if one is gone."""
    options = ctx.options
    if options.exports:
        for path in (*options.exports, options.subjects, options.workflows):
            if path is not None and not path.is_file():
                raise InputError(f"There is no file {path}.", "Correct the name.")
        workflows = (options.workflows,) if options.workflows else ()
        return Sources(options.exports, options.subjects, workflows)
    artifact = ctx.ledger.newest("exports")
    if artifact is None:
        raise NotReadyError(
            "There are no exports to aggregate.",
            "Fetch them with: zoo-bridge run pull, or name a file with --export.",
        )
    facts = artifact.facts
    if unknown := set(ctx.settings.other_workflows) - set(facts.get("workflows", ())):
        raise NotReadyError(
            f"Votes of workflow {', '.join(map(str, sorted(unknown)))} were not pulled yet.",
            "Fetch them with: zoo-bridge run pull.",
        )
    files = {kind: here(ctx.settings, name) for kind, name in facts["files"].items()}
    since = tuple(here(ctx.settings, part["file"]) for part in facts.get("since", []))
    versions = [here(ctx.settings, facts["versions"])] if facts.get("versions") else []
    for path in (*files.values(), *since, *versions):
        if not path.is_file():
            raise InputError(
                f"The pulled file {path} is gone.",
                "Fetch it again with: zoo-bridge run pull --force.",
            )
    exports = [path for kind, path in files.items() if kind.startswith("classifications")]
    exported = [files["workflows"]] if "workflows" in files else []
    return Sources(
        classifications=tuple(exports),
        subjects=files.get("subjects"),
        workflows=(*exported, *versions),
        since=since,
        excluded=_excluded(ctx, facts) if since else (),
        reach=_reach(ctx, facts),
        present={
            int(workflow): Present.from_facts(workflow, each)
            for workflow, each in facts.get("present", {}).items()
            if workflow.isdecimal()
        },
    )


def _reach(ctx: Context, facts: dict[str, Any]) -> dict[int, Reach]:
    """What each workflow's export would have."""
    told = facts.get("reach") or {}
    if "below" in told:
        # As earlier versions noted it, of one workflow.
        told = {str(ctx.settings.project.workflow): told}
    return {
        int(workflow): Reach(each["below"], datetime.fromisoformat(each["before"]))
        for workflow, each in told.items()
    }


def _excluded(ctx: Context, facts: dict[str, Any]) -> tuple[str, ...]:
    """The numbers of the users that the settings exclude, as the last pull found them."""
    known = facts.get("excluded", {})
    unknown = [name for name in ctx.settings.votes.excluded_users if name not in known]
    if unknown:
        raise NotReadyError(
            f"votes.excluded_users has changed since the last pull ({', '.join(unknown)}), and "
            "votes that came through the API name nobody.",
            "Look the users up with: zoo-bridge run pull.",
        )
    names = ctx.settings.votes.excluded_users
    return tuple(sorted(known[name] for name in names if known[name]))


def rules_of(ctx: Context, sources: Sources) -> Rules:
    """``[votes]`` as the votes room takes it."""
    votes = ctx.settings.votes
    return Rules(
        workflow=ctx.settings.project.workflow,
        first_version=votes.first_version,
        before_launch=votes.before_launch,
        training_subjects=votes.training_subjects,
        gold_standard=votes.gold_standard,
        excluded_users=frozenset(votes.excluded_users),
        excluded_ids=frozenset(sources.excluded),
        repeats=votes.repeats,
        anonymous_repeats=votes.anonymous_repeats,
        same_object=votes.same_object,
        object_id_keys=tuple(
            dict.fromkeys([ctx.settings.upload.metadata_key, *votes.object_id_keys])
        ),
    )
