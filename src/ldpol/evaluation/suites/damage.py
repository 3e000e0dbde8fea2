"""Suite `damage`: the robot is damaged; how good a policy do a few trials find, in the archive or among its draws?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from ldpol.baselines.subsampled import choose
from ldpol.evaluation.context import Context, Result
from ldpol.evaluation.intervals import Ratio, estimate
from ldpol.evaluation.recovery import Pool, judge, make_play, pool_of_archive, pool_of_bank, search
from ldpol.evaluation.tables import Column, Row, Table, numbers
from ldpol.planning.adaptation import AdaptConfig
from ldpol.rollout import RolloutConfig
from ldpol.settings import check
from ldpol.tasks import Damage, Task, damaged

BANK, ARCHIVE, SAME_BYTES, RANDOM = "bank", "archive", "same_bytes", "random"
WAYS = {
    BANK: ("Verified draws", "Bayesian optimisation over the draws in the generator's file"),
    ARCHIVE: ("The whole archive", "the same over all elites (ITE, Cully et al. 2015)"),
    SAME_BYTES: ("Some elites", "the same over the best-spread ones, in as many bytes as the generator, int8"),
    RANDOM: ("Random draws", "the best of as many verified draws, tried at random"),
}
"""Ways to find a policy, in reading order: title and note."""
CHAMPION = "champion"


@dataclass(frozen=True)
class Damages:
    """Search for a policy that works on a damaged robot, in several ways, several times for each damage.

    A trial is one episode. What was found is judged by other episodes, the same for all policies.

    Attributes:
      trials: per search.
      repeats: searches per damage and way; they differ in the episodes of their trials.
      episodes: by which a policy is judged.
      strengths: of a weak actuator; each actuator is weakened to each of them in turn.
      gravity, friction: factors, a damage each.
      chunk: episodes per call of the compiled program.
      adapt: settings of the search.
      rollout: lanes of a device.
    """

    name: ClassVar[str] = "damage"
    trials: int = 20
    repeats: int = 4
    episodes: int = 10
    strengths: tuple[float, ...] = (0.0, 0.5)
    gravity: tuple[float, ...] = (1.3,)
    friction: tuple[float, ...] = (0.5,)
    chunk: int = 256
    adapt: AdaptConfig = AdaptConfig()
    rollout: RolloutConfig = RolloutConfig()

    def __post_init__(self) -> None:
        """Check the settings."""
        counts = dict.fromkeys(("trials", "repeats", "episodes", "chunk"), 1)
        check(self, least={**counts, "strengths": 0, "gravity": 0, "friction": 0})

    def check_task(self, task: Task) -> None:
        """Every task will do: it gets those of the damages that it can have."""

    def damages(self, task: Task) -> list[Damage]:
        """Return the damages of a task; only the robots of `make_task` can have other gravity and friction."""
        found = []
        for strength in self.strengths:
            how = "dead" if strength == 0 else f"at {strength:g}"
            for weak in range(task.action_size):
                left = tuple(strength if i == weak else 1.0 for i in range(task.action_size))
                found.append(Damage(f"actuator {weak + 1} {how}", left))
        if task.with_physics is not None:
            sound = (1.0,) * task.action_size
            found += [Damage(f"gravity x {factor:g}", sound, gravity=factor) for factor in self.gravity]
            found += [Damage(f"friction x {factor:g}", sound, friction=factor) for factor in self.friction]
        return found

    def run(self, context: Context) -> Result:
        """Measure; left out for a generator without verified draws."""
        bank, damages = context.generator.bank, self.damages(context.task)
        if bank is None or bank.fitness is None:
            context.without(self.name, "the generator has no verified draws, or they say nothing of fitness")
            return Result({"damage": {}})
        if context.task.with_physics is None and self.gravity + self.friction:
            context.without("damage by gravity and friction", f"{context.task.name} cannot change them")
        if not damages:
            return Result({"damage": {}})
        pools = self.pools(context)
        # A program takes any weak actuators, but only one gravity and friction.
        physics = [(damage.gravity, damage.friction) for damage in damages]
        worth = {name: np.zeros((len(damages), self.repeats, self.trials)) for name in (*pools, CHAMPION)}
        for one in dict.fromkeys(physics):
            members = np.flatnonzero([other == one for other in physics])
            found = self.measure(context, pools, [damages[i] for i in members], members)
            for name, values in found.items():
                worth[name][members] = values
        names = [damage.name for damage in damages]
        result = damage_metrics(names, {name: worth[name] for name in pools}, worth[CHAMPION][:, 0, 0])
        result |= {"healthy": float(np.max(context.archive.fitness)), "repeats": self.repeats}
        result |= {"episodes": self.episodes}
        for name, pool in pools.items():
            result["ways"][name] |= {"policies": len(pool.repertoire.prior), "bytes": pool.bytes}
        return Result({"damage": result})

    def pools(self, context: Context) -> dict[str, Pool]:
        """Return what each way may try."""
        archive, size = context.archive, context.generator.nbytes
        count = int(np.clip(size // archive.network.size, 1, len(archive)))
        rows = choose(archive.grid, jnp.asarray(archive.fitness), jnp.asarray(archive.measures), count)
        drawn = pool_of_bank(context.generator, chunk=context.player.chunk)
        return {
            BANK: drawn,
            ARCHIVE: pool_of_archive(archive, size=archive.nbytes),
            SAME_BYTES: pool_of_archive(archive, np.asarray(rows), size=count * archive.network.size),
            RANDOM: drawn._replace(random=True),
        }

    def measure(
        self, context: Context, pools: Mapping[str, Pool], damages: Sequence[Damage], places: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Search under D damages that differ in actuators alone.

        Args:
          context: of the suite.
          pools: by way.
          damages: D of them.
          places: `[D]` their numbers among all damages, which decide the episodes.

        Returns:
          What was found is worth after each trial, `[D, S, T]` by way; `champion` is the healthy one, without a search.
        """
        gravity, friction = damages[0].gravity, damages[0].friction
        changed = f"gravity x {gravity:g}, friction x {friction:g}"
        strengths = np.asarray([damage.strengths for damage in damages], np.float32)
        champion = np.full((len(damages), 1, 1), np.argmax(context.archive.fitness))

        def compute() -> dict[str, np.ndarray]:
            # No larger than a batch of trials, or it would be filled up with repeats.
            chunk = min(self.chunk, len(pools) * len(damages) * self.repeats)
            play = make_play(
                damaged(context.task, Damage(changed, gravity=gravity, friction=friction)),
                context.archive.network.apply,
                rollout=self.rollout,
                mesh=context.player.mesh,
                chunk=chunk,
            )
            how = {"trials": self.trials, "repeats": self.repeats, "config": self.adapt, "numbers": places}
            with context.hooks.progress(f"damaged robots: {changed}", self.trials, "trial") as done:
                found = search(pools, play, strengths, context.key_for("damage"), **how, done=done)
            key = context.key_for("damage/judges")
            rows = {name: (pools[name], one) for name, one in found.items()} | {CHAMPION: (pools[ARCHIVE], champion)}
            return {name: judge(*one, play, strengths, key, episodes=self.episodes) for name, one in rows.items()}

        blank: dict[str, Any] = dict.fromkeys((*pools, CHAMPION), 0)
        return context.cached(self, f"damage_{gravity:g}_{friction:g}", compute, blank)

    @staticmethod
    def tables(metrics: Mapping[str, Any]) -> list[Table]:
        """Return one row per way, with what it found after some of the trials, and one per damage."""
        found = metrics.get("damage") or {}
        if not found:
            return []
        trials = found["trials"]
        marks = sorted({max(1, trials // 4), max(1, trials // 2), trials})
        columns = (
            *(Column("Fitness", f"after {mark} trials", "count") for mark in marks),
            Column("Over the champion's", f"after {trials}", ".2f"),
            Column("Over the archive's", f"after {trials}", ".2f"),
            Column("Policies", "to try", "count"),
            Column("Size", "bytes", "count"),
        )
        champion = (*[found[CHAMPION]] * len(marks), 1.0, found["champion_of_archive"], 1, None)
        note = f"the best elite, no trial; {found['healthy']:.0f} before the damage"
        rows = [Row("The champion", champion, note)]
        for name, (title, note) in WAYS.items():
            one = found["ways"][name]
            after = tuple(one["curve"][mark - 1] for mark in marks)
            rows.append(
                Row(
                    title,
                    (*after, *numbers(one, ("of_champion", "of_archive", "policies", "bytes"))),
                    note,
                    name == BANK,
                )
            )
        text = (
            f"Means over {len(found['damages'])} damages, {found['repeats']} searches each; intervals over damages. A "
            f"trial is one episode; what was found is judged by {found['episodes']} others."
        )
        singles = ("The champion", *(title for title, _ in WAYS.values()))
        each = [Row(one["name"], numbers(one, (CHAMPION, *WAYS))) for one in found["damages"]]
        return [
            Table("Damage", columns, tuple(rows), text),
            Table(f"After {trials} trials", tuple(Column(title, "fitness", "count") for title in singles), tuple(each)),
        ]


def damage_metrics(names: Sequence[str], worth: Mapping[str, np.ndarray], champion: np.ndarray) -> dict[str, Any]:
    """Summarise searches.

    Args:
      names: of the D damages.
      worth: by way, what was found is worth after each trial, `[D, S, T]`.
      champion: `[D]` what the healthy champion is worth.

    Returns:
      `trials`; the mean worth of the `champion`, and over that of the archive's last (`champion_of_archive`); by way
      (`ways`) the mean worth after each trial (`curve`), and after the last over the champion's (`of_champion`) and
      over the archive's (`of_archive`), ratios of means with intervals over damages; and for each of the `damages` its
      name, the champion's worth, and the mean of each way after the last trial.
    """
    last = {way: one[..., -1].mean(1) for way, one in worth.items()}
    ways = {
        way: {
            "curve": one.mean((0, 1)).tolist(),
            "of_champion": estimate(Ratio(last[way], champion)).as_json(),
            "of_archive": estimate(Ratio(last[way], last[ARCHIVE])).as_json(),
        }
        for way, one in worth.items()
    }
    return {
        "trials": worth[ARCHIVE].shape[-1],
        CHAMPION: float(champion.mean()),
        "champion_of_archive": float(champion.mean() / last[ARCHIVE].mean()),
        "ways": ways,
        "damages": [
            {"name": name, CHAMPION: float(champion[i]), **{way: float(one[i]) for way, one in last.items()}}
            for i, name in enumerate(names)
        ],
    }
