"""Clone one measure-conditioned policy: the collected states and the rounds of DAgger that the autoencoder has."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ldpol import session, storage
from ldpol.baselines import cloned
from ldpol.baselines.cloned import Cloned, ClonedConfig
from ldpol.distillation.dataset import Dataset, add_states, normaliser
from ldpol.experiments import configs
from ldpol.experiments.keeping import check_equal
from ldpol.experiments.study.ground import Ground
from ldpol.experiments.study.plan import Row
from ldpol.rollout import evaluate, keep_states, over_chunks, policy_mesh
from ldpol.train_loop import OptimiserConfig, TrainState, scan_steps
from ldpol.types import Array, Key, PyTree

Play = Callable[[Cloned, PyTree, Key], PyTree]


def run(ground: Ground, row: Row, data: Dataset) -> tuple[Cloned, float]:
    """Train the clone of a row, or read what its parent or an earlier run left; and the seconds that took.

    Args:
      ground: the archive.
      row: sizes and steps.
      data: what was collected from the elites, with room for the states of the rounds.

    Raises:
      UserError: if what lies there was made with other settings.
    """
    path = ground.folder / row.training / "clone"
    about = {"settings": row.about()["settings"], "archive": ground.identity}
    about |= configs.as_json(ground.config, "seed", "task", "policy", "train")
    config, _ = _sizes(ground, row)
    if storage.exists(path):
        arrays, found = storage.load(path, kind="clone")
        seconds = found.pop("seconds")
        check_equal(found, about, path)
        arrays = jax.tree.map(jnp.asarray, arrays)
        return Cloned(**arrays, config=config, action_size=ground.task.action_size, grid=ground.archive.grid), seconds
    timer = session.Timer()
    model = _train(ground, row, data)
    seconds = timer.seconds
    arrays = {"params": model.params, "centre": model.centre, "spread": model.spread}
    storage.save(path, arrays, kind="clone", about=about | {"seconds": seconds})
    return model, seconds


def _sizes(ground: Ground, row: Row) -> tuple[ClonedConfig, OptimiserConfig]:
    """Return the settings of the policy and its descent: those of the autoencoder but for sizes, steps and rate."""
    own, training = row.settings, configs.distill_of(ground.config).autoencoder
    sizes = {name: own[name] for name in ("hidden", "embedding", "octaves", "joint")}
    drawn = {name: getattr(training.loss, name) for name in ("policies", "states", "noise")}
    return ClonedConfig(**sizes, **drawn), replace(training.optimiser, steps=own["steps"], rate=own["rate"])


def _train(ground: Ground, row: Row, data: Dataset) -> Cloned:
    """Train the policy; between rounds it plays, and the elites say what they would do where it went."""
    section = ground.config.train
    config, descent = _sizes(ground, row)
    init_key, train_key, dagger_key = jax.random.split(ground.key("clone"), 3)
    normal = normaliser(data)
    state = jax.jit(partial(cloned.start, config, descent))(data, init_key)

    @partial(jax.jit, static_argnames="steps", donate_argnums=0)
    def loop(state: TrainState, key: Key, data: Dataset, steps: int) -> tuple[TrainState, dict[str, Array]]:
        return scan_steps(lambda s, k: cloned.step(config, descent, data, normal, s, k), state, key, steps)

    state, rounds, done = jax.tree.map(jnp.copy, state), section.autoencoder.dagger_rounds, 0
    play = _player(ground)
    with session.bar(f"study: cloning {row.name}", descent.steps, unit="step") as bar:
        for number in range(rounds + 1):
            bound = descent.steps * (number + 1) // (rounds + 1)
            while done < bound:
                steps = min(section.steps_per_call, bound - done)
                state, metrics = loop(state, train_key, data, steps)
                done += steps
                bar.set_postfix_str(f"loss {float(metrics['loss']):.4f}", False)
                bar.update(steps)
            if number < rounds:
                model = cloned.finish(ground.archive.grid, data, normal, config, state)
                data = _round(ground, model, data, jax.random.fold_in(dagger_key, number), play, config.noise)
    return cloned.finish(ground.archive.grid, data, normal, config, state)


def _player(ground: Ground) -> Play:
    """Return the compiled program that plays styles of a policy and keeps the states they visit."""
    collect = ground.config.train.collect
    recorder = keep_states(ground.task, collect.states)
    device = configs.rollout_of(ground.config)

    @jax.jit
    def play(model: Cloned, styles: PyTree, keys: Key) -> PyTree:
        how = {"episodes": collect.episodes, "config": device, "mesh": policy_mesh(), "recorder": recorder}
        return evaluate(ground.task, partial(cloned.apply, model), styles, keys, **how)

    return play


def _round(ground: Ground, model: Cloned, data: Dataset, key: Key, play: Play, noise: float) -> Dataset:
    """Add the states that the policy visits and what the elites would do there (Ross et al. 2011)."""
    trained, config = ground.trained, ground.config
    label_key, play_key = jax.random.split(key)
    places = data.measures + noise * jax.random.normal(label_key, data.measures.shape)
    wanted = trained.grid.unscaled(places)
    styles = jax.jit(jax.vmap(partial(cloned.generate, model, play_key)))(wanted)
    with session.progress("study: rollouts of the clone", len(trained)) as done:
        _, (states, _) = over_chunks(
            partial(play, model), styles, play_key, size=config.rollout.chunk, mesh=policy_mesh(), done=done
        )
    states = states.reshape(len(trained), -1, ground.task.observation_size)
    act = jax.jit(jax.vmap(lambda params, seen: trained.shape.apply(params, seen)))
    return add_states(data, states, np.asarray(act(trained.policies, states)))
