"""Start lattices tried: each refined for a few passes on a few images, and scored by images that its map has not seen.

Of each start lattice, from a cylinder (or the start volume) with the lattice imposed:

(1) passes in which the references of both half-sets are made from the images of both, at all frequencies: half-sets that are refined apart
    from the start may end with opposite polarity, or turned, and then lose to a wrong lattice. The lattice is refined from the third on
(2) passes in which each half-set has a reference of its own images alone
(3) the score: log odds, mean over images, that an image shows the map of the *other* half-set, with the lattice, against noise alone: the
    likelihood over all poses (posterior.py), with the noise that the images' own power gives, the same for all lattices

The FSC of half maps cannot tell lattices apart, since half maps to which the same wrong lattice was given agree about a wrong map; the
likelihood of unseen images falls where the lattice smears what they show. All starts get one pass (2) after few (1), the best of them are
refined anew with more. Ranks try different lattices, each alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from protomer.declarations.helical_refine import HelicalRefineSettings
from protomer.engine.hypotheses import Hypotheses
from protomer.engine.maximisation import working_box
from protomer.errors import Stopped
from protomer.helical.lattice import Lattice
from protomer.helical.start import first_reference
from protomer.helical.starts import FIRST_APART, FIRST_PASSES, Starts, chosen_rows, filament_numbers, kept_of, starts_of
from protomer.imaging.images import ImageStore
from protomer.maps.volumes import Volume
from protomer.refinement.loop import estimate, iterate
from protomer.refinement.preparing import surveyed
from protomer.refinement.setup import Masking, Setup, State
from protomer.refinement.start import begin, resampled
from protomer.running.batches import make_batches
from protomer.running.checkpoints import Checkpoint
from protomer.running.job_run import JobRun
from protomer.running.progress import show_progress
from protomer.running.ranks import Team
from protomer_kernels.half_plane import HalfPlane, largest_radius

CHECKPOINT = "checkpoint_starts.h5"
APART = 2  # the same of the best
GRID = 1  # all passes but the first search the grid of this iteration (schedule.py): a finer one finds few more of them, and takes longer
AS_GIVEN = 2  # passes before a lattice is refined


@dataclass(frozen=True)
class Trial:
    """What all starts share: the chosen images, at the size that the detail asks for; noise (groups, shells); start volume, or None for a
    cylinder; the factor that takes its grey scale to that of the images."""

    setup: Setup
    settings: HelicalRefineSettings
    starts: Starts
    noise: np.ndarray
    volume: Volume | None
    grey: float = 1.0


@dataclass(frozen=True)
class Scores:
    """What n starts gave on N images: first (n,), the score after few passes; ends (n, 2), twist and rise after all; log_odds (n, N);
    NaN where that was not asked yet. volume (b, b, b): the map of the best that was refined, of both half-sets."""

    first: np.ndarray
    ends: np.ndarray
    log_odds: np.ndarray
    volume: np.ndarray

    @classmethod
    def none(cls, starts: int, images: int) -> Scores:
        """Before any is tried."""
        nothing = np.full(starts, np.nan)
        return cls(nothing, np.full((starts, 2), np.nan), np.full((starts, images), np.nan), np.zeros((0, 0, 0), np.float32))

    @property
    def mean(self) -> np.ndarray:
        """(n,) the scores of those refined with all passes, NaN of others."""
        return np.asarray(self.log_odds.mean(axis=1))

    def left(self) -> tuple[bool, list[int]]:
        """Whether all starts have had their few passes, and whose turn it is."""
        waiting = np.flatnonzero(np.isnan(self.first)).tolist()
        if waiting:
            return False, waiting
        return True, [n for n in kept(self.first) if np.isnan(self.ends[n, 0])]


def kept(first: np.ndarray) -> list[int]:
    """The starts that are refined with all passes, best first."""
    return np.argsort(-first, kind="stable")[: kept_of(len(first))].tolist()


def prepare_trial(setup: Setup, settings: HelicalRefineSettings, given: Lattice, start: Volume | None) -> Trial:
    """The chosen images, alone on this rank, and the grid of start lattices. Raises SettingsError."""
    assert setup.winding is not None and setup.filaments is not None
    starts, width_A = starts_of(settings, setup.winding, given, setup.width_A), setup.width_A
    rows = chosen_rows(setup.particles, settings.start_images, setup.seed)
    full = setup.store.plane.box
    box = working_box(full, int(width_A / settings.start_detail))
    groups = tuple(replace(g, box=box, pixel_size_A=g.pixel_size_A * full / box) for g in setup.particles.optics_groups)
    particles = replace(setup.particles.take(rows), optics_groups=groups)
    batches = make_batches(particles, 1, setup.seed)
    store = ImageStore(particles, HalfPlane(box, largest_radius(box)), [batch.rows for batch in batches], None, setup.arithmetic)
    own = replace(setup, particles=particles, store=store, batches=batches, numbers=range(len(batches)), team=Team(), masking=Masking(),
                  pixel_size_A=width_A / box, shift_extent_px=setup.shift_extent_px * box / full, filaments=setup.filaments.take(rows),
                  progress=lambda label, total: show_progress(label, total, False), null_class=False, particle_scale=False,
                  non_uniform=None, bridges_dips=True, check_stop=lambda: None)
    own, noise = surveyed(own)
    volume = None if start is None else Volume(resampled(start, box, width_A / box), width_A / box)
    trial = Trial(own, replace(settings, max_alignment_resolution=settings.start_detail), starts, noise, volume)
    reference = first_reference(trial.setup, volume, given, settings)
    fitted = begin(trial.setup, reference, noise, trial.settings, given).model.maps.values()
    grey = float(np.mean([np.vdot(reference, volume) for volume in fitted]) / max(np.vdot(reference, reference), 1e-30))
    setup = replace(trial.setup, check_stop=setup.check_stop)  # from here on, where all ranks may leave together
    return replace(trial, setup=setup, settings=replace(trial.settings, rescale_reference=False), grey=grey)


def refined_from(trial: Trial, number: int, passes: int, apart: int) -> State:
    """One start lattice after some passes, the last of which left the half-sets apart: (1) and (2)."""
    twist_deg, rise_A = trial.starts.lattices[number].tolist()
    lattice, setup = Lattice(twist_deg, rise_A), trial.setup
    assert setup.winding is not None
    fixed = replace(setup, winding=replace(setup.winding, refines=False))
    moving = replace(setup, winding=trial.starts.winding(setup.winding, lattice))
    reference = first_reference(fixed, trial.volume, lattice, trial.settings) * np.float32(trial.grey)
    state = begin(fixed, reference, trial.noise, trial.settings, lattice)
    for n in range(passes):
        join_shell = state.band.limit if n < passes - apart else 0
        state = iterate(replace(fixed if n < AS_GIVEN else moving, join_shell=join_shell), state)
        band = replace(state.band.at_limit, iteration=GRID)
        state = replace(state, band=band, model=replace(state.model, insertion_radius=band.insertion_radius))
    return state


def foretold(trial: Trial, state: State) -> np.ndarray:
    """Eq. (3) of each image (N,): searched anew against the map of the other half-set."""
    maps = {(half, fold): state.model.maps[1 - half, fold] for half, fold in state.model.maps}
    crossed = replace(state, model=replace(state.model, maps=maps, noise=trial.noise), agreed=np.zeros_like(state.agreed))
    return estimate(trial.setup, (crossed,), Hypotheses.of_one(False)).poses[0].log_odds


def try_all(trial: Trial, job: JobRun) -> Scores:
    """Scores of all starts, the same on every rank; goes on where a checkpoint was left."""
    checkpoint, starts = job.checkpoint.beside(CHECKPOINT), len(trial.starts)
    scores = load(checkpoint) or Scores.none(starts, len(trial.setup.particles))
    with job.progress("trying start lattices", starts + len(kept(scores.first))) as line:
        line.advance(int(np.isfinite(scores.first).sum() + np.isfinite(scores.ends[:, 0]).sum()))
        while (turn := scores.left())[1]:
            together = turn[1][: job.team.size]
            scores = tried_together(trial, scores, together, turn[0], job)
            save(scores, checkpoint)
            line.advance(len(together))
    return scores


def tried_together(trial: Trial, scores: Scores, together: list[int], is_second: bool, job: JobRun) -> Scores:
    """The scores with those of some more starts, one for each rank at most. Raises Stopped on every rank where any is to stop."""
    box, images, team = trial.setup.store.plane.box, scores.log_odds.shape[1], job.team
    ends, log_odds, volumes = np.zeros((0, 2)), np.zeros((0, images)), np.zeros((0, box, box, box), np.float32)
    is_stopping = False
    try:
        if team.rank < len(together):
            passes = (trial.settings.start_passes, APART) if is_second else (FIRST_PASSES, FIRST_APART)
            state = refined_from(trial, together[team.rank], *passes)
            assert state.lattice is not None
            ends, log_odds = np.array([[state.lattice.twist_deg, state.lattice.rise_A]]), foretold(trial, state)[None]
            volumes = resampled(mean_map(trial, state), box, trial.setup.pixel_size_A)[None]
    except Stopped:
        is_stopping = True
    job.stop_together(is_stopping)
    ends, log_odds, volumes = (team.gather_rows(share) for share in (ends, log_odds, volumes))
    if not is_second:
        return replace(scores, first=put(scores.first, together, log_odds.mean(axis=1)))
    before, best = np.nanmax(scores.mean, initial=-np.inf), int(np.argmax(log_odds.mean(axis=1)))
    volume = volumes[best] if log_odds[best].mean() > before else scores.volume
    return replace(scores, ends=put(scores.ends, together, ends), log_odds=put(scores.log_odds, together, log_odds), volume=volume)


def put(column: np.ndarray, rows: list[int], values: np.ndarray) -> np.ndarray:
    """A column with some rows replaced."""
    changed = column.copy()
    changed[rows] = values
    return changed


def mean_map(trial: Trial, state: State) -> Volume:
    """The mean of both half-sets' references."""
    maps = list(state.model.maps.values())
    return Volume((maps[0] + maps[1]) / 2, trial.setup.width_A / len(maps[0]))


def filaments_compared(trial: Trial) -> np.ndarray:
    """For each of the chosen images the number of its filament (N,)."""
    return filament_numbers(trial.setup.particles)


def save(scores: Scores, checkpoint: Checkpoint) -> None:
    """Checkpoint after each round."""
    checkpoint.save({name: getattr(scores, name) for name in Scores.__dataclass_fields__})


def load(checkpoint: Checkpoint) -> Scores | None:
    """What a checkpoint holds, on every rank; None where there is none."""
    saved = checkpoint.load()
    return None if saved is None else Scores(*(saved[name] for name in Scores.__dataclass_fields__))
