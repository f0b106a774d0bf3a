"""What lies on a CUDA device: arrays and images brought there, kept as far as its memory goes, and fetched back.

Crops that stay the same from one iteration to the next stay on the device, as far as its memory goes; others come anew each time. How many
batches are under way follows from what memory is left.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from protomer.computing.arithmetic import Arithmetic, Waves
from protomer.computing.cuda_maps import served_library
from protomer.computing.device_arrays import aside, finish, free_bytes, takes_threads
from protomer.errors import InputError
from protomer.imaging.packed import Packed, as_complex
from protomer.running.footprint import PARTS_ON_DEVICE
from protomer_kernels.half_plane import HalfPlane

MADE = 2  # arrays that are kept for the key that they were made for: one for each half
MOST = 0.9  # of the free memory that may be used: libraries take some of it
MOST_BATCHES = 32  # under way: enough for each launch to fill a device many times over


class CudaMemory(Arithmetic):
    """On the current CUDA device. needed_bytes: of its memory, for all but images; batch_bytes: for each batch that is there at once;
    threads: of what is left to the host.

    As many batches are under way as half of what is left has room for, in two parts, so that the host does its share of one while the
    device computes for the other; all are launched on one stream. Crops stay in the other half. Raises InputError where not even one batch
    has room.
    """

    backend = "cuda"
    of_transforms = " cuFFT"

    def __init__(self, needed_bytes: int = 0, batch_bytes: int = 0, threads: int = 1) -> None:
        super().__init__(threads)
        self.library, free = served_library(), free_bytes()
        self._xp = self.library.arrays
        left, needed = int(MOST * free) - needed_bytes, needed_bytes + batch_bytes
        if left < batch_bytes:
            raise InputError(f"the CUDA device has {free / 1e9:.2f} GB of memory free", f"{needed / MOST / 1e9:.2f} GB for this run",
                             "take a larger device, end what else runs on it, give `box` a smaller value, or give --backend cpu")
        batches = min(MOST_BATCHES, max(1, left // 2 // max(batch_bytes, 1)))
        self.side_by_side = min(PARTS_ON_DEVICE, batches) if takes_threads() else 1
        self.at_once = batches // self.side_by_side
        self._room = left - self.batches * batch_bytes
        self._kept: dict[tuple[int, int], Any] = {}  # by store and number
        self._made: dict[Hashable, Any] = {}
        self._waves: dict[tuple[int, int], tuple[Any, Any, int]] = {}

    @property
    def batches(self) -> int:
        """How many batches are under way."""
        return self.at_once * self.side_by_side

    def here(self, array: np.ndarray) -> Any:
        """On the device, in the array's own type."""
        return self._xp.asarray(array)

    def on_host(self, array: Any) -> np.ndarray:
        """As an array of NumPy."""
        return np.asarray(array.get()) if isinstance(array, self._xp.ndarray) else array

    def made_once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Kept on the device, the last few."""
        if key not in self._made:
            self._made[key] = make()
            for oldest in list(self._made)[:-MADE]:
                del self._made[oldest]
        return self._made[key]

    def transform(self, images: np.ndarray, plane: HalfPlane) -> np.ndarray:
        """As Arithmetic.transform, by cuFFT."""
        xp, size = self._xp, images.shape[-1]
        with aside():
            spectrum = xp.fft.rfft2(xp.fft.ifftshift(self.here(images), axes=(1, 2)))
            rows, columns = self.here(plane.coordinates[:, 1] % size), self.here(plane.coordinates[:, 0])
            return self.on_host((spectrum[:, rows, columns] * np.float32(plane.box / size**2)).astype(np.complex64, copy=False))

    def crops(self, packed: Sequence[Packed]) -> Any:
        """As Arithmetic.crops; they stay on the device as far as it has room."""
        with aside():
            parts = [self._unpacked(part) for part in packed]
            return parts[0] if len(parts) == 1 else self._xp.concatenate(parts)

    def _unpacked(self, packed: Packed) -> Any:
        stored = self._kept.get((packed.store, packed.number))
        if stored is None:
            stored = self.here(packed.stored)
            if stored.nbytes > self._room:  # of a store that came before
                for name in [name for name in self._kept if name[0] != packed.store]:
                    self._room += self._kept.pop(name).nbytes
            if stored.nbytes <= self._room:
                self._room -= stored.nbytes
                self._kept[packed.store, packed.number] = stored
        crops = as_complex(stored)
        return crops if packed.shown is None else crops[self.here(packed.shown)]

    def finish(self) -> None:
        """As Arithmetic.finish."""
        finish()

    def empty(self, shape: tuple[int, ...]) -> Any:
        """A float32 array on the device that holds anything."""
        return self._xp.empty(shape, np.float32)

    def floats(self, array: np.ndarray) -> Any:
        """A float32 copy on the device."""
        return self._xp.array(array, np.float32)

    def waves_here(self, waves: Waves) -> tuple[Any, Any, int]:
        """kx and ky on the device; rings of one box come in one order, so that their number tells them."""
        key = waves[2], len(waves[0])
        if key not in self._waves:
            self._waves[key] = self.here(waves[0]), self.here(waves[1]), waves[2]
        return self._waves[key]
