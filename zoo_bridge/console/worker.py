"""What networks say of galaxies that somebody looks at: a process that has a model in memory.

``python -m zoo_bridge.console.worker SETTINGS`` reads a question a line and answers it in a line,
both JSON. It ends when nobody has asked for some minutes, since a model takes a lot of memory.
"""

from __future__ import annotations

import json
import os
import select
import sys
from pathlib import Path
from typing import Any

IDLE_SECONDS = 180.0


def main(path: Path, idle: float = IDLE_SECONDS) -> None:
    """Answer questions until there are no more.

    Parameters
    ----------
    path : Path
        The settings file.
    idle : float
        Seconds without a question after which it ends.
    """
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    # Libraries say things on standard output.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    said: dict[str, Said] = {}
    while select.select([sys.stdin], [], [], idle)[0]:
        line = sys.stdin.readline()
        if not line:
            return
        asked = json.loads(line)
        try:
            version = asked["version"]
            if version not in said:
                said = {version: Said(path, version)}
            answer: dict[str, Any] = {"said": said[version].of(asked)}
        except Exception as error:
            from zoo_bridge.trouble import unexpected

            answer = {"error": unexpected(error, "the model").message}
        print(json.dumps(answer), file=answers, flush=True)


class Said:
    """A model of a project, and what it says of galaxies."""

    def __init__(self, path: Path, version: str) -> None:
        from zoo_bridge.config import load
        from zoo_bridge.cutouts.load import Loader
        from zoo_bridge.steps.inputs import open_model, open_store, preprocessing_of

        self.settings = load(path)
        self.model = open_model(self.settings, version, self.settings.score.runtime)
        store = open_store(self.settings)
        cache = self.settings.work / "cache"
        self.loader = Loader(store, preprocessing_of(self.settings), cache)

    def of(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Of each object: the posterior over k of n, single networks' if wanted, or why not.

        Parameters
        ----------
        asked : dict
            ``objects`` (pairs of id and URI), ``question`` (its place), ``n``, and ``networks``,
            how many single networks are drawn.
        """
        from zoo_bridge.model.predict import features_as_kept, predict, sampled_votes

        place, n = asked["question"], asked["n"]
        target = self.settings.question[place].target
        batch = self.loader.load([(name, uri) for name, uri in asked["objects"]])
        found: dict[str, Any] = {
            each.object_id: {"fault": f"{each.reason} ({each.detail})"} for each in batch.rejects
        }
        if not batch.places:
            return found
        features = features_as_kept(self.model, batch.images)
        told = predict(self.model, features, place, n)[target]
        count = asked["networks"]
        drawn = sampled_votes(self.model, features, place, target, n, count) if count else None
        for row, at in enumerate(batch.places):
            name = batch.objects[at][0]
            found[name] = {"p": _short(told.p_NK[row])}
            if drawn is not None:
                found[name]["networks"] = [_short(p_K) for p_K in drawn[row]]
        return found


def _short(p_K: Any) -> list[float]:
    return [round(float(value), 6) for value in p_K]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
