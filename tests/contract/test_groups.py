"""Parameter groups: what may be given, when it is checked, and what survives."""

import pytest
import torch
from torch import nn

import polargrad as pg


def matrix(*shape):
    return nn.Parameter(torch.ones(shape or (3, 3)))


def unchanged_by(optimizer, group, error, message):
    before, keys = repr(optimizer), set(group)
    with pytest.raises(error, match=message):
        optimizer.add_param_group(group)
    assert repr(optimizer) == before
    assert set(group) == keys
    assert sum(len(g["params"]) for g in optimizer.param_groups) == 1


class TestAddParamGroup:
    """Checked when it is added, whole, before anything changes."""

    @pytest.fixture
    def first(self):
        return matrix()

    @pytest.fixture
    def optimizer(self, first):
        return pg.PolarGrad([first], lr=0.1, momentum=0.9)

    def test_a_vector_without_vector_lr(self, optimizer):
        unchanged_by(optimizer, {"params": [matrix(), matrix(3)]}, ValueError, "vector_lr")

    def test_an_unknown_layout(self, optimizer):
        unchanged_by(optimizer, {"params": [matrix(), matrix(2, 3, 4)]}, ValueError, r"\(2, 3, 4\)")

    def test_a_wrong_option(self, optimizer):
        unchanged_by(optimizer, {"params": [matrix()], "lr": -1.0}, ValueError, "lr must be")

    def test_a_parameter_of_another_group(self, optimizer, first):
        unchanged_by(
            optimizer, {"params": [matrix(), first]}, ValueError, "1 appears more than once"
        )

    def test_a_parameter_twice(self, optimizer):
        twice = matrix()
        unchanged_by(optimizer, {"params": [twice, twice]}, ValueError, "1 appears more than once")

    def test_a_good_matrix_beside_what_torch_refuses(self, first):
        """A mixed list becomes two groups: both are in, or none."""
        optimizer = pg.PolarGrad([first], lr=0.1, vector_lr=0.1)
        result = matrix(3) * 2
        unchanged_by(optimizer, {"params": [matrix(), result]}, ValueError, "must be a leaf")

    def test_names_for_some(self, optimizer):
        group = {"params": [("named", matrix())]}
        unchanged_by(optimizer, group, ValueError, "with/without names")

    @pytest.mark.parametrize("group", [None, [matrix()], matrix()], ids=["None", "list", "tensor"])
    def test_what_is_no_group(self, optimizer, group):
        with pytest.raises(TypeError, match="param_group must be a dict, got"):
            optimizer.add_param_group(group)

    def test_its_options_are_its_own(self, optimizer):
        optimizer.add_param_group({"params": matrix(), "lr": 0.5, "method": "qdwh"})
        old, new = optimizer.param_groups
        assert (old["lr"], old["method"], old["momentum"]) == (0.1, "auto", 0.9)
        assert (new["lr"], new["method"]["name"], new["momentum"]) == (0.5, "qdwh", 0.9)

    def test_the_given_dict_is_not_changed(self, optimizer):
        group = {"params": [matrix()], "lr": 0.5}
        optimizer.add_param_group(group)
        assert set(group) == {"params", "lr"}

    def test_added_parameters_are_stepped(self, optimizer):
        late = matrix()
        optimizer.add_param_group({"params": [late]})
        late.grad = torch.eye(3)
        optimizer.step()
        assert not torch.equal(late, torch.ones(3, 3))


@pytest.mark.parametrize("params", ["within", "across"])
def test_duplicates_are_refused(params):
    w = matrix()
    given = [w, w] if params == "within" else [{"params": [w]}, {"params": [w]}]
    with pytest.raises(ValueError, match=r"parameter number . appears more than once"):
        pg.PolarGrad(given, lr=0.1)


def test_generators_and_names_are_accepted():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    by_parameters = pg.PolarGrad(model.parameters(), lr=0.1, vector_lr=0.1)
    by_names = pg.PolarGrad(model.named_parameters(), lr=0.1, vector_lr=0.1)
    in_a_group = pg.PolarGrad([{"params": (p for p in model.parameters())}], lr=0.1, vector_lr=0.1)
    for optimizer in (by_parameters, by_names, in_a_group):
        assert [g["rule"] for g in optimizer.param_groups] == ["matrix", "adamw"]
        matrices, vectors = (g["params"] for g in optimizer.param_groups)
        assert [id(p) for p in matrices] == [id(model[0].weight), id(model[1].weight)]
        assert [id(p) for p in vectors] == [id(model[0].bias), id(model[1].bias)]
    assert by_names.param_groups[0]["param_names"] == ["0.weight", "1.weight"]
    assert by_names.param_groups[1]["param_names"] == ["0.bias", "1.bias"]


def test_param_names_as_a_list_stay_with_their_parameters():
    params = [matrix(3), matrix(), matrix(2)]
    group = {"params": params, "param_names": ["scale", "weight", "shift"]}
    optimizer = pg.PolarGrad([group], lr=0.1, vector_lr=0.1)
    assert [g["param_names"] for g in optimizer.param_groups] == [["weight"], ["scale", "shift"]]


def test_unknown_keys_survive(preset):
    """Schedulers and frameworks write their own into groups, and read them after a resume."""
    optimizer = preset([{"params": [matrix()], "tag": {"stage": [1, 2]}}])
    optimizer.param_groups[0]["initial"] = "x"
    other = preset([matrix()])
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["tag"] == {"stage": [1, 2]}
    assert other.param_groups[0]["initial"] == "x"


