"""Ask for behaviours, sample one policy each, play it: condition to score in one program."""

from collections.abc import Callable
from functools import partial

import jax
from jax.sharding import Mesh

from ldpol.generator import PolicyGenerator
from ldpol.rollout import RolloutConfig, evaluate
from ldpol.tasks import Task
from ldpol.traits import behave, observe
from ldpol.types import Array, Behaviour, Key, Params, PyTree


def sample_policies(sample: Callable[[Key, PyTree], Params], requests: PyTree, keys: Key) -> Params:
    """Sample one policy a request, independently of the episodes that `score_policies` plays with the same keys.

    Args:
      sample: `(key, request) -> one policy`, such as `PolicyGenerator.sample`.
      requests: leading axis N on every leaf, for instance measures `[N, M]`.
      keys: `[N]`.

    Returns:
      N policies, leading axis on every leaf.
    """
    return jax.vmap(sample)(_split(keys)[0], requests)


def score_generated(
    generator: PolicyGenerator,
    task: Task,
    measures: Array,
    keys: Key,
    *,
    episodes: int,
    config: RolloutConfig = RolloutConfig(),
    mesh: Mesh | None = None,
) -> Behaviour:
    """Sample one policy a condition and play it.

    Args:
      generator: the model.
      task: where to play.
      measures: `[N, M]` what is asked for, in task units.
      keys: `[N]`.
      episodes: episodes a policy, with keys of their own.
      config: lanes and block length.
      mesh: devices that share the N policies.

    Returns:
      Mean `Behaviour` `[N]`.
    """
    policies = sample_policies(generator.sample, measures, keys)
    return score_policies(task, generator.apply, policies, keys, episodes=episodes, config=config, mesh=mesh)


def score_policies(
    task: Task,
    apply: Callable[[Params, Array], Array],
    policies: Params,
    keys: Key,
    *,
    episodes: int,
    config: RolloutConfig = RolloutConfig(),
    mesh: Mesh | None = None,
) -> Behaviour:
    """Play given policies as `score_generated` plays sampled ones; mean `Behaviour` `[N]`."""
    _, play_keys = _split(keys)
    score, record = evaluate(
        task, apply, policies, play_keys, episodes=episodes, config=config, mesh=mesh, recorder=observe(task)
    )
    return jax.vmap(partial(behave, task))(score, record)


def _split(keys: Key) -> tuple[Key, Key]:
    pairs = jax.vmap(jax.random.split)(keys)
    return pairs[:, 0], pairs[:, 1]
