"""What processes do together in the tests: cases for ``ranks.launch``."""

import layouts

import polargrad as pg
from polargrad import optim

PRESETS = {
    "PolarGrad": (pg.PolarGrad, {"lr": 0.05, "weight_decay": 0.1}),
    "PolarGrad, found": (pg.PolarGrad, {"lr": None, "weight_decay": 0.1}),
    "PolarGrad, svd": (pg.PolarGrad, {"lr": 0.05, "method": "svd", "momentum": 0.0}),
    "PolarGrad, polar-first": (pg.PolarGrad, {"lr": 0.05, "order": "polar-first"}),
    "PolarGrad, polyak": (pg.PolarGrad, {"lr": 0.05, "order": "polyak"}),
    "PolarGrad, corrected": (
        pg.PolarGrad,
        {"lr": 0.05, "bias_correction": True, "nesterov": True, "maximize": True},
    ),
    "PolarGrad, polar-first, found": (pg.PolarGrad, {"lr": None, "order": "polar-first"}),
    "PolarMuon": (pg.PolarMuon, {"lr": 0.05}),
    "Muon": (pg.Muon, {"lr": 0.02}),
    "Muon, quintic": (pg.Muon, {"lr": 0.02, "method": "newton_schulz"}),
    "MatrixSignDescent": (optim.MatrixSignDescent, {"lr": 0.02}),
    "SSD": (optim.SSD, {"lr": 0.02}),
    "OneSidedPolarGrad": (optim.OneSidedPolarGrad, {"lr": 0.02, "side": "right"}),
    "HybridPolarGrad": (optim.HybridPolarGrad, {"lr": 0.02}),
    "RowNorm": (optim.RowNorm, {"lr": 0.02}),
    "ColumnNorm": (optim.ColumnNorm, {"lr": 0.02}),
    "SignSGD": (optim.SignSGD, {"lr": 0.02}),
    "GradientDescent": (optim.GradientDescent, {"lr": 0.02}),
    "Shampoo": (optim.Shampoo, {"lr": 0.02}),
    "SOAP": (optim.SOAP, {"lr": 0.02}),
}


def made(preset, groups, **more):
    """An optimizer of a preset."""
    kind, options = PRESETS[preset]
    return kind(groups, **options, **more)


def updates(layout, preset, steps=1, missing=()):
    """How far the parameters are from those of one device, and those from where they began."""
    laid = layouts.Laid(layout)
    optimizer = made(preset, laid.groups(), process_group=laid.process_group)
    for step in range(steps):
        laid.set_gradients(layouts.gradients(step, missing))
        optimizer.step()
    wholes, _ = layouts.alone(lambda groups: made(preset, groups), steps, missing)
    begun = layouts.weights()
    moved = min(
        float((wholes[name] - begun[name]).abs().amax()) for name in begun if name not in missing
    )
    return *laid.distance(wholes), moved
