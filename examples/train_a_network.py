"""Train a small network: matrices by PolarGrad, everything else by AdamW, in one optimizer."""

import torch
from torch import nn

import polargrad as pg

torch.manual_seed(0)
inputs = torch.randn(2048, 32)
targets = torch.sin(inputs @ torch.randn(32, 4))

model = nn.Sequential(
    nn.Linear(32, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 4)
)
optimizer = pg.PolarGrad(pg.param_groups(model, vector_lr=3e-3), nesterov=True)  # no lr
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=200)
print(pg.explain(optimizer))

for step in range(200):
    batch = torch.randint(0, len(inputs), (256,))
    loss = nn.functional.mse_loss(model(inputs[batch]), targets[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    scheduler.step()
    if step % 50 == 0 or step == 199:
        print(f"step {step:3d}: loss {loss.item():.4f}")

assert loss.item() < 0.1, "the targets have variance 0.5"
