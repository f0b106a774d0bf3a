"""The ranks of one job. Only this module imports mpi4py, and only under a launcher; without one a team is one process."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from protomer.errors import InputError, ProtomerError
from protomer.running.device_mpi import takes_device_arrays
from protomer.running.devices import place_on_node
from protomer.running.shared_memory import clear_left_shared_memory
from protomer.running.start_watch import watching_start

if TYPE_CHECKING:
    import numpy as np

#: elements summed in one call: below the 2^31 counts of MPI 3, and small enough that the library's own buffers stay small
CHUNK = 2**26
_RANK_NAMES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")


def launched_size(environment: Mapping[str, str]) -> int | None:
    """How many ranks the launcher says it started: 1 without a launcher, None where it gives a rank but no number."""
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"):
        if name in environment:
            return int(environment[name])
    return None if "PMIX_RANK" in environment else 1


def launched_rank(environment: Mapping[str, str]) -> int:
    """This process's rank as the launcher says it, 0 without one; known before MPI starts."""
    return next((int(environment[name]) for name in _RANK_NAMES if name in environment), 0)


class Relay:
    """A word that one rank passes to all others without waiting: they hear it when they next listen, and settle it when they meet.

    It travels on a communicator of its own, so that it meets no other message.
    """

    def __init__(self, world: Any) -> None:
        self._world, self._sent, self._received = world, list[Any](), 0

    def listen(self, asked: bool) -> bool:
        """Whether this rank is asked, or another that has been heard so far; the first rank to know tells the others."""
        self._receive_waiting()
        if asked and not self._sent and not self._received:
            self._sent = [self._world.isend(None, other) for other in range(self._world.size) if other != self._world.rank]
        return asked or self._received > 0

    def meet(self, asked: bool) -> bool:
        """Whether any rank is asked; the same on every rank. No word is under way afterwards."""
        told = self._world.allgather((bool(asked), len(self._sent) > 0))
        others = sum(was_sent for rank, (_, was_sent) in enumerate(told) if rank != self._world.rank)
        while self._received < others:
            self._world.recv()
            self._received += 1
        for request in self._sent:
            request.wait()
        self._sent, self._received = [], 0
        return any(flag or was_sent for flag, was_sent in told)

    def _receive_waiting(self) -> None:
        while self._world.iprobe():
            self._world.recv()
            self._received += 1


