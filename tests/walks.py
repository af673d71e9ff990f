"""Made trajectories of lithium in a rigid framework, for tests of what is measured on them."""

from __future__ import annotations

import numpy as np

from aqvolt_flows.benchmarks.transport import Track

EDGE_A = 12.0
FRAME_FS = 100.0


def track(
    d_cm2_s: float,
    seed: int,
    n_li: int = 32,
    n_frames: int = 1001,
    vibration_a: float = 0.1,
    framework_d_cm2_s: float = 0.0,
    breathing: float = 0.0,
    drift_a: float = 0.0,
) -> Track:
    """Gaussian steps of Li with a known D in a cubic cell of 32 Cl, wrapped; everything vibrates.

    ``framework_d_cm2_s`` lets Cl diffuse, ``breathing`` lets the cell's edge fluctuate (relative), ``drift_a`` moves
    everything by so much per frame.
    """
    rng = np.random.default_rng(seed)
    n_fw = 32
    d = np.array([d_cm2_s] * n_li + [framework_d_cm2_s] * n_fw)
    steps = rng.normal(size=(n_frames, n_li + n_fw, 3)) * np.sqrt(2 * d * 10 * FRAME_FS)[:, None]
    steps[0] = 0
    places = rng.uniform(0, EDGE_A, (n_li + n_fw, 3)) + np.cumsum(steps, axis=0)
    places = places + rng.normal(0, vibration_a, places.shape) + drift_a * np.arange(n_frames)[:, None, None]
    scale = 1 + breathing * rng.normal(size=n_frames)
    cells = EDGE_A * scale[:, None, None] * np.eye(3)
    wrapped = (places % EDGE_A) * scale[:, None, None]
    return Track(np.array([3] * n_li + [17] * n_fw), wrapped, cells, FRAME_FS)
