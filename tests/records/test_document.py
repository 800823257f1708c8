"""A page: well formed, with nothing outside itself and nothing unescaped; and as Markdown."""

import base64
import re

import pytest
from pages import Checker, check_page

from polargrad.records.document import (
    Code,
    Heading,
    Paragraph,
    Picture,
    Table,
    write_html,
    write_markdown,
)

HOSTILE = '<script>alert("x")</script> & co'
ESCAPED = "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp; co"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "seed" / "gap.png"
    path.parent.mkdir()
    path.write_bytes(PNG)
    return path


def blocks(picture):
    """One of each, with what could break it wherever text stands."""
    return [
        Heading(HOSTILE),
        Heading("deeper", level=3),
        Paragraph(f"{HOSTILE} and `a < b`"),
        Paragraph("small", note=True),
        Table(["run", HOSTILE], [["a|b", "1"], [HOSTILE, "`x`"]]),
        Table(["claim"], [["text"]], text=True),
        Picture(picture, HOSTILE),
        Picture(picture, "narrow", narrow=True),
        Code(f"{HOSTILE}\nline 2"),
        Code("folded", summary=HOSTILE),
    ]


@pytest.fixture
def page(tmp_path, picture):
    write_html(tmp_path / "page.html", HOSTILE, blocks(picture))
    return (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.fixture
def markdown(tmp_path, picture):
    write_markdown(tmp_path / "page.md", "Title", blocks(picture))
    return (tmp_path / "page.md").read_text(encoding="utf-8")


def test_the_page_is_well_formed_and_loads_nothing(page):
    checker = check_page(page)
    for tag, count in (("h1", 1), ("h2", 1), ("h3", 1), ("table", 2), ("img", 2), ("details", 1)):
        assert checker.tags.count(tag) == count, tag


def test_nothing_is_unescaped(page):
    assert "<script" not in page
    # Title, heading of level 1 and 2, text, cells, caption with alternative text, code, summary.
    assert page.count(ESCAPED) == 3 + 1 + 2 + 2 + 1 + 1
    assert "<code>a &lt; b</code>" in page


def test_the_picture_is_within_the_page(page):
    (first, _) = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert base64.b64decode(first) == PNG


def test_tables_of_numbers_and_of_text_differ(page):
    tables = re.findall(r"<table[^>]*>", page)
    assert tables == ["<table>", '<table class="text">']
    assert re.findall(r"<td>(.*?)</td>", page) == ["a|b", "1", ESCAPED, "<code>x</code>", "text"]


def test_a_page_without_blocks_is_a_page(tmp_path):
    write_html(tmp_path / "page.html", "Empty", [])
    check_page((tmp_path / "page.html").read_text(encoding="utf-8"))


def test_the_checker_finds_what_is_loaded():
    """The oracle of these tests itself."""
    for text in (
        '<img src="https://example.org/a.png">',
        '<link rel="stylesheet" href="style.css">',
        "<style>body { background: url(a.png) }</style>",
        "<style>@import 'a.css';</style>",
        "<p><b></p></b>",
        "<p>",
        "<script>1</script>",
    ):
        with pytest.raises(AssertionError):
            check_page(text)
    checker = Checker()
    checker.feed("<p>a</p>")
    assert checker.open == []


def test_markdown_has_the_same_parts(markdown):
    lines = markdown.splitlines()
    assert lines[0] == "# Title"
    assert f"## {HOSTILE}" in lines
    assert "### deeper" in lines
    assert "| run | " + HOSTILE + " |" in lines
    assert "| --- | ---: |" in lines  # numbers to the right
    assert "| a\\|b | 1 |" in lines
    assert "| claim |\n| --- |\n| text |" in markdown
    assert f"```\n{HOSTILE}\nline 2\n```" in markdown
    assert f"{HOSTILE}:\n\n```\nfolded\n```" in markdown


def test_markdown_refers_to_pictures_by_relative_paths(markdown, tmp_path, picture):
    """So that the folder can be moved."""
    assert "![narrow](seed/gap.png)" in markdown
    assert str(tmp_path) not in markdown
    beside = tmp_path / "docs" / "page.md"
    beside.parent.mkdir()
    write_markdown(beside, "Title", [Picture(picture, "up")])
    assert "![up](../seed/gap.png)" in beside.read_text(encoding="utf-8")


@pytest.mark.parametrize("write", [write_html, write_markdown])
def test_a_page_that_cannot_be_made_leaves_the_old_one(write, tmp_path):
    path = tmp_path / "page"
    path.write_text("old")
    with pytest.raises((FileNotFoundError, TypeError)):
        write(path, "t", [Picture(tmp_path / "missing.png", "c"), Paragraph(None)])
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["page"]
