"""Up to where the halves' references are joined, so that something is always left in which they never met.

Halves share low frequencies so that they keep one orientation (Scheres and Chen 2012, section 2.3). A fixed resolution means nothing at
every pixel size: 20 Å lies beyond the Nyquist limit of pixels of more than 10 Å, and would join the halves altogether.
"""

from __future__ import annotations

from protomer.running.events import Events

MOST_OF_BAND = 0.5  # of the radius up to Nyquist that a join may take as it is set


def join_shell(width_A: float, radius: int, join_A: float, start_A: float, events: Events) -> int:
    """The last shell of the join; 0: never joined. width_A: of the box; radius: of the images' half plane; join_A: as set, 0 for never;
    start_A: low-pass of the start volume, which the halves share anyway.

    A join beyond half the radius is moved to half of it, or to the start's low-pass where that is coarser, and said.
    """
    if join_A == 0:
        return 0
    wanted, most = round(width_A / join_A), int(MOST_OF_BAND * radius)
    if wanted <= most:
        return wanted
    shell = max(1, min(most, int(width_A / start_A)))
    events.warn(
        "join_moved",
        f"join_halves_below is {join_A:g} Å, but the images end at {width_A / radius:.1f} Å: that would leave little or nothing in which "
        f"the halves are independent, and no gold standard; they are joined below {width_A / shell:.1f} Å instead "
        "(join_halves_below=0 joins them nowhere)",
    )
    return shell
