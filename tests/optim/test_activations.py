"""Stable ranks of inputs against the singular values of the collected inputs; hooks never stay."""

import math
import weakref

import pytest
import torch
from matrices import conditioned
from torch import nn

from polargrad.optim import activations
from polargrad.optim.activations import RankComparison, compare_ranks, input_stable_ranks


def stable_rank(A):
    """‖A‖²_F/‖A‖²₂ by an SVD."""
    sigma = torch.linalg.svdvals(A.double())
    return (sigma.square().sum() / sigma[0].square()).item()


def close(value, expected, rtol=1e-10):
    torch.testing.assert_close(value, expected, rtol=rtol, atol=0)


def has_hooks(model):
    return any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()


class TestLinear:
    """Layers that multiply the last dimension."""

    def test_it_is_the_stable_rank_of_all_inputs_of_all_batches(self, network):
        batches = [random(4, 5), 3 * random(2, 6, 5, seed=1), random(5, seed=2)]
        found = input_stable_ranks(network, lambda: [network(x) for x in batches])
        inputs = torch.cat([x.reshape(-1, 5) for x in batches])
        assert list(found) == ["0.weight", "2.weight"]
        close(found["0.weight"], stable_rank(inputs))
        close(found["2.weight"], stable_rank(network[:2](inputs)))

    def test_pieces_do_not_change_it(self, network, monkeypatch):
        x = random(64, 5)
        whole = input_stable_ranks(network, lambda: network(x))
        monkeypatch.setattr(activations, "PIECE", 12)  # two rows of the first layer, one after
        for name, value in input_stable_ranks(network, lambda: network(x)).items():
            close(value, whole[name])

    def test_layers_of_one_weight_share_their_inputs(self):
        first, second = nn.Linear(4, 4).double(), nn.Linear(4, 4).double()
        second.weight = first.weight
        model = nn.ModuleList([first, second])
        x, y = random(3, 4), 5 * random(6, 4, seed=1)
        found = input_stable_ranks(model, lambda: (first(x), second(y)))
        assert list(found) == ["0.weight"]
        close(found["0.weight"], stable_rank(torch.cat([x, y])))

    def test_an_input_passed_by_keyword_counts(self):
        layer = nn.Linear(4, 2).double()
        x = random(9, 4)
        close(input_stable_ranks(layer, lambda: layer(input=x))["weight"], stable_rank(x))

    def test_the_linear_layer_of_gpt2_is_one(self):
        pytorch_utils = pytest.importorskip("transformers.pytorch_utils")
        layer = pytorch_utils.Conv1D(6, 4).double()  # 4 inputs, 6 outputs
        x = random(2, 9, 4)
        found = compare_ranks(layer, lambda: layer(x).square().sum().backward())
        close(found["weight"].stable_rank, stable_rank(x.reshape(-1, 4)))

    def test_low_precision_is_summed_in_float64(self):
        layer = nn.Linear(4, 2, dtype=torch.bfloat16)
        x = random(300, 4).bfloat16()
        close(input_stable_ranks(layer, lambda: layer(x))["weight"], stable_rank(x))

    def test_a_layer_that_is_not_called_is_left_out(self, network):
        x = random(3, 5)
        assert list(input_stable_ranks(network, lambda: network[0](x))) == ["0.weight"]

    def test_a_parametrized_weight_keeps_its_name(self):
        layer = nn.utils.parametrizations.orthogonal(nn.Linear(4, 4).double())
        x = random(9, 4)
        close(input_stable_ranks(layer, lambda: layer(x))["weight"], stable_rank(x))


CONVOLUTIONS = [
    nn.Conv1d(4, 6, 3, stride=2, padding=1),
    nn.Conv1d(4, 6, 3, dilation=2, padding="same", padding_mode="reflect"),
    nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(2, 1), dilation=(2, 1)),
    nn.Conv2d(4, 6, 4, padding="same"),
    nn.Conv2d(4, 6, 3, padding="valid", groups=2),
    nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular", groups=4),
    nn.Conv3d(4, 2, (1, 2, 3), padding=(0, 1, 1), padding_mode="replicate"),
]


class TestConvolution:
    """Layers that multiply patches."""

    # torch warns of the copy that it makes for an even kernel with padding "same".
    @pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
    @pytest.mark.parametrize("layer", CONVOLUTIONS, ids=str)
    @pytest.mark.parametrize("piece", [2**22, 40], ids=["whole", "pieces"])
    def test_weight_times_patches_is_the_convolution(self, layer, piece, monkeypatch):
        """The oracle is torch's own convolution."""
        monkeypatch.setattr(activations, "PIECE", piece)
        layer = layer.double()
        x = random(2, 4, *(7, 6, 5)[: len(layer.kernel_size)])
        output = layer(x) - layer.bias.reshape(-1, *[1] * len(layer.kernel_size))
        patches = torch.cat(list(activations._rows(layer, x)), dim=1)
        weight = layer.weight.flatten(1).unflatten(0, (layer.groups, -1))
        product = weight @ patches.mT  # (groups, outputs of a group, examples and positions)
        expected = output.transpose(0, 1).flatten(1)
        torch.testing.assert_close(product.flatten(0, 1), expected, rtol=0, atol=1e-13)

    # torch warns of the copy that it makes for an even kernel with padding "same".
    @pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
    @pytest.mark.parametrize("layer", CONVOLUTIONS, ids=str)
    def test_groups_make_a_block_diagonal_matrix(self, layer):
        layer = layer.double()
        x = random(2, 4, *(7, 6, 5)[: len(layer.kernel_size)])
        patches = torch.cat(list(activations._rows(layer, x)), dim=1)
        found = input_stable_ranks(layer, lambda: layer(x))["weight"]
        close(found, stable_rank(torch.block_diag(*patches)))

    def test_one_example_without_a_batch_is_a_batch_of_one(self):
        layer = nn.Conv2d(3, 2, 2).double()
        x = random(3, 5, 5)
        close(
            input_stable_ranks(layer, lambda: layer(x))["weight"],
            input_stable_ranks(layer, lambda: layer(x[None]))["weight"],
        )


