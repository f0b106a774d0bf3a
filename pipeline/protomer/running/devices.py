"""Which GPU a rank uses: one of its own, by its number among the ranks of its node. Known before CUDA starts, and told to it."""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from protomer.errors import InputError

_DRIVER = Path("/proc/driver/nvidia/gpus")
_VISIBLE = "CUDA_VISIBLE_DEVICES"
SHARERS = "PROTOMER_GPU_SHARERS"  # how many ranks share this rank's GPU, told to what plans its memory
#: what launchers call a rank's number on its node and how many are there: mpich's mpiexec, Open MPI's
_LOCAL = (("MPI_LOCALRANKID", "MPI_LOCALNRANKS"), ("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"))


def bind_device(environment: MutableMapping[str, str], may_share: bool = False) -> str | None:
    """Leave this rank one of the GPUs that it may see, as the launcher numbers the ranks of a node; None where there is no GPU.

    Where they may share, neighbouring ranks take the same GPU, as many each as can be, and its memory in equal parts. Raises InputError
    where more ranks than GPUs are on a node and may not share.
    """
    devices = visible_devices(environment)
    if not devices:
        return None
    if is_bound_by_slurm(environment):
        return ",".join(devices)
    rank, ranks = place_on_node(environment)
    if ranks > len(devices) and not may_share:
        raise InputError(f"{ranks} ranks on a node where {len(devices)} GPU(s) may be used ({', '.join(devices)})", "one GPU for each rank",
                         f"start {len(devices)} rank(s) on each node, ask for more GPUs (srun --gpus-per-task=1), let ranks share one "
                         "(--share-gpus), or give --backend cpu")
    of_ranks = [other * len(devices) // ranks for other in range(ranks)] if ranks > len(devices) else list(range(ranks))
    environment[_VISIBLE], environment[SHARERS] = devices[of_ranks[rank]], str(of_ranks.count(of_ranks[rank]))
    return devices[of_ranks[rank]]


def visible_devices(environment: Mapping[str, str]) -> list[str]:
    """The GPUs that this process may use, by number or name: those of CUDA_VISIBLE_DEVICES, else all that the driver knows."""
    given = environment.get(_VISIBLE)
    if given is None:
        return [str(number) for number in range(len(list(_DRIVER.iterdir())))] if _DRIVER.is_dir() else []
    return [name for name in (part.strip() for part in given.split(",")) if name not in ("", "-1", "NoDevFiles")]


def is_bound_by_slurm(environment: Mapping[str, str]) -> bool:
    """Whether srun gave each rank its own GPUs, which a rank may then see under the same numbers as its neighbours.

    How --gpus-per-task and --gpu-bind are told differs between SLURM's versions (22.05: SLURMD_TRES_BIND=gpu:per_task:1).
    """
    told = " ".join(environment.get(name, "") for name in ("SLURM_TRES_PER_TASK", "SLURMD_TRES_BIND", "SLURM_GPU_BIND"))
    return "SLURM_GPUS_PER_TASK" in environment or "gres/gpu" in told or "gres:gpu" in told or "per_task" in told or "single" in told


def place_on_node(environment: Mapping[str, str]) -> tuple[int, int]:
    """This rank's number among those of its node, from 0, and how many they are; (0, 1) without a launcher."""
    for rank, ranks in _LOCAL:
        if rank in environment and ranks in environment:
            return int(environment[rank]), int(environment[ranks])
    if "SLURM_LOCALID" not in environment or "SLURM_STEP_TASKS_PER_NODE" not in environment:
        return 0, 1
    counts: list[int] = []
    for count, _, times in re.findall(r"(\d+)(\(x(\d+)\))?", environment["SLURM_STEP_TASKS_PER_NODE"]):  # such as 3(x2),1
        counts += [int(count)] * int(times or 1)
    return int(environment["SLURM_LOCALID"]), counts[int(environment.get("SLURM_NODEID", "0"))]
