"""A mesh as text, and who is near whom in it."""

import pytest

from polargrad.distributed.mesh_sizes import DIMENSIONS, MeshSizes


def test_dimensions_that_are_left_out_have_one_process():
    assert MeshSizes.parse("fsdp=4") == MeshSizes(dp=1, fsdp=4, tp=1)
    assert MeshSizes.parse(" tp=2 , dp=3 ").sizes == (3, 1, 2)
    assert MeshSizes.parse("dp=8,fsdp=32,tp=4").ranks == 1024


@pytest.mark.parametrize(
    "text", ["", "8", "dp", "dp=", "dp=x", "dp=-1", "pp=2", "dp=2;tp=2", "dp=2,"]
)
def test_another_text_is_refused_with_what_is_allowed(text):
    with pytest.raises(ValueError, match="mesh must be sizes of dp, fsdp, tp, such as") as error:
        MeshSizes.parse(text)
    assert str(error.value).endswith(f"got {text!r}")


def test_a_dimension_twice_or_without_processes_is_refused():
    with pytest.raises(ValueError, match="each dimension once, got dp twice in 'dp=2,dp=2'"):
        MeshSizes.parse("dp=2,dp=2")
    with pytest.raises(ValueError, match="mesh: fsdp must be at least 1, got 0"):
        MeshSizes.parse("fsdp=0")


@pytest.mark.parametrize("sizes", [(2, 3, 2), (1, 4, 1), (3, 1, 2), (4, 1, 1)])
def test_a_link_is_the_outermost_dimension_in_which_two_differ(sizes):
    mesh = MeshSizes(*sizes)
    places = [(a, b, c) for a in range(sizes[0]) for b in range(sizes[1]) for c in range(sizes[2])]
    for one, place in enumerate(places):
        for other, link in enumerate(mesh.links(one).tolist()):
            differ = [k for k in range(len(DIMENSIONS)) if place[k] != places[other][k]]
            assert not differ or link == differ[0]
