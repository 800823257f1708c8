"""Complete a photograph of which 70 % of the pixels are missing.

It ships with scikit-learn. The pictures are shown side by side in the file whose path is given:
python examples/complete_a_photograph.py FIGURE.png
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_sample_image

from polargrad.estimators import MatrixCompletion
from polargrad.records.figures import panels, save_png

photograph = load_sample_image("china.jpg").mean(axis=2)[::2, ::2] / 255
missing = np.random.default_rng(0).random(photograph.shape) < 0.7
seen = np.where(missing, np.nan, photograph)

completed = MatrixCompletion(rank=30, random_state=0).fit_transform(seen)
column_means = np.broadcast_to(np.nanmean(seen, axis=0), seen.shape)


def error(picture):
    """Root mean square error of the missing pixels, black being 0 and white 1."""
    return float(np.sqrt(np.mean((picture - photograph)[missing] ** 2)))


print(f"{missing.mean():.0%} of {photograph.size} pixels are missing")
print(f"column means: {error(column_means):.3f}")
print(f"completed:    {error(completed):.3f}")
assert np.array_equal(completed[~missing], photograph[~missing]), "what was seen is kept"
assert error(completed) < 0.6 * error(column_means)

if len(sys.argv) > 1:
    pictures = {"photograph": photograph, "30 % of it": seen, "completed": completed}
    figure, axes = panels(list(pictures), extra="experiments", height=3.4)
    for axis, picture in zip(axes, pictures.values(), strict=True):
        axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
        axis.axis("off")
    save_png(figure, Path(sys.argv[1]))
