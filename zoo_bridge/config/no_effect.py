"""Settings that do nothing in combination with another: somebody who set one expects something."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zoo_bridge.config.settings import Settings

# A key, when it does nothing, and why then.
_Rule = tuple[str, Callable[[Settings], bool], str]
RULES: tuple[_Rule, ...] = (
    ("cutouts.asinh_a", lambda s: s.cutouts.stretch != "asinh", "cutouts.stretch is not asinh"),
    *(
        (f"cutouts.{key}", lambda s: s.cutouts.stretch != "lupton", "cutouts.stretch is not lupton")
        for key in ("lupton_minimum", "lupton_stretch", "lupton_q")
    ),
    *(
        (f"cutouts.{key}", lambda s: s.cutouts.stretch == "lupton", "cutouts.stretch is lupton")
        for key in ("low_percentile", "high_percentile")
    ),
    *(
        (
            f"pull.{key}",
            lambda s: s.pull.mode == "incremental",
            "pull.mode is incremental: no new export is waited for",
        )
        for key in ("max_age_hours", "wait_minutes", "poll_seconds", "stale_after_days")
    ),
    *(
        (
            f"survey.{key}",
            lambda s: s.survey.prefix is not None,
            "with survey.prefix there is no catalogue",
        )
        for key in ("object_id_column", "uri_column", "missing_values", "ra_column", "dec_column")
    ),
    (
        "survey.id_pattern",
        lambda s: s.survey.catalogue is not None,
        "with survey.catalogue ids stand in a column",
    ),
    (
        "survey.requester_pays",
        lambda s: s.survey.anonymous,
        "survey.anonymous is set: nobody is there to pay",
    ),
    (
        "model.pretrained_weights",
        lambda s: s.model.start == "current",
        'once there is a model: model.start is "current", and training goes on from it',
    ),
    (
        "model.trunk_check",
        lambda s: s.model.trunk != "keep",
        "model.trunk is not keep",
    ),
    *(
        (f"model.{key}", lambda s: not s.model.trunk.startswith("onnx:"), "there is no encoder")
        for key in ("trunk_order", "trunk_mean", "trunk_spread")
    ),
    *(
        (f"model.{key}", lambda s: s.model.trunk.startswith("onnx:"), "model.trunk is an encoder")
        for key in ("network", "pretrained_weights", "start")
    ),
    (
        "upload.power",
        lambda s: s.upload.diversity != "power",
        "upload.diversity is not power",
    ),
    (
        "upload.wait_for_approval",
        lambda s: s.upload.publish == "automatic",
        "upload.publish is automatic: no batch waits",
    ),
    (
        "upload.weights",
        lambda s: len(s.question) == 1,
        "there is one question",
    ),
)


def without_effect(settings: Settings) -> list[str]:
    """What is set and does nothing, as keys with the reason.

    Parameters
    ----------
    settings : Settings
        Already valid. A key at its default is no matter: an example file has them all.

    Returns
    -------
    list of str
        Such as ``upload.power has no effect: upload.diversity is not power``.
    """
    told = []
    for key, idle, why in RULES:
        section, _, name = key.partition(".")
        table = getattr(settings, section)
        default: Any = type(table).model_fields[name].get_default(call_default_factory=True)
        if getattr(table, name) != default and idle(settings):
            told.append(f"{key} has no effect: {why}.")
    return told