class TestComparison:
    """Gradient and inputs side by side."""

    def test_it_is_the_nuclear_rank_of_the_gradient_beside_the_inputs(self, network):
        x = random(9, 5)
        found = compare_ranks(network, lambda: network(x).square().sum().backward())
        for name, layer, inputs in (
            ("0.weight", network[0], x),
            ("2.weight", network[2], network[:2](x)),
        ):
            sigma = torch.linalg.svdvals(layer.weight.grad)
            close(found[name].nuclear_rank, (sigma.sum() ** 2 / sigma.square().sum()).item())
            close(found[name].stable_rank, stable_rank(inputs.detach()))

    def test_a_convolution_counts_as_its_outputs_times_all_else(self):
        layer = nn.Conv2d(3, 4, 2).double()
        x = random(2, 3, 5, 5)
        found = compare_ranks(layer, lambda: layer(x).square().sum().backward())["weight"]
        sigma = torch.linalg.svdvals(layer.weight.grad.reshape(4, 12))
        close(found.nuclear_rank, (sigma.sum() ** 2 / sigma.square().sum()).item())

    @pytest.mark.parametrize("degenerate", [True, False])
    def test_the_better_step_of_a_regression_is_the_one_it_favours(self, degenerate):
        """½‖WA − C‖²: exact line search along U against one along G, where the ranks differ."""
        A = conditioned((6, 6), 1.0)
        C = torch.eye(6, dtype=torch.float64)
        if degenerate:  # one direction of the inputs dominates, the gradient does not follow it
            A = A @ torch.diag(torch.tensor([30.0, 1, 1, 1, 1, 1]).double()) @ A.mT
            C = torch.linalg.inv(A)
        else:  # inputs of full stable rank, a gradient of rank one
            C = torch.outer(C[0], C[1])
        layer = nn.Linear(6, 6, bias=False).double()
        nn.init.zeros_(layer.weight)
        run = lambda: (0.5 * (layer(A.mT).mT - C).square().sum()).backward()  # noqa: E731
        found = compare_ranks(layer, run)["weight"]
        G = layer.weight.grad
        U = torch.linalg.svd(G, full_matrices=False)
        # What the two norms of the inputs guarantee: ‖G‖²_*/(2‖A‖²_F), ‖G‖²_F/(2‖A‖²₂).
        spectral = U.S.sum() ** 2 / A.square().sum()
        euclidean = G.square().sum() / torch.linalg.matrix_norm(A, 2) ** 2
        assert found.favours_spectral == bool(spectral > euclidean) == degenerate

    def test_frozen_weights_are_left_out(self, network):
        network[0].requires_grad_(False)
        x = random(3, 5)
        assert list(compare_ranks(network, lambda: network(x).sum().backward())) == ["2.weight"]

    def test_a_run_without_backward_is_an_error(self, network):
        with pytest.raises(ValueError, match=r"run must call backward: none of 2 weights .*0\."):
            compare_ranks(network, lambda: network(random(3, 5)))

    def test_the_verdict_is_strict(self):
        assert not RankComparison(2.0, 2.0).favours_spectral
        assert RankComparison(2.1, 2.0).favours_spectral


class TestHooks:
    """What is left behind: nothing."""

    def test_none_is_left_and_the_model_computes_the_same(self, network):
        x = random(3, 5)
        before = network(x)
        input_stable_ranks(network, lambda: network(x))
        assert not has_hooks(network)
        assert torch.equal(network(x), before)

    def test_none_is_left_by_a_run_that_fails(self, network):
        def run():
            assert has_hooks(network)
            network(random(3, 5))
            raise RuntimeError("out of data")

        with pytest.raises(RuntimeError, match="out of data"):
            input_stable_ranks(network, run)
        assert not has_hooks(network)

    def test_memory_is_that_of_the_gram_matrices(self):
        """No batch is kept: each input is freed before the next one is made."""
        layer = nn.Linear(4, 2)
        alive = []

        def run():
            for seed in range(5):
                x = torch.randn(100, 4, generator=torch.Generator().manual_seed(seed))
                alive.append(weakref.ref(x))
                layer(x)
                del x
                assert all(held() is None for held in alive)

        assert input_stable_ranks(layer, run)["weight"] > 1


class TestEdges:
    """Inputs without a spectrum."""

    def test_zero_inputs_have_rank_zero(self):
        layer = nn.Linear(4, 2)
        assert input_stable_ranks(layer, lambda: layer(torch.zeros(3, 4))) == {"weight": 0.0}
        assert input_stable_ranks(layer, lambda: layer(torch.zeros(0, 4))) == {"weight": 0.0}

    def test_inputs_that_are_not_finite_give_nan(self):
        layer = nn.Linear(2, 2)
        x = torch.tensor([[1.0, float("inf")]])
        assert math.isnan(input_stable_ranks(layer, lambda: layer(x))["weight"])

    @pytest.mark.parametrize("measure", [input_stable_ranks, compare_ranks])
    def test_what_is_no_model_is_refused(self, measure):
        with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got int"):
            measure(3, lambda: None)

    def test_a_model_without_layers_has_no_ranks(self):
        model = nn.Sequential(nn.Embedding(5, 4))
        assert compare_ranks(model, lambda: model(torch.tensor([1])).sum().backward()) == {}
