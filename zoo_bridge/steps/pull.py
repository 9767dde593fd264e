"""Pull: the project's classifications, subjects and workflow versions, to ``exports/``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from zoo_bridge.errors import NotReadyError
from zoo_bridge.files import digest_value, write_json
from zoo_bridge.steps.context import Context, Result, settings_digest
from zoo_bridge.steps.counting.answers_now import Present, check_tasks, declared
from zoo_bridge.steps.login import log_in
from zoo_bridge.steps.pulling.fetch import check_ends, fetch_exports
from zoo_bridge.steps.pulling.manifest import (
    VOTES,
    ExportEntry,
    Manifest,
    last_manifest,
    least_far,
    reach_of,
    workflows_of,
)
from zoo_bridge.steps.pulling.since import add_since, going_on
from zoo_bridge.votes.rules import NO_TEXTS

if TYPE_CHECKING:
    from zoo_bridge.zooniverse.project import Project, Workflow


def pull(ctx: Context) -> Result:
    """Fetch what Zooniverse has of the workflow.

    In the mode "export" these are the three exports, made anew when they are old. In the mode
    "incremental" they are the last exports, however old, and what came since through the API.

    Parameters
    ----------
    ctx : Context
        The settings, the ledger and what the command line asked for.

    Returns
    -------
    Result
        The artifact ``exports`` is a manifest that names the files.

    Raises
    ------
    RefusedError
        If the account has no rights to the project's votes, or an export is smaller than the last
        one, or ends earlier.
    """
    from zoo_bridge.zooniverse.project import find_workflows

    session, access = log_in(ctx)
    # Without rights there seem to be no votes and no exports, and nothing says why.
    access.require_rights()
    project = access.project
    last = last_manifest(ctx)
    if last is None:
        check_tasks(ctx.settings, project.workflow.tasks)
    others = find_workflows(session, project, ctx.settings.other_workflows)
    present = _look_at_answers(ctx, (project.workflow, *others))
    sources = _sources(project, others)
    incremental = ctx.settings.pull.mode == "incremental"
    if ctx.options.dry_run:
        names = ", ".join(f"{kind} of {source}" for kind, source in sources.items())
        more = " as they are, and the classifications since" if incremental else ""
        return Result("planned", f"would fetch {names} from {project.name}{more}")
    exports = fetch_exports(ctx, session, sources, last)
    if not incremental:
        check_ends(ctx, session, project.project_id, sources, exports)
    since, frontier = going_on(ctx, last, least_far(ctx, exports))
    manifest = Manifest(
        slug=ctx.settings.project.slug,
        workflow=project.workflow.workflow_id,
        workflows=workflows_of(ctx),
        project=project.name,
        retirement_limit=project.workflow.limit,
        present=present,
        exports={kind: ExportEntry.of(ctx, export) for kind, export in exports.items()},
        since=since,
        frontier=frontier,
    )
    if incremental:
        add_since(ctx, session, project, manifest)
    return _keep(ctx, manifest, last)


def _sources(project: Project, others: Sequence[Workflow]) -> dict[str, str]:
    """What is exported of what: the votes of each workflow, subjects and workflow versions."""
    return {
        VOTES: f"workflows/{project.workflow.workflow_id}",
        **{f"{VOTES}-{each.workflow_id}": f"workflows/{each.workflow_id}" for each in others},
        "subjects": f"projects/{project.project_id}",
        "workflows": f"projects/{project.project_id}",
    }


def _look_at_answers(ctx: Context, workflows: Sequence[Workflow]) -> dict[str, Any]:
    """What each workflow asks by now; answers that the settings do not know are warned of."""
    present = {}
    for workflow in workflows:
        asked = Present.of_tasks(workflow.workflow_id, workflow.version, workflow.tasks)
        present[str(workflow.workflow_id)] = asked.as_facts()
        for what, advice in asked.differences(declared(ctx.settings), NO_TEXTS):
            # Votes are fetched all the same; it is counting that must wait for a person.
            ctx.warn(f"{what} {advice}")
    return present


def _keep(ctx: Context, manifest: Manifest, last: Manifest | None) -> Result:
    """Make the manifest an artifact, unless it says what the last one says."""
    since = manifest.since
    counts = {kind: entry.rows for kind, entry in manifest.exports.items()}
    counts["since"] = sum(part.rows for part in since)
    votes = sum(rows for kind, rows in counts.items() if kind.startswith(VOTES))
    if not votes and not since:
        raise NotReadyError(
            "There are no classifications yet.",
            "Has a batch been published, and is project.workflow the right one?",
        )
    files = {kind: entry.file for kind, entry in manifest.exports.items()}
    facts = {
        "files": files,
        "versions": manifest.versions,
        "since": [vars(part) for part in since],
        "excluded": manifest.excluded,
        "rows": counts,
        "reach": reach_of(manifest) if since else None,
        "project": manifest.project,
        "retirement_limit": manifest.retirement_limit,
        "present": manifest.present,
        "workflows": manifest.workflows,
    }
    summary = f"{votes} classifications"
    summary += f" and {counts['since']} since" if since else ""
    parts = [part.file for part in since]
    content = [files, manifest.versions, parts, manifest.excluded, facts["reach"]]
    digest = digest_value([*content, manifest.present])
    newest = ctx.ledger.newest("exports")
    if newest and last and newest.digest == digest and not ctx.options.force:
        # Where it goes on next time may have moved all the same.
        write_json(newest.path, manifest.as_json())
        ctx.ledger.shelve(newest.path)
        return Result("unchanged", f"the same as before: {summary}", counts, [], newest.name)
    path = ctx.work / "exports" / f"{ctx.run_id}.json"
    write_json(path, manifest.as_json())
    _shelve(ctx, manifest)
    ctx.ledger.add_artifact("exports", ctx.run_id, path, digest, ctx.run_id, facts)
    settings = settings_digest(ctx.settings, "project")
    return Result("done", summary, counts, [], ctx.run_id, digest, settings)


def _shelve(ctx: Context, manifest: Manifest) -> None:
    """Put the files that a manifest names on the shelf, where there is one."""
    shelf = ctx.ledger.shelf
    if shelf is None:
        return
    names = [entry.file for entry in manifest.exports.values()]
    names += [part.file for part in manifest.since]
    names += [manifest.versions] if manifest.versions else []
    for name in names:
        # They are called after their content: what is there is the same.
        if not shelf.has(ctx.work / name):
            shelf.put(ctx.work / name)
