"""State: what it holds, how it is saved and loaded, and what is refused."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import polargrad as pg


def saved_and_loaded(obj):
    """Through a file, as a checkpoint goes, with nothing but plain data allowed."""
    buffer = io.BytesIO()
    torch.save(obj, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def tensors(optimizer):
    return [t for state in optimizer.state.values() for t in state.values()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_a_resumed_run_is_the_same_run(routed, model, set_gradients, snapshot, equal, dtype, steps):
    """n + m steps equal n steps, save, load, m steps, to the bit, scheduler and all."""

    def start():
        module = model(dtype)
        optimizer = routed(module)
        return module, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)

    def advance(module, optimizer, scheduler, numbers):
        for step in numbers:
            set_gradients(module.parameters(), step)
            optimizer.step()
            scheduler.step()

    straight = start()
    advance(*straight, range(steps))
    checkpoint = saved_and_loaded([part.state_dict() for part in straight])
    resumed = start()
    for part, state in zip(resumed, checkpoint, strict=True):
        part.load_state_dict(state)
    assert equal(snapshot(resumed[1]), snapshot(straight[1]))
    advance(*straight, range(steps, steps + 4))
    advance(*resumed, range(steps, steps + 4))
    assert equal(snapshot(resumed[1]), snapshot(straight[1]))
    assert resumed[2].get_last_lr() == straight[2].get_last_lr()


def test_options_resume_with_the_state():
    """What was changed is in the checkpoint: lr, method, tolerance, the decay's initial lr."""
    p = nn.Parameter(torch.eye(3))
    optimizer = pg.PolarGrad([p], lr=0.5, method=pg.linalg.QDWH(steps=2), decay_per_step=0.1)
    optimizer.param_groups[0].update(lr=0.25, momentum=0.5)
    other = pg.PolarGrad([nn.Parameter(torch.eye(3))], lr=0.1)
    other.load_state_dict(saved_and_loaded(optimizer.state_dict()))
    mine, theirs = (
        {k: v for k, v in o.param_groups[0].items() if k != "params"} for o in (other, optimizer)
    )
    assert mine == theirs
    assert mine["base_lr"] == 0.5


def test_momentum_is_float32_beside_bfloat16_also_after_loading(model, set_gradients):
    module = model(torch.bfloat16)
    optimizer = pg.PolarGrad(pg.param_groups(module), lr=0.05)
    set_gradients(module.parameters())
    optimizer.step()
    again = model(torch.bfloat16)
    loaded = pg.PolarGrad(pg.param_groups(again), lr=0.05)
    loaded.load_state_dict(saved_and_loaded(optimizer.state_dict()))
    for one in (optimizer, loaded):
        assert {one.state[p]["momentum_buffer"].dtype for p in one.param_groups[0]["params"]} == {
            torch.float32
        }
    # What bfloat16 would have lost has come through.
    fine = optimizer.state[module["first"].weight]["momentum_buffer"]
    assert not torch.equal(fine, fine.bfloat16().float())
    assert torch.equal(loaded.state[again["first"].weight]["momentum_buffer"], fine)


