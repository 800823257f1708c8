"""Under torchrun: runs of four processes in many layouts: ``layouts_worker.py KIND FOLDER``.

Of the runs of each kind rank 0 leaves in FOLDER/report.json what the ranks say.
"""

import json
import sys
from pathlib import Path

import torch
from layout_runs import RUNS, settings
from light_language import BlockPreset, LightPreset
from torch.distributed.tensor import DTensor

from polargrad.distributed.ranks import Ranks
from polargrad.language import train
from polargrad.language.ranks import leave


def resumed(folder):
    """Runs in two sessions: in one layout with dropout, and from one to the next."""
    dropping = {"preset": BlockPreset(dropout=0.5), "mesh": "fsdp=2,tp=2", "lr": None}
    train(settings(folder, "dropout whole", **dropping))
    train(settings(folder, "dropout parts", **dropping, stop_after=3))
    train(settings(folder, "dropout parts", **dropping, resume=True))
    for name in ("muon", "adamw"):
        out, given = f"road {name}", {"optimizer": name, "lr": 1e-3}
        train(settings(folder, out, **given, mesh="fsdp=4", stop_after=1))
        given |= {"mesh": "dp=2,tp=2", "accumulate": 2}
        train(settings(folder, out, **given, stop_after=3, resume=True))


def refused(folder, **changes):
    """The words in which a run is refused on this rank."""
    try:
        train(settings(folder, "none", **changes))
    except ValueError as error:
        return str(error)
    return None


def look_before_saving(run_of):
    """Note before each checkpoint, which may follow an evaluation, if all parameters are parts."""
    save, seen = run_of._save, []

    def look_and_save(run, journal):
        if run.ranks.sharded:
            seen.append(all(isinstance(p, DTensor) for p in run.stepper.model.parameters()))
        save(run, journal)

    run_of._save = look_and_save
    return seen


def count_broadcasts():
    """Count how often this process gives or takes a step that one process has worked out."""
    broadcast, counts = Ranks.broadcast, []

    def count_and_broadcast(ranks, *arguments):
        counts.append(ranks.size)
        return broadcast(ranks, *arguments)

    Ranks.broadcast = count_and_broadcast
    return counts


def main(kind, folder):
    # Figures take longer than such a run, and nothing depends on them.
    training = sys.modules[train.__module__]
    training.draw_losses = training.draw_spectra = lambda *places, **named: None
    report = {"in parts": look_before_saving(training._Run), "broadcasts": {}}
    broadcasts = count_broadcasts()
    for out, (mesh, changes) in RUNS[kind]().items():
        train(settings(folder, out, **changes, mesh=mesh))
        report["broadcasts"][out] = broadcasts[:]
        broadcasts.clear()
    if kind == "fast":
        resumed(folder)
        train(settings(folder, "bf16", mesh="dp=2,fsdp=2", precision="bf16"))
        report["product"] = refused(folder, mesh="dp=3,fsdp=2")
        report["no plan"] = refused(folder, mesh="tp=4", preset=LightPreset())
        report["size"] = refused(folder, mesh="tp=4", preset=BlockPreset(width=15))
    gathered = [None] * 4
    torch.distributed.all_gather_object(gathered, report)
    if leave():
        (folder / "report.json").write_text(json.dumps(gathered))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
