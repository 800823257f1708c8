"""The table of the peers' defects is complete, and every test that it names exists."""

import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "peer_defects.md"
NOT_YET = {51}


def rows():
    """The lines of the table that have a number, as (number, cells)."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    return [(int(row[0]), row) for row in cells if row[0].isdigit()]


def written():
    """The numbered tests of this folder."""
    return {
        name
        for path in HERE.glob("test_*.py")
        for name in re.findall(r"^def (test_c\d\d_\w+)", path.read_text("utf-8"), re.MULTILINE)
    }


def test_each_number_stands_once_with_all_its_cells():
    assert [number for number, _ in rows()] == list(range(1, 58))
    for number, row in rows():
        assert len(row) == 4, number
        assert all(row[:3]), number


def test_each_defect_has_a_test_with_its_number_or_a_reason():
    for number, row in rows():
        names = re.findall(r"`(test_\w+)`", row[3])
        assert all(name.startswith(f"test_c{number:02}_") for name in names)
        assert bool(names) == (number not in NOT_YET), number
        if not names:
            assert "belongs to distributed training" in row[2]


def test_the_named_tests_are_the_written_ones():
    named = {name for _, row in rows() for name in re.findall(r"`(test_\w+)`", row[3])}
    assert named == written()