@pytest.mark.parametrize("before", [torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("after", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_a_state_moves_to_parameters_of_another_dtype(preset, model, set_gradients, before, after):
    """As in torch's own: moments in the dtype of a fresh run, and the next step works."""
    saved, fresh, loaded = model(before), model(after), model(after)
    optimizers = [preset(pg.param_groups(m)) for m in (saved, fresh, loaded)]
    for module, optimizer in zip((saved, fresh), optimizers, strict=False):
        set_gradients(module.parameters())
        optimizer.step()
    optimizers[2].load_state_dict(saved_and_loaded(optimizers[0].state_dict()))
    assert [t.dtype for t in tensors(optimizers[2])] == [t.dtype for t in tensors(optimizers[1])]
    set_gradients(loaded.parameters(), 1)
    optimizers[2].step()
    assert all(p.isfinite().all() for p in loaded.parameters())


def test_a_state_moves_to_the_device_of_the_parameters(preset, model, set_gradients):
    """Counters too, wherever the checkpoint was read: a GPU's fused kernel wants them there."""
    module = model()
    optimizer = preset(pg.param_groups(module))
    set_gradients(module.parameters())
    optimizer.step()
    elsewhere = preset(pg.param_groups(model().to("meta")))
    elsewhere.load_state_dict(optimizer.state_dict())
    assert len(tensors(elsewhere)) == len(tensors(optimizer))
    assert {t.device.type for t in tensors(elsewhere)} == {"meta"}


def test_state_shares_no_memory(preset, model, set_gradients):
    """Neither with parameters nor gradients nor among itself: what one writes no other may read."""
    module = model()
    optimizer = preset(pg.param_groups(module))
    set_gradients(module.parameters())
    optimizer.step()
    held = [p.data_ptr() for p in module.parameters()]
    held += [p.grad.data_ptr() for p in module.parameters()]
    held += [t.data_ptr() for t in tensors(optimizer)]
    assert len(set(held)) == len(held)


def test_without_momentum_matrices_keep_no_state(model, set_gradients):
    module = model()
    optimizer = pg.PolarGrad(pg.param_groups(module), lr=0.05, momentum=0.0)
    set_gradients(module.parameters())
    optimizer.step()
    assert not any(optimizer.state.get(p) for p in optimizer.param_groups[0]["params"])


def test_state_is_tensors_and_numbers(routed, model, set_gradients):
    """What torch.distributed.checkpoint can flatten, and groups of plain data."""
    module = model()
    optimizer = routed(module)
    set_gradients(module.parameters())
    optimizer.step()
    state = optimizer.state_dict()
    assert all(
        isinstance(v, torch.Tensor | int | float)
        for s in state["state"].values()
        for v in s.values()
    )
    assert saved_and_loaded(state)["param_groups"] == state["param_groups"]


def test_numbers_of_numpy_do_not_reach_the_checkpoint():
    """lr from np.logspace is common, and torch.load(weights_only=True) refuses it."""
    import numpy as np

    params = [nn.Parameter(torch.eye(3)), nn.Parameter(torch.ones(3))]
    optimizer = pg.PolarGrad(
        params, lr=np.float64(0.5), momentum=np.float32(0.5), vector_lr=np.float64(0.25)
    )
    groups = saved_and_loaded(optimizer.state_dict())["param_groups"]
    assert [g["lr"] for g in groups] == [0.5, 0.25]


@pytest.mark.parametrize("way", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_and_pickles_go_on_alike(routed, model, set_gradients, snapshot, equal, way):
    module = model()
    optimizer = routed(module)
    set_gradients(module.parameters(), 0)
    optimizer.step()
    module["first"].weight.grad[0, 0] = float("nan")
    optimizer.step()
    other = way(optimizer)
    assert type(other) is type(optimizer)
    assert other.skipped_steps == optimizer.skipped_steps == 1
    assert other.nonfinite == optimizer.nonfinite
    for one in (optimizer, other):
        params = [p for group in one.param_groups for p in group["params"]]
        set_gradients(params, 1)
        one.step()
    assert equal(snapshot(other), snapshot(optimizer))
    other.add_param_group({"params": [("late", nn.Parameter(torch.ones(2)))], "rule": "adamw"})
    assert other.param_groups[-1]["lr"] == 0.01  # that of the vectors that are there


class TestRefusals:
    """A state of something else changes nothing."""

    def refused(self, optimizer, state, message, snapshot, equal):
        before, groups = snapshot(optimizer), repr(optimizer)
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(state)
        assert equal(snapshot(optimizer), before)
        assert repr(optimizer) == groups
        assert not optimizer._optimizer_load_state_dict_pre_hooks
        assert not optimizer._optimizer_load_state_dict_post_hooks

    @pytest.fixture
    def stepped(self, set_gradients):
        def make(*shapes, **options):
            params = [nn.Parameter(torch.ones(s)) for s in shapes]
            optimizer = pg.PolarGrad(params, lr=0.1, vector_lr=0.1, **options)
            set_gradients(params)
            optimizer.step()
            return optimizer

        return make

    def test_other_shapes(self, stepped, snapshot, equal):
        message = (
            r"momentum_buffer of parameter number 1 has shape \(4, 2\), "
            r"that of the parameter here \(2, 4\)"
        )
        self.refused(
            stepped((3, 3), (2, 4)), stepped((3, 3), (4, 2)).state_dict(), message, snapshot, equal
        )

    def test_other_shapes_of_vectors(self, stepped, snapshot, equal):
        message = r"exp_avg of parameter number 0 has shape \(4,\), that of .* here \(3,\)"
        self.refused(
            stepped((3, 3), (3,)), stepped((3, 3), (4,)).state_dict(), message, snapshot, equal
        )

    def test_other_groups(self, stepped, snapshot, equal):
        message = r"groups .rule, parameters. \[\('matrix', 2\)\], this optimizer \[\('matrix', 1\)"
        self.refused(
            stepped((3, 3)), stepped((3, 3), (3, 3)).state_dict(), message, snapshot, equal
        )

    def test_other_rules(self, stepped, snapshot, equal):
        p = nn.Parameter(torch.ones(3, 3))
        theirs = torch.optim.SGD([p], lr=0.1, momentum=0.9)
        self.refused(stepped((3, 3)), theirs.state_dict(), r"\[\(None, 1\)\]", snapshot, equal)

    def test_other_views(self, snapshot, equal):
        """Even without any state: its views would not fit, or cut where there is no seam."""
        fused = pg.PolarGrad(pg.param_groups(nn.MultiheadAttention(6, 2)), lr=0.1)
        plain = nn.MultiheadAttention(6, 2)
        roles = {"in_proj_weight": {"view": {"kind": "whole"}}}
        mine = pg.PolarGrad(pg.param_groups(plain, roles=roles), lr=0.1)
        message = "parameter in_proj_weight has the view .*split.* there, .*whole.* here"
        self.refused(mine, fused.state_dict(), message, snapshot, equal)


class TestLoadingHooks:
    """torch's way to adapt a state: the hooks see it first, and what they return is loaded."""

    def test_a_hook_may_adapt_the_state_of_another_optimizer(self):
        p, q = (nn.Parameter(torch.ones(2, 2)) for _ in range(2))
        theirs = torch.optim.SGD([p], lr=0.5, momentum=0.9)
        p.grad = torch.eye(2)
        theirs.step()
        optimizer = pg.PolarGrad([q], lr=0.1)

        def adapt(_, state):
            group = {
                **optimizer.state_dict()["param_groups"][0],
                "lr": state["param_groups"][0]["lr"],
            }
            return {"state": state["state"], "param_groups": [group]}

        optimizer.register_load_state_dict_pre_hook(adapt)
        optimizer.load_state_dict(theirs.state_dict())
        assert optimizer.param_groups[0]["lr"] == 0.5
        assert torch.equal(optimizer.state[q]["momentum_buffer"], torch.eye(2))

    def test_a_hook_after_sees_the_final_state_and_has_the_last_word(self):
        p, q = (nn.Parameter(torch.ones(2, 2, dtype=torch.bfloat16)) for _ in range(2))
        saved, optimizer = pg.PolarGrad([p], lr=0.1), pg.PolarGrad([q], lr=0.1)
        p.grad = torch.ones_like(p)
        saved.step()
        seen = []

        def change(one):
            buffer = one.state[q]["momentum_buffer"]
            seen.append(buffer.dtype)
            one.state[q]["momentum_buffer"] = torch.zeros_like(buffer)

        optimizer.register_load_state_dict_post_hook(change)
        optimizer.load_state_dict(saved.state_dict())
        assert seen == [torch.float32]
        assert not optimizer.state[q]["momentum_buffer"].any()

    def test_saving_hooks_run(self, model):
        optimizer = pg.PolarGrad(pg.param_groups(model()), lr=0.1)
        optimizer.register_state_dict_post_hook(lambda _, state: {**state, "epoch": 3})
        assert optimizer.state_dict()["epoch"] == 3
        optimizer.load_state_dict(optimizer.state_dict())


def test_loading_takes_nothing_from_the_saved_dict(model, set_gradients):
    """The dict itself stays as it was, to be loaded again."""
    module = model()
    optimizer = pg.PolarGrad(pg.param_groups(module), lr=0.1)
    set_gradients(module.parameters())
    optimizer.step()
    state = saved_and_loaded(optimizer.state_dict())
    kept = copy.deepcopy(state)
    optimizer.load_state_dict(state)
    assert state["param_groups"] == kept["param_groups"]
    assert all(
        torch.equal(state["state"][i][k], v) for i, s in kept["state"].items() for k, v in s.items()
    )


def test_a_loaded_momentum_is_a_copy():
    """Steps after a load do not change the state that was loaded."""
    p = torch.nn.Parameter(torch.eye(3))
    optimizer = pg.PolarGrad([p], lr=0.1)
    p.grad = torch.eye(3)
    optimizer.step()
    saved = optimizer.state_dict()
    kept = saved["state"][0]["momentum_buffer"].clone()
    other = pg.PolarGrad([torch.nn.Parameter(torch.eye(3))], lr=0.1)
    other.load_state_dict(saved)
    other.param_groups[0]["params"][0].grad = torch.ones(3, 3)
    other.step()
    assert torch.equal(saved["state"][0]["momentum_buffer"], kept)


class TestNames:
    """Equal shapes say nothing about which momentum is whose: names do."""

    def optimizer(self, *names):
        params = {name: nn.Parameter(torch.eye(4)) for name in names}
        optimizer = pg.PolarGrad(list(params.items()), lr=0.1)
        for i, (_, p) in enumerate(sorted(params.items())):
            p.grad = torch.full((4, 4), float(i + 1))
        return params, optimizer

    def test_a_permuted_state_goes_by_name(self):
        theirs, saved = self.optimizer("a", "b", "c")
        saved.step()
        ours, optimizer = self.optimizer("c", "a", "b")
        optimizer.load_state_dict(saved_and_loaded(saved.state_dict()))
        assert optimizer.param_groups[0]["param_names"] == ["c", "a", "b"]
        for name, p in ours.items():
            wanted = saved.state[theirs[name]]["momentum_buffer"]
            assert torch.equal(optimizer.state[p]["momentum_buffer"], wanted)

    def test_another_models_names_are_refused(self):
        _, saved = self.optimizer("a", "b")
        saved.step()
        _, optimizer = self.optimizer("c", "d")
        with pytest.raises(ValueError, match="holds the parameters a, b, this optimizer c, d"):
            optimizer.load_state_dict(saved.state_dict())
        assert not optimizer.state

    def test_what_wrappers_put_in_front_does_not_count(self):
        _, saved = self.optimizer("module.a", "module.b")
        saved.step()
        ours, optimizer = self.optimizer("_orig_mod.b", "_orig_mod.a")
        optimizer.load_state_dict(saved.state_dict())
        first = optimizer.state[ours["_orig_mod.a"]]["momentum_buffer"]
        torch.testing.assert_close(first, torch.full((4, 4), 0.05))

    def test_wrappers_inside_of_a_name_do_not_count_either(self):
        _, saved = self.optimizer("blocks.0._orig_mod.a", "blocks.1._orig_mod.b")
        saved.step()
        ours, optimizer = self.optimizer("blocks.1.b", "blocks.0.a")
        optimizer.load_state_dict(saved.state_dict())
        first = optimizer.state[ours["blocks.0.a"]]["momentum_buffer"]
        torch.testing.assert_close(first, torch.full((4, 4), 0.05))

    def test_a_module_called_module_is_no_wrapper(self):
        theirs, saved = self.optimizer("b", "a", "module.a")
        saved.step()
        ours, optimizer = self.optimizer("a", "module.a", "b")
        optimizer.load_state_dict(saved.state_dict())
        for name, p in ours.items():
            wanted = saved.state[theirs[name]]["momentum_buffer"]
            assert torch.equal(optimizer.state[p]["momentum_buffer"], wanted)

    def test_the_state_of_another_optimizer_is_refused_with_the_remedy(self):
        p = nn.Parameter(torch.eye(4))
        peer = torch.optim.Muon([p], lr=0.1)
        with pytest.raises(ValueError, match=r"see polargrad\.optim\.convert_state"):
            pg.Muon([nn.Parameter(torch.eye(4))], lr=0.1).load_state_dict(peer.state_dict())


def test_a_pickle_whose_skipped_steps_are_a_number_goes_on():
    p = nn.Parameter(torch.eye(3))
    optimizer = pg.PolarGrad([p], lr=0.1)
    optimizer.__setstate__({**optimizer.__getstate__(), "_skipped": 3})
    p.grad = torch.full((3, 3), float("nan"))
    optimizer.step()
    assert optimizer.skipped_steps == 4


@pytest.mark.parametrize("where", [lambda: torch.device("meta"), torch.inference_mode])
def test_where_it_is_made_does_not_matter(where):
    p = nn.Parameter(torch.eye(3))
    with where():
        optimizer = pg.PolarGrad([p], lr=0.1)
    p.grad = torch.full((3, 3), float("nan"))
    optimizer.step()
    assert optimizer.state_dict()["param_groups"][0]["skipped_steps"] == 1


def test_a_state_that_cannot_be_captured_is_refused():
    looking = pg.PolarGrad([nn.Parameter(torch.eye(3))], lr=0.1, method="qdwh")
    optimizer = pg.PolarGrad([nn.Parameter(torch.eye(3))], lr=0.1, capturable=True)
    with pytest.raises(ValueError, match="capturable=True: method 'qdwh'"):
        optimizer.load_state_dict(looking.state_dict())
    assert optimizer.param_groups[0]["method"] == "auto"
