"""CUDA drivers of the kernels, one module beside each CPU module of the same name; nothing on the CPU's paths imports them.

What an E-step does to a batch of images, in order, and what does it on a device:

| step | on a device |
|---|---|
| transform and crop images (half_plane.transform_images) | a library: FFT, gather and product (once per run) |
| odd phases (aberrations.py) | none: on the host, once per run, where there are any |
| contrast transfer (ctf.ctf_driver) | `ctf` |
| whitening (images.whiten) | `whitening` |
| ramps, shifted images and powers of slices (grid_scores.py) | a library: products of arrays |
| slices of the grid (slices.extract_slices) | `slices` |
| cross and power terms of the grid's scores | a library: matrix products |
| best shift, best rotations (grid_scores.best_shift, best_rotations) | `grid_scores` |
| climbs (newton.climb_poses), sums at a pose (normal_equations.py) | `newton`, `normal_equations` |
| distinct modes, covariances, weights (posterior.py, newton.py) | none: on the host, from 32 numbers for each start |
| scores of filaments with what is known of their tilt and psi (engine/filaments.py) | `filament_scores` |
| posteriors over a grid and their sums (grid_posterior.py) | a library: matrix products, sums over axes |
| views of mean and modes, and their scalar products (modes.see_modes) | `slices`; a library: products and sums of arrays |
| what images leave of modes, insertion of modes (modes.leave_modes, insert_modes) | `modes` |
| coordinates on modes (variability/posterior.py), classes' posteriors | none: on the host, from a few numbers for each image |
| insertion (insertion.insert_slices) | `insertion` |
| residual power (noise.residual_power) | `noise` |

What an M-step does:

| step | on a device |
|---|---|
| fixed point to sums, quotient, mask, filters, transforms (insertion.py, wiener.py, masks.py, fourier.py, padded.py) | a library |
| sums over shells (wiener.shell_weights, shells.shell_cross_sums) | `shells` |
| maps made helical (winding.wind) | a library: spline coefficients; `winding` |
| the lattice from half maps (symmetry/helical_search.py), modes (modes.solve_modes) | none: on the host, once per iteration |

Every kernel is float32 throughout, sums in an order that does not depend on the schedule (or in integers), and gives the same bits every
time on one model of device; they differ from the CPU's bits.
"""
