"""A still picture of a surface, for print and for browsers that cannot turn one: seen along z from its positive end, x right and y up."""

from __future__ import annotations

import io

import numpy as np

from protomer.report.surfaces import Surface

PIXELS = 320  # along an edge of the picture
MARGIN = 1.15  # of the surface's reach that the picture shows
LIGHT = np.array([-0.35, 0.45, 0.82])
AMBIENT = 0.35


def still_picture(surface: Surface, colour: str, reach_A: float) -> bytes:
    """A PNG with a transparent ground. colour: '#rrggbb'; reach_A: half the edge of what is shown, before its margin."""
    depth, light = _seen(surface, reach_A * MARGIN)
    picture = np.zeros((PIXELS, PIXELS, 4), np.uint8)
    base = np.array([int(colour[at: at + 2], 16) for at in (1, 3, 5)], float)
    shown = np.isfinite(depth)
    picture[shown, :3] = np.minimum(255.0, base * light[shown, None])
    picture[shown, 3] = 255
    from matplotlib.image import imsave
    buffer = io.BytesIO()
    imsave(buffer, picture[::-1], format="png", metadata={"Software": None})
    return buffer.getvalue()


def _seen(surface: Surface, reach_A: float) -> tuple[np.ndarray, np.ndarray]:
    """Depth (PIXELS, PIXELS) of the nearest triangle at each [y, x] pixel, -infinity where there is none, and how light it is there.

    Each triangle is sampled at points closer than a pixel apart; of all samples in a pixel the nearest counts.
    """
    depth, light = np.full(PIXELS * PIXELS, -np.inf), np.zeros(PIXELS * PIXELS)
    corners = surface.vertices[surface.faces].astype(float)  # (m, 3 corners, xyz)
    if len(corners):
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
        shade = AMBIENT + (1.0 - AMBIENT) * np.maximum(0.0, smooth_normals(surface, normal) @ (LIGHT / np.linalg.norm(LIGHT)))
        longest_px = float(np.abs(np.diff(corners[:, [0, 1, 2, 0]], axis=1)).max()) * PIXELS / (2.0 * reach_A)
        steps = max(1, int(np.ceil(1.5 * longest_px)))
        for i in range(steps + 1):
            for j in range(steps + 1 - i):
                weight = np.array([i, j, steps - i - j]) / steps
                _keep_nearest(np.einsum("c,mcx->mx", weight, corners), shade @ weight, reach_A, depth, light)
    return depth.reshape(PIXELS, PIXELS), light.reshape(PIXELS, PIXELS)


def smooth_normals(surface: Surface, normal: np.ndarray) -> np.ndarray:
    """The normals (m, 3 corners, 3) at the corners of each triangle: the mean of those of the triangles that meet there."""
    total = np.zeros((len(surface.vertices), 3))
    for corner in range(3):
        np.add.at(total, surface.faces[:, corner], normal)
    return (total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12))[surface.faces]


def _keep_nearest(points: np.ndarray, shade: np.ndarray, reach_A: float, depth: np.ndarray, light: np.ndarray) -> None:
    """Enter samples (m, 3) into depth and light (PIXELS^2,), the nearest of those in one pixel last."""
    at = np.floor((points[:, :2] / (2.0 * reach_A) + 0.5) * PIXELS).astype(np.int64)
    inside = ((at >= 0) & (at < PIXELS)).all(axis=1)
    pixel, z, shade = at[inside, 1] * PIXELS + at[inside, 0], points[inside, 2], shade[inside]
    order = np.argsort(z, kind="stable")
    pixel, z, shade = pixel[order], z[order], shade[order]
    last = len(pixel) - 1 - np.unique(pixel[::-1], return_index=True)[1]
    nearer = last[z[last] > depth[pixel[last]]]
    depth[pixel[nearer]], light[pixel[nearer]] = z[nearer], shade[nearer]
