"""Writes the pages of docs/reference from the code; a test sees that they are current.

Run it after a change of settings, commands or tables: make docs does.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel

from zoo_bridge import tables
from zoo_bridge.config import Settings
from zoo_bridge.config.old_places import GONE, MOVED
from zoo_bridge.service.cli import app

HERE = Path(__file__).parent
NOTE = "<!-- Written by docs/reference.py from the code: change that, then run make docs. -->"

# The files of the command line, in the order in which somebody meets them.
GROUPS = {
    "project": "Begin, and look after the ledger",
    "run": "Run",
    "look": "Look",
    "act": "Act",
    "survey": "The survey",
    "sandbox": "Try everything without an account",
}
EXIT_CODES = {
    0: "done, or nothing had to be done",
    1: "failed",
    2: "wrong usage, or a setting is wrong",
    3: "refused by a safety rule",
    75: "another run holds the lock",
    130: "stopped by the keyboard",
    143: "stopped by SIGTERM; what was done is kept",
}


def settings_page() -> str:
    """Every table and key: its default, its meaning, and the values that it may have."""
    lines = [
        NOTE,
        "# Settings",
        "",
        "One TOML file. `zoo-bridge init` writes it with these comments; `zoo-bridge check` says "
        "what is wrong in it, with the line. Secrets never stand in it: they come from the "
        "environment, each also as `NAME_FILE`.",
        "",
        *_table("", Settings),
    ]
    for name, field in Settings.model_fields.items():
        if (model := _model(field.annotation)) is not None:
            header = f"[[{name}]]" if name == "question" else f"[{name}]"
            lines += ["", f"## `{header}`", "", _first_line(model), ""]
            lines += _table(name, model)
            for inner, inside in model.model_fields.items():
                if (deeper := _model(inside.annotation)) is not None:
                    lines += ["", f"### `{name}.{inner}`", "", _first_line(deeper), ""]
                    lines += _table(f"{name}.{inner}", deeper)
    lines += ["", "## Settings that have moved or gone", ""]
    lines += ["The old places are taken for one more release, with a warning.", ""]
    lines += ["| before | now |", "|---|---|"]
    lines += [f"| `{'.'.join(old)}` | `{'.'.join(new)}` |" for old, new in MOVED.items()]
    lines += [f"| `{'.'.join(old)}` | gone: {why} |" for old, why in GONE.items()]
    return "\n".join(lines) + "\n"


def _first_line(model: type[BaseModel]) -> str:
    text = (model.__doc__ or "").splitlines()[0].partition(": ")[2]
    return text[:1].upper() + text[1:]


def _table(name: str, model: type[BaseModel]) -> list[str]:
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for key, field in model.model_fields.items():
        if not name and _model(field.annotation) is not None:
            continue
        default = "needed" if field.is_required() else _toml(field.get_default())
        meaning = " ".join(filter(None, [field.description, _kind(field.annotation)]))
        rows.append(f"| `{key}` | {default} | {_cell(meaning)} |")
    return rows


def _model(annotation: Any) -> type[BaseModel] | None:
    for each in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(each, type) and issubclass(each, BaseModel):
            return each
    return None


def _kind(annotation: Any) -> str:
    """The values that a key may have, where they are few."""
    if str(annotation).startswith("typing.Literal"):
        shown = " or ".join(f"`{value!r}`".replace("'", '"') for value in annotation.__args__)
        return f"One of {shown}."
    return ""


def _toml(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str):
        return f'`"{value}"`'
    if isinstance(value, list | tuple | dict) and not value:
        return "`[]`" if not isinstance(value, dict) else "`{}`"
    if isinstance(value, list | tuple):
        return "`[" + ", ".join(f'"{each}"' for each in value) + "]`"
    return f"`{value}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def commands_page() -> str:
    """Every command: what it does, its arguments and options; and the exit codes."""
    root = typer.main.get_command(app)
    lines = [
        NOTE,
        "# Commands",
        "",
        "Every command but `init`, `sandbox` and `demo` takes `--config FILE` (or the "
        "environment's `ZOO_BRIDGE_CONFIG`); without it the file is `zoo_bridge.toml` in the "
        "folder where you are. `--json` prints JSON, for programs.",
        "",
        "`jobs/*.py` are the jobs of `zoo-bridge run` as scripts, for whatever starts scripts.",
    ]
    every = list(_walk(root, "zoo-bridge"))
    for module, title in GROUPS.items():
        lines += ["", f"## {title}"]
        for name, command in every:
            if command.callback.__module__.endswith(f".{module}"):
                lines += _command(name, command)
    lines += ["", "## Exit codes", "", "| code | meaning |", "|---|---|"]
    lines += [f"| {code} | {text} |" for code, text in EXIT_CODES.items()]
    return "\n".join(lines) + "\n"


def _command(name: str, command: Any) -> list[str]:
    usage = " ".join(map(_name_of, _arguments(command)))
    lines = ["", f"### `{name}`", "", (command.help or "").strip(), ""]
    lines += ["```", f"{name} {usage} [OPTIONS]".replace("  ", " "), "```"]
    rows = [(_name_of(each), getattr(each, "help", "")) for each in _arguments(command)]
    rows += [
        (", ".join(option.opts), option.help)
        for option in command.params
        if option.param_type_name == "option" and option.name not in ("config", "help")
    ]
    if rows:
        lines += ["", "| argument or option | meaning |", "|---|---|"]
        lines += [f"| `{what}` | {_cell(text or '')} |" for what, text in rows]
    return lines


def _name_of(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    return name if argument.required or name.startswith("[") else f"[{name}]"


def _arguments(command: Any) -> list[Any]:
    return [each for each in command.params if each.param_type_name == "argument"]


def _walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
        return
    for word, each in inner.items():
        yield from _walk(each, f"{name} {word}")


WHERE = {
    "votes": "`labels/<run>/votes.parquet`: every vote that counts",
    "labels": "`labels/<run>/labels.parquet`: k of N, a row for each answer of a question",
    "survey": "`survey/<digest>/`: the survey as it was read, with the catalogue's own columns",
    "scores": "`scores/<run>/part-*.parquet`: the catalogue, a row for each question and answer",
    "rejects": "`labels/<run>/rejects.parquet`, `scores/<run>/rejects.parquet`: what was set aside",
    "batch": "`batches/<name>/plan.parquet`: what a batch is to hold, and why",
}


def tables_page() -> str:
    """Every table that a step leaves: where it lies, its columns, types and meanings."""
    lines = [
        NOTE,
        "# Tables",
        "",
        "What a step leaves for another are Parquet files (zstd) under `work_dir`. More columns "
        "may stand in a file than here; fewer may not.",
    ]
    for name, schema in tables.SCHEMAS.items():
        lines += ["", f"## {name}", "", f"{WHERE[name]}.", "", "| column | type | meaning |"]
        lines += ["|---|---|---|"]
        lines += [
            f"| `{field.name}` | {_type(field.type)} | {tables.MEANINGS[name][field.name]} |"
            for field in schema
        ]
    return "\n".join(lines) + "\n"


def _type(kind: Any) -> str:
    text = str(kind)
    return {"string": "text", "bool": "true or false", "timestamp[us, tz=UTC]": "time"}.get(
        text, text.replace("struct<", "").replace(">", "")
    )


PAGES = {"settings": settings_page, "commands": commands_page, "tables": tables_page}


def main() -> None:
    """Write every page."""
    for name, page in PAGES.items():
        (HERE / "reference" / f"{name}.md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
