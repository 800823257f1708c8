"""Lightning: a driver that calls as its loops do, and Lightning itself where it is installed."""

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

import polargrad as pg

# The protocol of an optimizer that is asked for.
OPTIMIZABLE = ("param_groups", "defaults", "state", "state_dict", "load_state_dict", "step")
CLIP, ACCUMULATE = 0.5, 2


def clip(optimizer):
    nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], CLIP)


def shrinking(optimizer):
    return LambdaLR(optimizer, lambda step: 1 / (1 + step))


def test_it_has_what_the_protocol_asks_for(model, optimizer_of):
    optimizer = optimizer_of(model())
    assert all(hasattr(optimizer, name) for name in OPTIMIZABLE)
    # Clipping is refused for an optimizer that says it unscales gradients itself.
    assert not getattr(optimizer, "_step_supports_amp_scaling", False)


def test_a_driver_that_does_all_in_the_closure(model, optimizer_of, loss_of, same):
    """The last of each accumulated backward passes, and clipping, happen inside the step."""
    module, plain = model(), model()
    optimizer, other = optimizer_of(module), optimizer_of(plain)
    schedule, reference = shrinking(optimizer), shrinking(other)

    def micro_batch():
        loss = loss_of(module) / ACCUMULATE
        loss.backward()
        return loss

    def closure():
        loss = micro_batch()
        clip(optimizer)
        return loss

    for _ in range(3):
        optimizer.zero_grad()
        micro_batch()
        with torch.no_grad():
            returned = optimizer.step(closure=closure)
        schedule.step()
        other.zero_grad()
        for _ in range(ACCUMULATE):
            loss = loss_of(plain) / ACCUMULATE
            loss.backward()
        clip(other)
        other.step()
        reference.step()
        assert torch.equal(returned, loss)
    assert same(module, plain)


def loader():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(8, n, generator=generator) for n in (4, 3))
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=2)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def error(net, x, y):
    return (net(x) - y).square().mean()


def optimizer_for(net):
    roles = {"2.weight": "hidden matrix"}
    return pg.PolarGrad(pg.param_groups(net, vector_lr=0.01, roles=roles), lr=0.05)


@pytest.fixture
def fit(tmp_path):
    """A function of the number of epochs: a module and its Trainer, after training."""
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.losses = network(), []

        def training_step(self, batch, index):
            loss = error(self.net, *batch)
            self.losses.append(loss.item())
            return loss

        def configure_optimizers(self):
            optimizer = optimizer_for(self.net)
            schedule = {"scheduler": shrinking(optimizer), "interval": "step"}
            return {"optimizer": optimizer, "lr_scheduler": schedule}

    def run(epochs, **options):
        module = Module()
        trainer = lightning.Trainer(
            accelerator="cpu",
            default_root_dir=tmp_path,
            max_epochs=epochs,
            gradient_clip_val=CLIP,
            accumulate_grad_batches=ACCUMULATE,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        trainer.fit(module, loader(), **options)
        return module, trainer

    return run


@pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*")  # lightning's, of torch
@pytest.mark.filterwarnings("ignore:.*does not have many workers")  # lightning's, of its loader
class TestLightning:
    """Automatic optimization, which allows one optimizer only, clips and accumulates."""

    def test_it_takes_the_steps_of_a_plain_loop(self, fit):
        module, _ = fit(2)
        net = network()
        optimizer = optimizer_for(net)
        schedule = shrinking(optimizer)
        losses = []
        for _ in range(2):
            for index, batch in enumerate(loader()):
                loss = error(net, *batch)
                losses.append(loss.item())
                (loss / ACCUMULATE).backward()
                if index % ACCUMULATE == ACCUMULATE - 1:
                    clip(optimizer)
                    optimizer.step()
                    schedule.step()
                    optimizer.zero_grad()
        assert module.losses == losses

    def test_a_resumed_run_is_the_whole_run(self, fit, tmp_path):
        whole, _ = fit(3)
        _, trainer = fit(2)
        path = tmp_path / "saved.ckpt"
        trainer.save_checkpoint(path)
        saved = torch.load(path, weights_only=True)
        assert len(saved["optimizer_states"]) == 1
        resumed, _ = fit(3, ckpt_path=path, weights_only=True)
        assert resumed.losses == whole.losses[-len(resumed.losses) :]
        assert len(resumed.losses) == len(loader())
