"""Logging in: who we are on Zooniverse, what we may, and which project this is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo_bridge.steps.context import Context

if TYPE_CHECKING:
    from zoo_bridge.zooniverse.project import Access
    from zoo_bridge.zooniverse.session import Session


def log_in(ctx: Context) -> tuple[Session, Access]:
    """Log in to Zooniverse, look at the project, and note its number in the ledger.

    Parameters
    ----------
    ctx : Context
        The settings name project and workflow, the environment the account.

    Returns
    -------
    tuple of Session, Access
        The log-in; and the project, the account, and what it may do there.

    Raises
    ------
    ZooniverseError
        If Zooniverse does not answer, or knows neither account nor project.
    SettingsError
        If there are no credentials.
    """
    from zoo_bridge.zooniverse.project import find_access
    from zoo_bridge.zooniverse.session import Session

    asked = ctx.settings.project
    session = Session.of(ctx.settings)
    access = find_access(session, asked.slug, asked.workflow)
    ctx.ledger.identify(access.project.project_id)
    return session, access
