"""What happens around a chain: its provenance is written when the first step starts, and its report made when Snakemake ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from protomer.config.chain import Chain
from protomer.errors import ProtomerError
from protomer.running.chain_provenance import note_chain, note_results


def chain_begins(chain_file: Path, chain: Chain, threads: Mapping[str, int]) -> None:
    """Write provenance.json into the present folder, which is the chain's. Raises InputError and StorageError."""
    note_chain(chain_file, chain, Path(), threads)


def chain_ended() -> None:
    """Complete provenance.json and make the report of the present folder; what goes wrong is said, and changes nothing of the results.

    The report is made by a process of its own: it draws, and Snakemake shall not carry what that needs.
    """
    try:
        note_results(Path())
    except ProtomerError as error:
        print(f"protomer: provenance.json is not complete: {error}", file=sys.stderr)
    done = subprocess.run([sys.executable, "-m", "protomer", "report", "."], check=False)
    if done.returncode != 0:
        print("protomer: the chain's report was not made; `protomer report FOLDER` tries again", file=sys.stderr)