@dataclass(frozen=True)
class Team:
    """All ranks of this job. `rank` counts from 0; collective methods must be called by every rank in the same order."""

    rank: int = 0
    size: int = 1
    _world: Any = None
    _failures: Any = None  # its own communicator, so that a rank that fails meets no collective of those still working
    _relay: Relay | None = None
    takes_device_arrays: bool = False  # whether arrays on CUDA devices can be summed where they are; the same on every rank

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, the only one that writes files and speaks."""
        return self.rank == 0

    def add_up(self, array: Any) -> None:
        """Replace a contiguous array, NumPy's or, where it `takes_device_arrays`, a device's, by its sum over ranks, on every rank.

        Integer sums are exact whatever the number of ranks. A device must be done with the array.
        """
        if self._world is None:
            return
        from mpi4py import MPI
        if not array.flags.c_contiguous:
            raise ValueError("only a C-contiguous array can be summed in place")
        flat = array.reshape(-1)
        for start in range(0, flat.size, CHUNK):
            self._world.Allreduce(MPI.IN_PLACE, flat[start:start + CHUNK], op=MPI.SUM)

    def total(self, array: np.ndarray) -> np.ndarray:
        """The sum of an array over ranks, same shape and dtype, on every rank. Floats: not the same bits for every number of ranks."""
        import numpy as np
        result = np.array(array, order="C", copy=True)
        self.add_up(result)
        return result

    def largest(self, array: np.ndarray) -> np.ndarray:
        """The elementwise maximum of an array over ranks, on every rank."""
        import numpy as np
        result = np.array(array, order="C", copy=True)
        if self._world is not None:
            from mpi4py import MPI
            self._world.Allreduce(MPI.IN_PLACE, result, op=MPI.MAX)
        return result

    def any(self, flag: bool) -> bool:
        """Whether any rank says yes; the same answer on every rank."""
        return bool(flag) if self._world is None else any(self._world.allgather(bool(flag)))

    def hears(self, asked: bool) -> bool:
        """Whether this rank is asked to stop, or has heard from another that is; tells the others, and waits for none."""
        return asked if self._relay is None else self._relay.listen(asked)

    def agrees(self, asked: bool) -> bool:
        """Whether any rank is asked to stop; the same answer on every rank, which all must call this."""
        return asked if self._relay is None else self._relay.meet(asked)

    def gather_rows(self, rows: np.ndarray) -> np.ndarray:
        """The rows (n_rank, ...) of rank 0, 1, ... joined along the first axis, on every rank. Any dtype; shares may be empty."""
        import numpy as np
        if self._world is None:
            return np.array(rows, copy=True)
        if rows.dtype.hasobject:
            return np.concatenate(self._world.allgather(rows))
        from mpi4py import MPI
        counts = self._world.allgather(len(rows))
        result = np.empty((sum(counts), *rows.shape[1:]), rows.dtype)
        row_bytes = result.dtype.itemsize * int(np.prod(rows.shape[1:], dtype=np.int64))
        bytes_of_ranks = [count * row_bytes for count in counts]
        send = np.ascontiguousarray(rows).reshape(-1).view(np.uint8)
        self._world.Allgatherv([send, MPI.BYTE], [result.reshape(-1).view(np.uint8), bytes_of_ranks, MPI.BYTE])
        return result

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        return value if self._world is None else self._world.bcast(value)

    def barrier(self) -> None:
        """Wait for every rank."""
        if self._world is not None:
            self._world.Barrier()

    def on_first(self, work: Callable[[], Any]) -> Any:
        """What `work()` gives on rank 0, on every rank; where it raises one of Protomer's errors, every rank raises it."""
        if self._world is None:
            return work()
        outcome: tuple[Any, ProtomerError | None] = (None, None)
        if self.is_first:
            try:
                outcome = (work(), None)
            except ProtomerError as error:
                outcome = (None, error)
        value, failure = self._world.bcast(outcome)
        if failure is not None:
            raise failure
        return value

    def cpus(self) -> int:
        """CPUs for this rank: those it may run on, shared with the other ranks of its machine that may run there too."""
        own = (socket.gethostname(), sorted(os.sched_getaffinity(0)))
        ranks = [own] if self._world is None else self._world.allgather(own)
        shared = Counter((host, cpu) for host, cpus in ranks for cpu in cpus)
        return max(1, int(sum(1 / shared[own[0], cpu] for cpu in own[1]) + 1e-6))

    def ranks_here(self) -> int:
        """How many ranks run on this rank's machine."""
        hosts = [socket.gethostname()] if self._world is None else self._world.allgather(socket.gethostname())
        return hosts.count(socket.gethostname())

    def all_fail(self, patience_s: float = 1.0) -> bool:
        """Called by a rank that failed: whether every other rank fails too within the patience, so that all can end in order."""
        if self._failures is None:
            return True
        request = self._failures.Ibarrier()
        deadline = time.monotonic() + patience_s * (2 if self.is_first else 3)
        while time.monotonic() < deadline:
            if request.Test():
                return True
            time.sleep(0.01)
        return False

    def abort(self, code: int) -> None:
        """End all ranks now with this exit code."""
        if self._world is not None:
            self._world.Abort(code)


def open_team() -> Team:
    """The team that the launcher started; InputError where MPI sees another number of ranks than the launcher."""
    expected = launched_size(os.environ)
    if expected == 1:
        return Team()
    if place_on_node(os.environ)[0] == 0:
        clear_left_shared_memory()
    with watching_start(launched_rank(os.environ), expected, os.environ):
        from mpi4py import MPI
    world = MPI.COMM_WORLD
    if expected is not None and world.size != expected:
        raise InputError(f"MPI sees {world.size} rank(s) where the launcher started {expected}", "both to agree",
                         "start the job with the mpiexec that belongs to mpi4py's library; under srun, choose the plug-in that it "
                         "speaks (mpich: --mpi=pmi2, Open MPI: --mpi=pmix)")
    if world.size == 1:
        return Team()
    on_devices = all(world.allgather(takes_device_arrays(os.environ)))
    return Team(world.rank, world.size, world.Dup(), world.Dup(), Relay(world.Dup()), on_devices)


def mpi_library() -> str:
    """Name and version of the MPI library that ranks would use, asked of a process of its own, in which MPI is not started."""
    asking = "import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI; print(MPI.Get_library_version())"
    done = subprocess.run([sys.executable, "-c", asking], capture_output=True, text=True, check=False, timeout=60)
    lines = [line.strip("\0 ") for line in done.stdout.splitlines() if line.strip("\0 ")]
    return re.sub(r"\s+", " ", lines[0]) if done.returncode == 0 and lines else "none that mpi4py can load"
