"""Pull: the project's exports, from Zooniverse to ``exports/``."""

from __future__ import annotations

from zoo_bridge.config import Settings
from zoo_bridge.files import digest_value, write_json
from zoo_bridge.steps.context import Context, Result, settings_digest


def pull(ctx: Context) -> Result:
    """Fetch the classifications, subjects and workflows exports.

    Parameters
    ----------
    ctx : Context
        The run.

    Returns
    -------
    Result
        The artifact ``exports`` is a manifest that names the three files.
    """
    from zoo_bridge.zooniverse import exports
    from zoo_bridge.zooniverse.project import find_project
    from zoo_bridge.zooniverse.session import Session

    config = ctx.settings.pull
    session = Session(ctx.settings.project.endpoint, config.timeout_seconds)
    project = find_project(session, ctx.settings.project.slug, ctx.settings.project.workflow)
    check_tasks(ctx.settings, project.workflow.tasks)
    sources = {
        "classifications": f"workflows/{project.workflow.workflow_id}",
        "subjects": f"projects/{project.project_id}",
        "workflows": f"projects/{project.project_id}",
    }
    if ctx.options.dry_run:
        names = ", ".join(f"{kind} of {source}" for kind, source in sources.items())
        return Result("planned", f"would fetch {names} from {project.name}")
    patience = exports.Patience(
        max_age=config.max_age_hours * 3600,
        stale_after=config.stale_after_days * 24 * 3600,
        wait=config.wait_minutes * 60,
        poll=config.poll_seconds,
    )
    folder = ctx.work / "exports"
    files, rows = {}, {}
    for kind, source in sources.items():
        with ctx.progress.bar(f"{kind} export (bytes)") as tick:
            export = exports.fetch(session, source, kind, folder, patience, tick)
        age = export.note or f"{export.age_seconds / 3600:.1f} hours old"
        ctx.say(f"{kind}: {export.rows} rows, {age}", file=export.path.name)
        files[kind] = export.path.relative_to(ctx.work).as_posix()
        rows[kind] = export.rows
    digest = digest_value(files)
    settings = settings_digest(ctx.settings, "project")
    summary = f"{rows['classifications']} classifications, {rows['subjects']} subject rows"
    last = ctx.ledger.newest("exports")
    if last and last.digest == digest and not ctx.options.force:
        return Result("unchanged", f"the same exports as before: {summary}", rows, [], last.name)
    manifest = folder / f"{ctx.run_id}.json"
    facts = {
        "files": files,
        "rows": rows,
        "project": project.name,
        "retirement_limit": project.workflow.limit,
    }
    write_json(manifest, facts)
    ctx.ledger.add_artifact("exports", ctx.run_id, manifest, digest, ctx.run_id, facts)
    return Result("done", summary, rows, [], ctx.run_id, digest, settings)


def check_tasks(settings: Settings, tasks: dict[str, object]) -> None:
    """See that every question's task is one of the workflow's."""
    from zoo_bridge.errors import SettingsError

    for question in settings.question:
        if question.task not in tasks:
            raise SettingsError(
                f"The workflow {settings.project.workflow} has no task {question.task} "
                f"(question {question.name}).",
                f"Correct question.task: it has {', '.join(tasks) or 'none'}.",
            )
