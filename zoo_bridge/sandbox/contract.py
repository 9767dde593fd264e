"""The world in which the real Panoptes was recorded: anybody can put the same questions here.

An empty project with one workflow; its owner, a collaborator, somebody with a project of their own,
and a volunteer without a role; an application with a secret, and one to sign in with passwords.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo_bridge.files import write_json
from zoo_bridge.sandbox.state import State

SLUG = "owner/test-galaxies"
PASSWORDS = {
    "owner": "owner-password",
    "other": "other-password",
    "helper": "helper-password",
    "volunteer": "volunteer-password",
}
CLIENT_ID, CLIENT_SECRET = "contract-application", "contract-application-secret"
# Those that panoptes-client brings along: for Zooniverse, and for its staging server.
PASSWORD_APPLICATIONS = (
    "ce310d45f951de68c4cc8ef46ca38cc0a008f607a2026680295757bfef99f43c",
    "e094b63362fdef0548e0bbcc6e6cb5996c422d3a770074ef972432d57d41049c",
)
TASKS: dict[str, Any] = {
    "T0": {
        "help": "T0.help",
        "type": "single",
        "answers": [
            {"next": "T1", "label": "T0.answers.0.label"},
            {"next": "T2", "label": "T0.answers.1.label"},
            {"label": "T0.answers.2.label"},
        ],
        "question": "T0.question",
        "required": True,
    },
    "T1": {
        "help": "T1.help",
        "type": "multiple",
        "answers": [{"label": "T1.answers.0.label"}, {"label": "T1.answers.1.label"}],
        "question": "T1.question",
    },
    "T2": {"help": "T2.help", "type": "text", "instruction": "T2.instruction"},
}
STRINGS = {
    "T0.help": "",
    "T1.help": "",
    "T2.help": "",
    "T0.question": "Smooth or featured?",
    "T1.question": "Anything odd?",
    "T2.instruction": "Say more",
    "T0.answers.0.label": "![s](https://example.org/a.png) Smooth",
    "T0.answers.1.label": "Features or disk",
    "T0.answers.2.label": "Star or artifact",
    "T1.answers.0.label": "Ring",
    "T1.answers.1.label": "Lens, or arc",
}
LIMIT = 15


def found(state: State) -> None:
    """Fill an empty sandbox with it."""
    ids = {login: state.add_user(login, password) for login, password in PASSWORDS.items()}
    project = state.add_project(SLUG, "Test Galaxies", ids["owner"])
    state.add_project("other/other-project", "Other Project", ids["other"])
    state.insert("collaborators", project_id=project, user_id=ids["helper"])
    state.add_workflow(project, "Galaxy shapes", TASKS, STRINGS, LIMIT)
    state.add_application(CLIENT_ID, CLIENT_SECRET, ids["owner"])
    for client_id in PASSWORD_APPLICATIONS:
        state.add_application(client_id)


def write_description(folder: Path, endpoint: str) -> Path:
    """Say in ``contract.json`` how to speak to it.

    Parameters
    ----------
    folder : Path
        The sandbox's folder; ``contract.json`` is written into it.
    endpoint : str
        Address of the served API.

    Returns
    -------
    Path
        The file.
    """
    path = folder / "contract.json"
    write_json(
        path,
        {
            "endpoint": endpoint,
            "slug": SLUG,
            "login": "owner",
            "password": PASSWORDS["owner"],
            "other_login": "volunteer",
            "other_password": PASSWORDS["volunteer"],
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "password_app": PASSWORD_APPLICATIONS[0],
            # Sets roles, quotas, switches and the age of tokens; see `zoo_bridge.sandbox.control`.
            "control": f"{endpoint}/sandbox/server",
        },
    )
    return path
