"""Handwritten digits with half of their pixels missing: completed, and then recognised.

The digits ship with scikit-learn: 8 x 8 pixels, a row of the table each. New rows, which the
completion was not fitted to, are completed by what it learned.
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from polargrad.estimators import MatrixCompletion

pixels, labels = load_digits(return_X_y=True)
missing = np.random.default_rng(0).random(pixels.shape) < 0.5
seen = np.where(missing, np.nan, pixels)
old, new = slice(0, 1400), slice(1400, None)

completion = MatrixCompletion(rank=12, random_state=0)
completed = np.empty_like(pixels)
completed[old] = completion.fit_transform(seen[old])
completed[new] = completion.transform(seen[new])
with_means = np.where(missing, np.nanmean(seen[old], axis=0), pixels)


def recognised(images):
    """The share of the new digits that their nearest neighbours among the old ones name right."""
    neighbours = KNeighborsClassifier(5).fit(images[old], labels[old])
    return neighbours.score(images[new], labels[new])


def error(images):
    """Root mean square error of the missing pixels of the new digits, which go from 0 to 16."""
    return float(np.sqrt(np.mean((images - pixels)[new][missing[new]] ** 2)))


print("half of the pixels missing, filled with | error | recognised")
for name, images in (("column means", with_means), ("completion", completed), ("", pixels)):
    print(f"{name or '(nothing missing)':39s} | {error(images):5.2f} | {recognised(images):.1%}")
assert error(completed) < 0.9 * error(with_means)
assert recognised(completed) > recognised(with_means)
