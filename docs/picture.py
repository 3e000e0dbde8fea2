"""Draw the picture of the README: an archive, and walkers that a model generates for four requests.

    python docs/picture.py --out docs/walkers.png

On the left, the best fitness in every cell of the re-evaluated archive. On the right, four policies sampled from the
model that comes with the package, nearly a second of each, one pose after the other; nothing is chosen by hand but the
requests.
"""

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

import ldpol
from ldpol.film import film
from ldpol.models import folder_of
from ldpol.report.canvas import HEAT, INK, MUTED, make_canvas

REQUESTS = ((0.1, 0.6), (0.3, 0.8), (0.6, 0.45), (0.8, 0.2))
"""Fractions of time that the right and the left foot are on the ground."""
SIDES = {-1: "#8c8c8c", 0: "#d55e00", 1: "#0072b2"}
POSES, BEGIN, SECONDS = 15, 1.0, 0.9
"""Pictures of a strip, and which part of the episode they show, in seconds."""
HEIGHT, STRIDE = 1.9, 0.9
"""Of a strip, and from one pose to the next, in metres."""


def draw_map(axis: Axes, elites: Any) -> None:
    """Draw the archive and mark what is asked for."""
    shape = tuple(elites["grid_shape"])
    best = np.full(shape, -np.inf)
    low, high = elites["low"], elites["high"]
    cells = np.clip(((elites["reference_measures"] - low) / (high - low) * shape).astype(int), 0, np.array(shape) - 1)
    np.maximum.at(best, tuple(cells.T), elites["reference_fitness"])
    extent = (low[0], high[0], low[1], high[1])
    axis.imshow(np.ma.masked_invalid(best).T, origin="lower", extent=extent, cmap=HEAT, aspect="auto")
    for number, (x, y) in enumerate(REQUESTS, 1):
        axis.plot(x, y, "o", ms=15, color="white", mec=INK)
        axis.text(x, y, str(number), ha="center", va="center", fontsize=10, color=INK)
    axis.set(xlabel="right foot on the ground (fraction of time)", ylabel="left foot on the ground")
    axis.set_title("best fitness of the archive, by behaviour", fontsize=9.5, color=INK, loc="left")


def draw_strip(axis: Axes, title: str, ends: np.ndarray, radii: np.ndarray, sides: tuple[int, ...]) -> None:
    """Draw poses `[P, G, 2, 3]` side by side."""
    scale = 72 * axis.get_window_extent().height / axis.figure.dpi / HEIGHT  # points per metre
    for pose, place in zip(ends, STRIDE * np.arange(len(ends)), strict=True):
        middle = pose[:, :, 0].mean()
        for (one, other), radius, side in zip(pose, radii, sides, strict=True):
            xs = [one[0] - middle + place, other[0] - middle + place]
            width = max(1.5, 2 * radius * scale)
            axis.plot(
                xs, [one[2], other[2]], color=SIDES[side], lw=width, solid_capstyle="round", alpha=0.85, clip_on=False
            )
    axis.axhline(0.0, color=MUTED, lw=0.8)
    axis.set(xlim=(-0.7, STRIDE * len(ends)), ylim=(-0.05, HEIGHT - 0.05), aspect="equal", anchor="W")
    axis.set_title(title, fontsize=9.5, color=INK, loc="left", pad=2)
    axis.axis("off")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="walker2d", help="name of a model that comes with the package")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    generator, task = ldpol.load(options.model), ldpol.make_task("walker2d")
    skeleton = task.skeleton
    assert skeleton is not None
    elites = np.load(folder_of(options.model) / "arrays.npz")

    @jax.jit
    def act(key: jax.Array, measures: jax.Array) -> Any:
        sample_key, episode_key = jax.random.split(key)
        return film(task, generator.apply, generator.sample(sample_key, measures), episode_key)

    figure, _ = make_canvas(1, 1, 4.2, "", 11.0)
    figure.clear()
    layout = figure.add_gridspec(len(REQUESTS), 2, width_ratios=(1, 1.9))
    draw_map(figure.add_subplot(layout[:, 0]), elites)
    for number, request in enumerate(REQUESTS):
        key = jax.random.fold_in(jax.random.key(options.seed), number)
        score, shots = act(key, jnp.asarray(request))
        steps = np.linspace(BEGIN, BEGIN + SECONDS, POSES) / task.dt
        achieved = ", ".join(f"{100 * float(value):.0f} %" for value in score.measures)
        asked = ", left ".join(f"{100 * value:.0f} %" for value in request)
        title = f"{number + 1}   asked: right {asked}; reached: {achieved}"
        poses = np.asarray(shots.ends)[np.clip(steps.astype(int), 0, task.episode_length - 1)]
        draw_strip(figure.add_subplot(layout[number, 1]), title, poses, np.asarray(skeleton.radii), skeleton.sides)
    figure.savefig(options.out)


if __name__ == "__main__":
    main()
