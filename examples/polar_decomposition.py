"""A polar decomposition without any optimizer: nearest orthogonal matrix, stacks, rank, scales."""

import torch

import polargrad as pg

A = torch.randn(200, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
U, H = pg.polar(A)
print("A = UH to", torch.linalg.matrix_norm(A - U @ H).item())
print("orthonormal columns to", torch.linalg.matrix_norm(U.mT @ U - torch.eye(50)).item())

result = pg.polar(A, method="qdwh")
print("nuclear norm", result.nuclear_norm.item(), "by", result.method)

stack = torch.stack([torch.eye(3), 1e-30 * torch.eye(3), torch.zeros(3, 3)])
print("one factor a matrix, whatever its scale; zero stays zero:")
print(pg.polar_factor(stack)[:, 0, 0])

low_rank = torch.outer(torch.arange(1.0, 5.0), torch.ones(3))
print("singular values of the factor of a rank-one matrix:")
print(torch.linalg.svdvals(pg.polar_factor(low_rank)).round(decimals=6))
