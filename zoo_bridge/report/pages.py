"""Reports: one HTML file with everything in it, to be mailed, kept or put on a page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from matplotlib.figure import Figure

from zoo_bridge.files import write_text
from zoo_bridge.report.figures import to_png


@dataclass(frozen=True)
class Table:
    """Rows of texts under a header."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A heading, a paragraph, and a figure or a table.

    ``alt`` says in words what the figure shows.
    """

    title: str
    text: str
    body: Figure | Table
    alt: str = ""


def write_report(path: Path, title: str, lead: Sequence[str], sections: Sequence[Section]) -> None:
    """Write a self-contained HTML page.

    Parameters
    ----------
    path : Path
        The HTML file, written whole.
    title : str
        The page's title.
    lead : sequence of str
        Lines at its top.
    sections : sequence of Section
        Parts of the page below its head, in order.
    """
    page = Template((files("zoo_bridge") / "report" / "report.html").read_text(encoding="utf-8"))
    text = page.substitute(
        title=escape(title),
        lead="\n".join(f"<li>{escape(line)}</li>" for line in lead),
        sections="\n".join(_section(section) for section in sections),
    )
    write_text(path, text)


def _section(section: Section) -> str:
    body = section.body
    shown = _table(body) if isinstance(body, Table) else _image(body, section.alt)
    title, text = escape(section.title), escape(section.text)
    return f"<section><h2>{title}</h2>\n<p>{text}</p>\n{shown}</section>"


def _image(figure: Figure, alt: str) -> str:
    data = base64.b64encode(to_png(figure)).decode()
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.header)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
    )
    body = f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody>"
    return f'<div class="wide"><table>{body}</table></div>'
