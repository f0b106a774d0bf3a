"""Grey scale per particle: images of thicker ice, or of less dose, show the same particle fainter.

With the prediction M at the pose found, from a map that does not hold the image, the image tells its own scale; in whitened data

(1) r = s Re<X, M> / <M, M>,   of variance v = s^2 / <M, M>            (least squares)

The scales of a data set are taken as drawn around their mean with a variance tau^2, which is what the r vary more than their v tell; and

(2) s' = mean + tau^2 / (tau^2 + v) (r - mean)

A map times f and scales over f are the same model, so scales keep the mean that they had.
"""

from __future__ import annotations

import numpy as np

LEAST, MOST = 0.2, 5.0  # of the mean


def refined_scale(scale: np.ndarray, grey: np.ndarray) -> np.ndarray:
    """Eq. (2): scales (N,) and sums grey (N, 2) of Re(X* M) and |M|^2 at these scales, whitened -> scales (N,)."""
    seen = grey[:, 1] > 0
    if not seen.any():
        return scale
    power = np.where(seen, grey[:, 1], 1.0)
    estimate, variance = scale * grey[:, 0] / power, scale**2 / power
    weight = np.where(seen, 1.0 / variance, 0.0)
    mean = float(np.sum(weight * estimate) / weight.sum())
    spread = float(np.sum(weight * (estimate - mean) ** 2) / weight.sum())
    tau = max(spread - float(np.sum(weight * variance) / weight.sum()), 0.0)
    shrunk = np.where(seen, mean + tau / (tau + variance) * (estimate - mean), mean)
    shrunk = np.clip(shrunk, LEAST * mean, MOST * mean) if mean > 0 else np.ones(len(scale))
    return np.asarray(shrunk * (scale.mean() / shrunk.mean()))
