"""transformers' Trainer: by instance, by factory, by class; saved, resumed, equal to the bit."""

import pytest
import torch
from small_models import qwen2
from transformers import Trainer, TrainingArguments

import polargrad as pg

STEPS = 4


class PolarGradFactory:
    """What ``optimizer_cls_and_kwargs`` takes beside a class: made bare, called with the model."""

    def __call__(self, model, *, vector_lr, **options):
        return pg.PolarGrad(pg.param_groups(model, vector_lr=vector_lr), **options)


class Tokens(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        ids = torch.randint(0, 32, (8,), generator=generator)
        return {"input_ids": ids, "labels": ids}


def routed(model):
    return pg.PolarGrad(pg.param_groups(model, vector_lr=0.01), lr=0.05)


def by_instance(model):
    return {"optimizers": (routed(model), None)}


def by_factory(model):
    return {"optimizer_cls_and_kwargs": (PolarGradFactory, {"lr": 0.05, "vector_lr": 0.01})}


def by_class_with_groups(model):
    groups = pg.param_groups(model, vector_lr=0.01)
    return {"optimizer_cls_and_kwargs": (pg.PolarGrad, {"lr": 0.05, "params": groups})}


def by_class(model):
    return {"optimizer_cls_and_kwargs": (pg.Muon, {"lr": 0.02, "vector_lr": 0.01})}


WAYS = [by_instance, by_factory, by_class_with_groups, by_class]


def trainer_for(folder, way):
    torch.manual_seed(0)
    model = qwen2()
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=STEPS,
        save_steps=STEPS // 2,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    return Trainer(model=model, args=arguments, train_dataset=Tokens(), **way(model))


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_resumed_run_is_the_whole_run(tmp_path, way):
    """The saved file is read with ``weights_only=True``, and the schedule goes on."""
    whole = trainer_for(tmp_path, way)
    whole.train()
    resumed = trainer_for(tmp_path, way)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{STEPS // 2}"))
    assert len(losses(whole)) == STEPS
    assert len(set(losses(whole))) == STEPS
    assert losses(resumed) == losses(whole)
    for p, q in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(p, q)


def test_the_ways_that_know_the_model_are_one(tmp_path):
    """An instance, a factory and ready groups give the same run, in one optimizer object."""
    runs = []
    for way in (by_instance, by_factory, by_class_with_groups):
        trainer = trainer_for(tmp_path / way.__name__, way)
        trainer.train()
        assert isinstance(trainer.optimizer.optimizer, pg.PolarGrad)
        runs.append(losses(trainer))
    assert runs[0] == runs[1] == runs[2]


def test_the_trainer_takes_the_steps_of_a_plain_loop(tmp_path):
    """Averages over micro-batches, clips by the norm, and schedules all groups alike."""
    trainer = trainer_for(tmp_path, by_instance)
    given = trainer.get_train_dataloader()
    order = [batch for _ in range(2) for batch in given]
    torch.manual_seed(0)
    model = qwen2()
    optimizer = routed(model)
    shrink = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / STEPS)
    for step in range(STEPS):
        for batch in order[2 * step : 2 * step + 2]:
            (model(**batch).loss / 2).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        shrink.step()
        optimizer.zero_grad()
    trainer.train_dataset = torch.utils.data.StackDataset(
        input_ids=torch.cat([batch["input_ids"] for batch in order]),
        labels=torch.cat([batch["labels"] for batch in order]),
    )
    trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(
        trainer.train_dataset
    )
    trainer.train()
    for p, q in zip(model.parameters(), trainer.model.parameters(), strict=True):
        torch.testing.assert_close(q, p, rtol=1e-5, atol=1e-6)


def test_a_class_alone_needs_a_learning_rate_for_the_vectors(tmp_path):
    """The Trainer passes bare parameters then, and no default is taken from the matrices' lr."""
    trainer = trainer_for(
        tmp_path, lambda model: {"optimizer_cls_and_kwargs": (pg.Muon, {"lr": 0.02})}
    )
    with pytest.raises(ValueError, match=r"give vector_lr=.*or pass polargrad\.param_groups"):
        trainer.train()
