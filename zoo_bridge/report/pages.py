"""Reports: one HTML file with everything in it, to be mailed, kept or put on a page."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from matplotlib.figure import Figure
from PIL import Image

from zoo_bridge.files import write_text
from zoo_bridge.report.figures import to_png

# Pixels; a phone shows half as many.
WIDE = 700


@dataclass(frozen=True)
class Table:
    """Rows of texts under a header; ``words`` if the texts are sentences, not numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: bool = False


@dataclass(frozen=True)
class Thumbnail:
    """A picture (JPEG or PNG), what it shows in words, and a caption."""

    picture: bytes
    alt: str
    caption: str


@dataclass(frozen=True)
class Gallery:
    """Pictures, as many in a row as there is room for."""

    pictures: Sequence[Thumbnail]


@dataclass(frozen=True)
class Section:
    """A heading, a paragraph, and what there is to see: a figure (drawn, or a PNG), a table.

    ``alt`` says in words what the figure shows.
    """

    title: str
    text: str
    body: Figure | bytes | Table | Gallery | None = None
    alt: str = ""


def write_report(
    path: Path,
    title: str,
    lead: Sequence[str],
    sections: Sequence[Section],
    verdict: str = "",
) -> None:
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
    verdict : str
        What came of it, in one sentence, above all else.
    """
    page = Template((files("zoo_bridge") / "report" / "report.html").read_text(encoding="utf-8"))
    text = page.substitute(
        title=escape(title),
        verdict=f'<p class="verdict">{_marked(verdict)}</p>' if verdict else "",
        lead="\n".join(f"<li>{_marked(line)}</li>" for line in lead),
        sections="\n".join(_section(section) for section in sections),
    )
    write_text(path, text)


def _section(section: Section) -> str:
    body = section.body
    if isinstance(body, Table):
        shown = _table(body)
    elif isinstance(body, Gallery):
        shown = _gallery(body)
    elif body is None:
        shown = ""
    else:
        picture = body if isinstance(body, bytes) else to_png(body)
        shown = f"<figure>{_image(picture, section.alt, _is_wide(picture))}</figure>"
    title, text = escape(section.title), _marked(section.text)
    return f"<section><h2>{title}</h2>\n<p>{text}</p>\n{shown}</section>"


def _marked(text: str) -> str:
    """A text as HTML; what stands between backticks is a command."""
    return re.sub(r"`([^`\n]+)`", r"<code>\1</code>", escape(text))


def _is_wide(picture: bytes) -> bool:
    """Whether a figure is to be moved from side to side on a phone, rather than shrunk."""
    with Image.open(io.BytesIO(picture)) as opened:
        return opened.width > WIDE


def _image(picture: bytes, alt: str, wide: bool = False) -> str:
    kind = "jpeg" if picture.startswith(b"\xff\xd8") else "png"
    data = base64.b64encode(picture).decode()
    kept = ' class="wide"' if wide else ""
    return f'<img{kept} alt="{escape(alt)}" src="data:image/{kind};base64,{data}">'


def _gallery(gallery: Gallery) -> str:
    each = (
        f"<li>{_image(one.picture, one.alt)}<span>{escape(one.caption)}</span></li>"
        for one in gallery.pictures
    )
    return '<ul class="gallery">' + "\n".join(each) + "</ul>"


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.header)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
    )
    body = f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody>"
    kind = ' class="words"' if table.words else ""
    return f'<div class="wide"><table{kind}>{body}</table></div>'
