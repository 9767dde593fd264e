"""Signing in with Zooniverse: OAuth's code with PKCE; who somebody is, Zooniverse itself is asked.

The token is used for two questions, who this is and what roles they have in the project, and is
revoked then. It is never decoded, and never kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from authlib.common.security import generate_token
from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from requests import RequestException

from zoo_bridge.config import Settings, secret
from zoo_bridge.console.people import CLIENT_SECRET, Role
from zoo_bridge.errors import ZooniverseError

SCOPE = "public user project"
CALLBACK = "/login/callback"
API = {"Accept": "application/vnd.api+json; version=1"}
TIMEOUT = 20.0


class SignIn:
    """One way through Zooniverse and back.

    Parameters
    ----------
    settings : Settings
        Of the workflows' server, and the application's number.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.endpoint = settings.project.endpoint

    def _session(self, **more: Any) -> OAuth2Session:
        config = self.settings.console
        return OAuth2Session(
            config.zooniverse_client_id,
            secret(CLIENT_SECRET),
            scope=SCOPE,
            redirect_uri=f"{config.public_url}{CALLBACK}",
            token_endpoint_auth_method="client_secret_post",
            code_challenge_method="S256",
            default_timeout=TIMEOUT,
            **more,
        )

    def begin(self) -> tuple[str, dict[str, str]]:
        """Where to send somebody, and what to remember until they come back."""
        verifier = generate_token(64)
        with self._session() as session:
            url, state = session.create_authorization_url(
                f"{self.endpoint}/oauth/authorize", code_verifier=verifier
            )
        return url, {"state": state, "verifier": verifier}

    def finish(
        self, code: str, verifier: str, projects: Sequence[tuple[str, str]]
    ) -> tuple[str, dict[str, Role]]:
        """Whoever came back with a code, and what they may do.

        Parameters
        ----------
        code : str
            As Zooniverse sent it along.
        verifier : str
            What `begin` gave.
        projects : sequence of (str, str)
            Keys of workflows, each with its project's slug.

        Returns
        -------
        tuple of str, dict
            The log-in, and roles by key.

        Raises
        ------
        ZooniverseError
            If Zooniverse does not take the code, or does not answer.
        """
        try:
            with self._session() as session:
                token = session.fetch_token(
                    f"{self.endpoint}/oauth/token", code=code, code_verifier=verifier
                )
                try:
                    return self._ask(session, projects)
                finally:
                    self._revoke(session, token)
        except (OAuthError, RequestException, ValueError, KeyError, LookupError) as error:
            raise ZooniverseError(
                f"Zooniverse did not sign you in: {type(error).__name__}: {error}.", "Try again."
            ) from None

    def _ask(
        self, session: OAuth2Session, projects: Sequence[tuple[str, str]]
    ) -> tuple[str, dict[str, Role]]:
        me = self._get(session, "/me", {})["users"][0]
        roles: dict[str, Role] = {}
        for key, slug in projects:
            listed = self._get(session, "/projects", {"slug": slug})["projects"]
            found = [row for row in listed if str(row["slug"]).lower() == slug.lower()]
            if not found:
                continue
            asked = {"project_id": found[0]["id"], "user_id": me["id"]}
            held = [
                role
                for row in self._get(session, "/project_roles", asked)["project_roles"]
                # Whoever it was asked for, the answer says whose they are.
                if str(row["links"]["owner"]["id"]) == str(me["id"])
                for role in row["roles"]
            ]
            roles[key] = self._role(held)
        return str(me["login"]), roles

    def _role(self, held: Sequence[str]) -> Role:
        if "owner" in held:
            return Role.ADMINISTRATOR
        if "collaborator" in held:
            collaborates = self.settings.console.collaborators == "administrator"
            return Role.ADMINISTRATOR if collaborates else Role.READER
        return Role.NOBODY

    def _get(self, session: OAuth2Session, path: str, asked: dict[str, str]) -> dict[str, Any]:
        answer = session.get(f"{self.endpoint}/api{path}", params=asked, headers=API)
        answer.raise_for_status()
        return dict(answer.json())

    def _revoke(self, session: OAuth2Session, token: dict[str, Any]) -> None:
        form = {
            "token": token["access_token"],
            "client_id": self.settings.console.zooniverse_client_id,
            "client_secret": secret(CLIENT_SECRET),
        }
        try:
            session.post(f"{self.endpoint}/oauth/revoke", data=form, withhold_token=True)
        except RequestException:
            # It ends by itself in two hours, and nobody has it.
            return
