"""MuJoCo Playground's WalkerWalk with contacts of its feet as measures; runs where Playground is installed.

pip install playground
python examples/playground_walker.py
"""

import sys

import jax
import jax.numpy as jnp
from own_environment import small

import ldpol
from ldpol.search.config import MapElitesConfig


def make_task(length: int = 200) -> ldpol.Task:
    from mujoco_playground import registry

    env = registry.load("WalkerWalk", config_overrides={"impl": "jax"})
    feet = jnp.array([env.mj_model.geom(name).id for name in ("right_foot", "left_foot")])

    def touches(state):
        """Capsules of half-length 0.1 and radius 0.05: the lowest point of each is at or below the ground."""
        up = jnp.abs(state.data.geom_xmat[feet].reshape(2, 3, 3)[:, 2, 2])
        return (state.data.geom_xpos[feet, 2] - 0.1 * up - 0.05 <= 0.0).astype(jnp.float32)

    names = ("right foot", "left foot")
    how = {"measure_names": names, "low": (0.0, 0.0), "high": (1.0, 1.0), "episode_length": length}
    return ldpol.task_from_env(env, name="WalkerWalk", measure=touches, **how)


def main(steps: int = 2000, iterations: int = 30) -> dict | None:
    try:
        import mujoco_playground  # noqa: F401
    except ImportError:
        print("MuJoCo Playground is not installed; pip install playground", file=sys.stderr)
        return None
    task, keys = make_task(), jax.random.split(jax.random.key(0), 4)
    search = ldpol.SearchConfig("map_elites", 12, iterations, (32, 32), map_elites=MapElitesConfig(batch=64))
    archive = ldpol.search_archive(task, search, key=keys[0])
    archive = ldpol.reevaluate(archive, task, key=keys[1], episodes=2)
    generator = ldpol.distill(archive, task, small(steps), key=keys[2])
    target = archive.measures[int(archive.fitness.argmax())]
    policy = generator.sample(keys[3], target)
    player = ldpol.make_player(task, generator.apply, episodes=2, chunk=1)
    reached = player(jax.tree.map(lambda leaf: leaf[None], policy), keys[3]).score.measures[0]
    print(f"{len(archive)} elites; asked for {target}, the policy's feet touch the ground {reached} of the time")
    return {"elites": len(archive), "reached": reached}


if __name__ == "__main__":
    main()
