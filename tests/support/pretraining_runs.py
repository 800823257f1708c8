"""Training runs that were never trained: folders as training leaves them, with given losses."""

import json
import math
import signal
from types import SimpleNamespace

from polargrad.errors import NonFiniteError
from polargrad.records import read_records

TOKENS_PER_STEP = 64
SECONDS, OPTIMIZER_SECONDS = 0.5, 0.125
DATA = "d" * 64


def losses(settings, step):
    """A loss that falls with the steps, to a level that the distance from the best rates sets.

    Each optimizer's best rates are twice its first default; what it comes to is its own.
    """
    from polargrad.language import DEFAULTS

    level = {"adamw": 2.0, "muon": 1.5, "polarmuon": 1.6, "muon-polarsgdm": 1.8}
    default = DEFAULTS[settings.optimizer].lr
    off = math.log2(settings.lr / default) - 1 if default and settings.lr else 0.0
    return (
        level.get(settings.optimizer, 1.7)
        + 0.05 * off**2
        + 0.01 * settings.seed
        + 3 * (1 - step / settings.steps)
    )


class FakeTraining:
    """Called like ``train``: writes a run's records to ``stop_after`` without training.

    Args:
        loss: of the settings and the step.
        interrupt_at: the number of the call that a signal ends, with nothing done.
        signal_with: the number of the call with whose last step a signal comes.
        kill_at: the number of the call in which the process dies, halfway through its steps.
        data: the digest of the tokens.
        look_every: steps between two looks at spectra.
    """

    def __init__(
        self,
        loss=losses,
        *,
        interrupt_at=None,
        signal_with=None,
        kill_at=None,
        data=DATA,
        look_every=0,
    ):
        self.loss, self.data, self.look_every = loss, data, look_every
        self.interrupt_at, self.signal_with, self.kill_at = interrupt_at, signal_with, kill_at
        self.calls = []

    def __call__(self, settings):
        self.calls.append(settings)
        folder = settings.out
        path = folder / "records.jsonl"
        known = list(read_records(path)) if path.exists() else []
        checkpoint = folder / "checkpoints" / "step"
        begun = int(checkpoint.read_text()) if checkpoint.exists() else 0
        assert settings.resume == (folder / "settings.json").exists()
        folder.mkdir(exist_ok=True)
        about = {"steps": settings.steps, "corpus": self.data, "written_by": "polargrad"}
        (folder / "settings.json").write_text(json.dumps(about))
        (folder / "provenance.json").write_text(json.dumps([{"unit": "token"}]))
        if len(self.calls) == self.interrupt_at:
            return self._result(settings, known, interrupted=signal.SIGINT)
        records = [record for record in known if record["step"] <= begun]
        for step in range(len(records), min(settings.steps, settings.stop_after) + 1):
            if len(self.calls) == self.kill_at and step > begun + 2:
                self._write(folder, records)
                raise KeyboardInterrupt
            records.append(self._record(settings, step))
            if math.isinf(records[-1].get("validation_loss", 0.0)):
                self._write(folder, records[:-1])
                raise NonFiniteError("the loss became inf")
        self._write(folder, records)
        checkpoint.parent.mkdir(exist_ok=True)
        checkpoint.write_text(str(records[-1]["step"]))
        late = signal.SIGINT if len(self.calls) == self.signal_with else None
        return self._result(settings, records, interrupted=late)

    def _record(self, settings, step):
        record = {"step": step, "tokens": step * TOKENS_PER_STEP}
        loss = self.loss(settings, step)
        if step:
            record |= {
                "loss": loss,
                "seconds": SECONDS,
                "optimizer_seconds": OPTIMIZER_SECONDS,
                "tokens_per_second": TOKENS_PER_STEP / SECONDS,
            }
        if step % settings.eval_every == 0 or step == settings.steps:
            record |= {"validation_loss": loss, "peak_memory": 2**20 * 100}
        return record

    def _write(self, folder, records):
        text = "".join(json.dumps(record) + "\n" for record in records)
        (folder / "records.jsonl").write_text(text)
        if self.look_every:
            looks = [
                {"step": r["step"], "matrices": matrices(folder.name)}
                for r in records
                if r["step"] and r["step"] % self.look_every == 0
            ]
            text = "".join(json.dumps(look) + "\n" for look in looks)
            (folder / "spectra.jsonl").write_text(text)

    def _result(self, settings, records, interrupted=None):
        losses = [r["validation_loss"] for r in records if "validation_loss" in r]
        return SimpleNamespace(
            validation_loss=losses[-1] if losses else None,
            steps=records[-1]["step"] if records else 0,
            interrupted=interrupted,
        )


def matrices(name):
    """Spectra in which PolarSGDM's embedding is better conditioned and its head is worse."""
    ours = name.startswith("muon-polarsgdm")
    kappa = {"embedding": 10.0 if ours else 100.0, "head": 300.0 if ours else 200.0}
    table = [
        {"role": role, "gradient": {"condition_number": value, "nuclear_norm": 1.0}}
        for role, value in kappa.items()
    ]
    both = {"condition_number": 50.0, "nuclear_norm": 2.0}
    return [*table, {"role": "hidden matrix", "gradient": both, "momentum": both}]
