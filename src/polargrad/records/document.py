"""A document as data, rendered as one self-contained HTML page or as Markdown."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from polargrad.records.figures import data_uri
from polargrad.records.files import write_atomically

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .55rem; border-bottom: 1px solid #8884; text-align: right; }
th, td { font-size: .93rem; }
th:first-child, td:first-child { text-align: left; }
td { white-space: nowrap; } table.text td { white-space: normal; }
table.text th, table.text td { text-align: left; vertical-align: top; }
img { width: 100%; height: auto; background: white; border-radius: 4px; }
figure { margin: 1.5rem 0; } figure.narrow { max-width: 36rem; }
figcaption, .note { opacity: .8; font-size: .9rem; }
pre { overflow-x: auto; padding: .8rem; background: #8882; border-radius: 4px; }
code { font-size: .9em; }
@media print { body { max-width: none; } figure, table { break-inside: avoid; } }
""".strip()


@dataclass(frozen=True)
class Heading:
    """A heading of level 2 or 3; the title of the document is level 1."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """Running text; words between backticks are code. A note is set smaller."""

    text: str
    note: bool = False


@dataclass(frozen=True)
class Table:
    """Heads and rows of cells; a table of text is set to the left, one of numbers to the right."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: bool = False


@dataclass(frozen=True)
class Picture:
    """A PNG file with what to see in it."""

    path: Path
    caption: str
    narrow: bool = False


@dataclass(frozen=True)
class Code:
    """Lines as they are; with a summary they are folded away on a page."""

    text: str
    summary: str | None = None


Block = Heading | Paragraph | Table | Picture | Code


def write_html(path: Path, title: str, blocks: Sequence[Block]) -> None:
    """Write the document as an HTML page that refers to nothing outside itself."""
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style></head>\n<body>\n"
        f"<h1>{html.escape(title)}</h1>\n" + "\n".join(map(_html, blocks)) + "\n</body></html>\n"
    )
    write_atomically(path, lambda file: file.write(page.encode()))


def write_markdown(path: Path, title: str, blocks: Sequence[Block]) -> None:
    """Write the document as Markdown, which refers to its pictures by relative paths."""
    text = "\n\n".join([f"# {title}", *(_markdown(block, path.parent) for block in blocks)])
    write_atomically(path, lambda file: file.write((text + "\n").encode()))


def _html(block: Block) -> str:
    match block:
        case Heading():
            return f"<h{block.level}>{_inline(block.text)}</h{block.level}>"
        case Paragraph():
            kind = ' class="note"' if block.note else ""
            return f"<p{kind}>{_inline(block.text)}</p>"
        case Table():
            return _html_table(block)
        case Picture():
            kind = ' class="narrow"' if block.narrow else ""
            source, caption = data_uri(block.path.read_bytes()), html.escape(block.caption)
            return (
                f'<figure{kind}><img src="{source}" alt="{caption}">'
                f"<figcaption>{_inline(block.caption)}</figcaption></figure>"
            )
        case Code():
            code = f"<pre>{html.escape(block.text)}</pre>"
            if block.summary is None:
                return code
            summary = html.escape(block.summary)
            return f"<details><summary>{summary}</summary>{code}</details>"


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{_inline(cell)}</th>" for cell in table.heads)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{_inline(cell)}</td>" for cell in row) + "</tr>"
        for row in table.rows
    )
    kind = ' class="text"' if table.text else ""
    return (
        f'<div class="wide"><table{kind}>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _inline(text: str) -> str:
    """Escaped text, with what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _markdown(block: Block, folder: Path) -> str:
    match block:
        case Heading():
            return f"{'#' * block.level} {block.text}"
        case Paragraph():
            return block.text
        case Table():
            rule = ["---" if block.text or i == 0 else "---:" for i in range(len(block.heads))]
            rows = [block.heads, rule, *block.rows]
            return "\n".join(
                "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows
            )
        case Picture():
            target = Path(os.path.relpath(block.path, folder)).as_posix()
            return f"![{block.caption}]({target})\n\n*{block.caption}*"
        case Code():
            fenced = f"```\n{block.text}\n```"
            return fenced if block.summary is None else f"{block.summary}:\n\n{fenced}"
