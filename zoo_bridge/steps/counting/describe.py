"""What became of the rows of an export, in words."""

from __future__ import annotations

from typing import Any

from zoo_bridge.steps.counting.matching import Matching


def describe(facts: dict[str, Any]) -> list[str]:
    """A few lines on what became of the rows."""
    dropped = ", ".join(f"{reason} {rows}" for reason, rows in facts["dropped"].items()) or "none"
    lines = [f"{facts['rows']} rows: {facts['used']} used, set aside: {dropped}"]
    for file, columns in facts.get("missing", {}).items():
        lines.append(f"{file} has no column {', '.join(columns)}: rules about it do not hold")
    if marked := facts.get("marked"):
        shown = ", ".join(f"{column} {rows}" for column, rows in marked.items())
        lines.append(f"rows with a mark such as NA where nothing was: {shown}")
    if grids := facts.get("grids"):
        lines.append(f"{grids['rows']} rows show a grid, with {grids['galaxies']} galaxies in all")
    if facts["mended"]:
        lines.append(f"{facts['mended']} used rows have damage in columns that do not matter")
    if facts["unreadable_subjects"]:
        lines.append(f"{facts['unreadable_subjects']} rows of the subjects export cannot be read")
    if facts["unreadable_versions"]:
        number = facts["unreadable_versions"]
        lines.append(f"{number} rows of the workflows export cannot be read")
    for name, fate in facts["questions"].items():
        parts = [*("votes", "repeats", "not_answered", "not_reached", "off_path", "unmatched")]
        parts += ["unknown_label", "not_asked"]
        shown = ", ".join(
            f"{part.replace('_', ' ')} {fate[part]}"
            for part in parts
            if part == "votes" or fate.get(part)
        )
        least, median, most = (fate[f"n_{part}"] for part in ("min", "median", "max"))
        spread = f", N {least} to {most}, half of them {median} or more" if most else ""
        lines.append(f"{name}: {shown}; {fate['labels']} labels{spread}")
    for name, texts in facts["unmatched"].items():
        for text in texts:
            guess = f"; by its place it may now be {text['may_be']}" if text["may_be"] else ""
            lines.append(f"{name}: {text['text']!r} matches no answer ({text['rows']} rows){guess}")
    lines += _describe_ids(facts["object_ids"])
    if found := facts.get("survey"):
        lines.append(Matching.from_facts(found).text)
    if facts["other_tasks"]:
        tasks = ", ".join(f"{task} {rows}" for task, rows in facts["other_tasks"].items())
        lines.append(f"tasks that no question asks for: {tasks}")
    return lines


def _describe_ids(ids: dict[str, Any]) -> list[str]:
    kept = "added up" if ids["same_object"] == "merge" else "kept apart"
    texts = {
        "missing": "have none of votes.object_id_keys and go by their subject id",
        "ambiguous": "were seen with several object ids, and the newest is used",
    }
    lines = []
    for name, text in texts.items():
        found = ids[name]
        if found["count"]:
            shown = ", ".join(str(example) for example in found["examples"])
            lines.append(f"{found['count']} subjects {text}, such as {shown}")
    if ids["shared"]["count"]:
        shown = ", ".join(ids["shared"]["examples"])
        lines.append(
            f"{ids['shared']['count']} objects have several subjects, {kept}, such as {shown}"
        )
    return lines
