"""The FSC of half maps that went through operations.

What filters leave, they leave as well correlated as before; what they remove is rounding errors, and in a mask what leaks from the shells
that are left. So the FSC is that of the half maps without the filters, and 0 beyond the finest detail that is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from protomer.maps.fsc_curves import CURVES, FscSet
from protomer.maps.resolution import measure_fsc
from protomer.maps.volume_operations import Operation, apply_to_record
from protomer.maps.volumes import MapRecord


def fsc_after(operations: Sequence[Operation], before: MapRecord, seed: int) -> FscSet | None:
    """The curves of a record after the operations; None where it had none."""
    if before.fsc is None:
        return None
    fsc, others = before.fsc, [operation for operation in operations if not operation.is_filter]
    if not all(operation.keeps_fsc for operation in others):
        after = apply_to_record(others, before)
        fsc = measure_fsc(after.half_maps, after.fsc_mask, f"{fsc.mask_name}, as changed by protomer volume", seed)
    finest_A = max((operation.finest_A for operation in operations), default=0.0)
    return cut_off(fsc, finest_A)


def cut_off(fsc: FscSet, finest_A: float) -> FscSet:
    """The curves with 0 in all shells finer than a resolution."""
    width_A = fsc.box * fsc.voxel_size_A
    gone = fsc.shell * finest_A > width_A * (1 + 1e-6)
    curves: dict[str, Any] = {name: np.where(gone, 0.0, fsc.curve(name)) for name in CURVES}
    return replace(fsc, **curves) if gone.any() else fsc