def test_unknown_keys_go_to_both_halves_of_a_mixed_list():
    """What is said of matrices (their lr) is not said of vectors; what is not ours goes to all."""
    group = {"params": [matrix(), matrix(3)], "tag": "trunk", "lr": 0.5, "momentum": 0.5}
    optimizer = pg.PolarGrad([group], lr=0.1, vector_lr=0.25)
    assert [g["tag"] for g in optimizer.param_groups] == ["trunk", "trunk"]
    assert [g["lr"] for g in optimizer.param_groups] == [0.5, 0.25]


def test_groups_may_be_used_for_several_optimizers():
    """What param_groups returns is data, and making an optimizer does not use it up."""
    groups = pg.param_groups(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)))
    kept = [dict(g) for g in groups]
    first, second = pg.PolarGrad(groups, lr=0.1), pg.Muon(groups, lr=0.5)
    assert [dict(g) for g in groups] == kept
    assert [g["lr"] for g in first.param_groups] == [0.1, 1e-3]
    assert [g["lr"] for g in second.param_groups] == [0.5, 1e-3]


def test_one_lr_written_to_all_groups_is_that_lr(routed, model):
    """As loops of the nanoGPT kind do it."""
    optimizer = routed(model())
    for group in optimizer.param_groups:
        group["lr"] = 0.125
    assert {row.lr for row in pg.explain(optimizer).rows} == {0.125}


def test_one_layer_alone_may_have_another_method():
    params = [matrix(), matrix()]
    optimizer = pg.PolarGrad(
        [
            {"params": params[:1], "method": "svd"},
            {"params": params[1:], "method": "newton_schulz"},
        ],
        lr=1.0,
        momentum=0.0,
    )
    g = torch.diag(torch.tensor([4.0, 2.0, 1.0]))
    for p in params:
        p.grad = g.clone()
    optimizer.step()
    torch.testing.assert_close(params[0].detach(), 1 - 7 * torch.eye(3))
    assert not torch.allclose(params[1].detach(), 1 - 7 * torch.eye(3), atol=0.1)


class TestLateVectors:
    """Biases that are unfrozen during the training find their way to AdamW."""

    @pytest.fixture
    def routed(self):
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 3))
        for p in model[2].parameters():
            p.requires_grad_(False)
        optimizer = pg.PolarGrad(pg.param_groups(model, vector_lr=5e-3), lr=0.1)
        for p in model[2].parameters():
            p.requires_grad_()
        return model, optimizer

    def test_with_the_lr_of_those_that_are_there(self, routed):
        model, optimizer = routed
        late = [(f"2.{name}", p) for name, p in model[2].named_parameters()]
        optimizer.add_param_group({"params": late})
        assert [(g["rule"], g["lr"]) for g in optimizer.param_groups[2:]] == [
            ("matrix", 0.1),
            ("adamw", 5e-3),
        ]

    def test_with_one_of_their_own(self, routed):
        model, optimizer = routed
        late = [(f"2.{name}", p) for name, p in model[2].named_parameters()]
        optimizer.add_param_group({"params": late, "vector_lr": 0.25, "lr": 0.5})
        assert [(g["rule"], g["lr"]) for g in optimizer.param_groups[2:]] == [
            ("matrix", 0.5),
            ("adamw", 0.25),
        ]
        assert all("vector_lr" not in group for group in optimizer.param_groups)

    def test_under_a_shared_lr_the_schedule_counts_once(self):
        v = [nn.Parameter(torch.ones(n)) for n in (3, 4)]
        groups = [{"params": [nn.Parameter(torch.eye(3)), v[0]]}]
        optimizer = pg.PolarGrad(groups, lr=0.1, vector_lr=0.01, shared_lr=True)
        optimizer._vector_defaults["lr"] = None  # as when the groups brought it
        for group in optimizer.param_groups:
            group["lr"] = 0.0  # the first step of a warmup
        optimizer.add_param_group({"params": [v[1]]})
        late = optimizer.param_groups[-1]
        assert (late["lr"], late["lr_scale"]) == (0.0, pytest.approx(0.1))

    def test_an_option_of_vectors_without_vectors_is_refused(self):
        with pytest.raises(ValueError, match="vector_lr is for AdamW, and the group has no vector"):
            pg.PolarGrad([{"params": [nn.Parameter(torch.eye(3))], "vector_lr": 0.1}], lr=0.1)

    def test_alone_and_without_one_the_message_says_how(self):
        optimizer = pg.PolarGrad([nn.Parameter(torch.eye(3))], lr=0.1)
        with pytest.raises(ValueError, match=r"rule='adamw' and lr"):
            optimizer.add_param_group({"params": [nn.Parameter(torch.ones(3))], "lr": 0.1})


def test_a_misspelt_option_of_a_group_is_warned_of():
    with pytest.warns(UserWarning, match="'momentun' is no option.* is 'momentum' meant"):
        pg.PolarGrad([{"params": [nn.Parameter(torch.eye(3))], "momentun": 0.9}], lr=0.1)
    pg.PolarGrad([{"params": [nn.Parameter(torch.eye(3))], "my_tag": 1, "name": "x"}], lr=0.1)
