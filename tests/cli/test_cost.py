"""The command prints the cost, and says what is wrong with its options in one line."""

import pytest

from polargrad.cli import main
from polargrad.distributed.mesh_sizes import MeshSizes
from polargrad.language.cost import Speeds, step_cost


def test_it_prints_the_cost(capsys):
    options = ["--model", "tiny", "--optimizer", "muon", "--tokens", "4096"]
    speeds = ["--flops", "1e12", "--link-bandwidths", "dp=1e9,fsdp=2e9"]
    assert main(["cost", "--mesh", "dp=2,fsdp=2", *options, *speeds]) == 0
    expected = step_cost(
        "tiny",
        MeshSizes(dp=2, fsdp=2),
        optimizer="muon",
        tokens=4096,
        speeds=Speeds(1e12, {"dp": 1e9, "fsdp": 2e9}),
    )
    assert capsys.readouterr().out == f"{expected}\n"


def test_help_names_the_options_and_the_choices(capsys):
    assert main(["cost", "--help"]) == 0
    shown = capsys.readouterr().out
    for words in ("--mesh", "--model {tiny,", "--optimizer {polargrad,", "--tokens", "--flops"):
        assert words in shown
    assert "adamw" not in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--mesh"),
        (["--mesh", "pp=2"], "mesh must be sizes of dp, fsdp, tp, such as"),
        (["--mesh", "dp=0"], "mesh: dp must be at least 1, got 0"),
        (["--mesh", "dp=2", "--model", "huge"], "unknown preset 'huge'"),
        (["--mesh", "dp=2", "--link-bandwidths", "dp=1"], "flops must be given"),
        (
            ["--mesh", "dp=2", "--flops", "1", "--link-bandwidths", "dp=x"],
            "link_bandwidths must be one number above 0 for some of dp, fsdp, tp",
        ),
        (["--mesh", "dp=2", "--flops", "0", "--link-bandwidths", "dp=1"], "the speed flops must"),
    ],
)
def test_wrong_options_end_with_2(capsys, options, message):
    assert main(["cost", *options]) == 2
    assert message in capsys.readouterr().err
