"""Figures are PNG files that need no screen and leave nothing behind in matplotlib."""

import base64

import matplotlib
import matplotlib.pyplot
import pytest

from polargrad.errors import MissingExtraError
from polargrad.records import require
from polargrad.records.figures import data_uri, line_style, panels, png, save_png

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def test_a_figure_has_a_panel_a_title():
    figure, axes = panels(["first", "second"], extra="language")
    assert [axis.get_title() for axis in axes] == ["first", "second"]
    assert png(figure).startswith(SIGNATURE)


def test_drawing_changes_nothing_global(tmp_path):
    before = dict(matplotlib.rcParams)
    figure, (axis,) = panels(["one"], extra="language")
    axis.plot([1, 2], [3, 4], **line_style(0))
    save_png(figure, tmp_path / "a.png")
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.pyplot.get_fignums() == []
    assert (tmp_path / "a.png").read_bytes().startswith(SIGNATURE)


def test_lines_are_told_apart():
    styles = [tuple(line_style(n).values()) for n in range(32)]
    assert len(set(styles)) == 32


def test_a_picture_travels_within_a_page():
    head, _, body = data_uri(b"abc").partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(body) == b"abc"


def test_a_missing_package_is_named_with_the_command_that_installs_it():
    with pytest.raises(MissingExtraError, match=r"'no_such_package'.*polargrad\[language\]"):
        require("no_such_package.part", extra="language")
