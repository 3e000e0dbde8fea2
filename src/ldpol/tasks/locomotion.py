"""The five Brax robots: an environment, contacts of its feet as measures, a torso and a skeleton to draw."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ldpol.errors import UserError, meant
from ldpol.lanes import batch_last
from ldpol.tasks.task import Skeleton, Task, TaskState, Torso
from ldpol.types import Array, Key

BACKENDS = ("spring", "positional", "generalized")


@contextlib.contextmanager
def _quiet_import() -> Iterator[None]:
    """Brax and MuJoCo announce optional packages they lack; that is noise to our users."""
    import io

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


with _quiet_import():
    from brax import envs, math
    from brax.envs.base import PipelineEnv, State


class TaskSpec(NamedTuple):
    """What distinguishes one task: where its feet are and how fitness is shifted."""

    brax_name: str
    feet: tuple[str, ...]
    """Geometry names in the MuJoCo model; one measure each."""
    measure_names: tuple[str, ...]
    offset_per_step: float
    """Added per step of the full episode to a fitness before QD scores, so that they stay positive."""
    sides: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """The two sides that its feet pair up on, by name, each with the numbers of its feet; empty without pairs."""


SPECS: dict[str, TaskSpec] = {
    "walker2d": TaskSpec(
        "walker2d",
        ("foot_geom", "foot_left_geom"),
        ("right foot", "left foot"),
        0.0,
        sides=(("right", (0,)), ("left", (1,))),
    ),
    "hopper": TaskSpec("hopper", ("foot_geom",), ("foot",), 0.0),
    "halfcheetah": TaskSpec(
        "halfcheetah", ("bfoot", "ffoot"), ("back foot", "front foot"), 1.0, sides=(("back", (0,)), ("front", (1,)))
    ),
    "ant": TaskSpec(
        "ant",
        ("left_foot_geom", "right_foot_geom", "third_foot_geom", "fourth_foot_geom"),
        # Named by where they are when it heads along x, as rewarded; the model's own names say otherwise.
        ("front left foot", "back left foot", "back right foot", "front right foot"),
        1.0,
        sides=(("right", (2, 3)), ("left", (0, 1))),
    ),
    "humanoid": TaskSpec(
        "humanoid",
        ("right_foot", "left_foot"),
        ("right foot", "left foot"),
        0.0,
        sides=(("right", (0,)), ("left", (1,))),
    ),
}


def make_task(
    name: str,
    *,
    backend: str = "spring",
    episode_length: int = 500,
    reset_noise: float | None = None,
    terminate: bool = True,
    gravity: float = 1.0,
    friction: float = 1.0,
) -> Task:
    """Build a task by name.

    Args:
      name: one of `SPECS`.
      backend: Brax physics: `spring` (fastest), `positional` or `generalized`.
      episode_length: steps after which an episode is cut off.
      reset_noise: half-width of the uniform noise on the initial state; None keeps Brax's own, 0 makes
        episodes deterministic.
      terminate: whether falling ends an episode (halfcheetah never falls).
      gravity, friction: factors on those of the model.

    Raises:
      UserError: for an unknown task or backend, or a number out of range.
    """
    if name not in SPECS:
        raise UserError(f"unknown task {name!r}{meant(name, SPECS)} (known: {', '.join(SPECS)})")
    if backend not in BACKENDS:
        raise UserError(f"unknown physics backend {backend!r}; choose one of {', '.join(BACKENDS)}")
    if not isinstance(episode_length, int) or episode_length < 1:
        raise UserError(f"episode_length must be at least 1 step and a whole number, found {episode_length!r}")
    if reset_noise is not None and not 0 <= reset_noise < np.inf:
        raise UserError(f"reset_noise must be None (the environment's own), or finite and >= 0, found {reset_noise}")
    if not isinstance(terminate, bool):
        raise UserError(f"terminate must be True or False, found {terminate!r}")
    if not (0 <= gravity < np.inf and 0 <= friction < np.inf):
        raise UserError(f"gravity and friction are factors, finite and >= 0, found {gravity} and {friction}")
    spec = SPECS[name]
    options: dict[str, Any] = {} if reset_noise is None else {"reset_noise_scale": reset_noise}
    if not terminate and name != "halfcheetah":
        options["terminate_when_unhealthy"] = False
    with _quiet_import():
        env: Any = envs.get_environment(spec.brax_name, backend=backend, **options)
    if (gravity, friction) != (1.0, 1.0):
        env.sys = env.sys.replace(gravity=env.sys.gravity * gravity, geom_friction=env.sys.geom_friction * friction)
    touches = _ground_contact(env, spec.feet)
    # `env.observation_size` would play a reset op by op, which takes ten seconds; its shape is enough.
    with jax.numpy_rank_promotion("allow"):
        observation = jax.eval_shape(env.reset, jax.random.key(0)).obs

    def reset(key: Key) -> TaskState:
        with jax.numpy_rank_promotion("allow"):  # Brax does
            state = env.reset(key)
        return TaskState(state.pipeline_state, state.obs, state.reward, state.done)

    def step(state: TaskState, action: Array) -> TaskState:
        before = State(state.physics, state.observation, state.reward, state.done)
        with jax.numpy_rank_promotion("allow"):  # Brax does
            after = env.step(before, jnp.clip(action, -1.0, 1.0))
        # Without termination Brax returns a Python float, which would change the type of a loop's carry.
        return TaskState(after.pipeline_state, after.obs, after.reward, jnp.asarray(after.done, jnp.float32))

    return Task(
        name=name,
        reset=batch_last(reset),
        step=batch_last(step),
        measure=batch_last(lambda state: touches(state.physics)),
        observation_size=observation.shape[-1],
        action_size=int(env.action_size),
        measure_names=spec.measure_names,
        measure_low=(0.0,) * len(spec.feet),
        measure_high=(1.0,) * len(spec.feet),
        episode_length=episode_length,
        fitness_offset=spec.offset_per_step * episode_length,
        dt=float(env.dt),
        backend=backend,
        reset_noise=float(env._reset_noise_scale),
        torso=_torso,
        sides=spec.sides,
        skeleton=_skeleton(env, spec),
        with_physics=lambda gravity, friction: make_task(
            name,
            backend=backend,
            episode_length=episode_length,
            reset_noise=reset_noise,
            terminate=terminate,
            gravity=gravity,
            friction=friction,
        ),
    )


def _skeleton(env: PipelineEnv, spec: TaskSpec) -> Skeleton:
    """All capsules and spheres of the model; the only other shape in these tasks is the ground."""
    model: Any = env.sys.mj_model
    ids = np.flatnonzero(np.isin(model.geom_type, (2, 3)))  # mjGEOM_SPHERE, mjGEOM_CAPSULE
    links = jnp.asarray(model.geom_bodyid[ids] - 1)  # Brax leaves out MuJoCo's world body
    half_length = np.where(model.geom_type[ids] == 3, model.geom_size[ids, 1], 0.0)
    axis = jax.vmap(math.rotate, (None, 0))(jnp.array([0.0, 0.0, 1.0]), jnp.asarray(model.geom_quat[ids]))
    reach = axis * jnp.asarray(half_length)[:, None]
    local = jnp.asarray(model.geom_pos[ids])[:, None] + jnp.stack([-reach, reach], 1)

    def ends(state: TaskState) -> Array:
        pose = state.physics.x
        turn = jax.vmap(jax.vmap(math.rotate, (0, None)))
        return pose.pos[links][:, None] + turn(local, pose.rot[links])

    side = _sides_of_bodies(model, spec)
    return Skeleton(tuple(model.geom_size[ids, 0].tolist()), ends, tuple(side[body] for body in model.geom_bodyid[ids]))


def _sides_of_bodies(model: Any, spec: TaskSpec) -> list[int]:
    """The side of every body of a MuJoCo model, -1 for none.

    What carries only feet of one side is of that side, whatever it is called (the right leg of walker2d has no name of
    its own, and those of the ant's legs mislead); of the rest, arms are known by their names.
    """
    carries: list[set[int]] = [set() for _ in range(model.nbody)]
    for side, (_, feet) in enumerate(spec.sides):
        for foot in feet:
            body = int(model.geom(spec.feet[foot]).bodyid[0])
            while body:  # 0 is the world
                carries[body].add(side)
                body = int(model.body_parentid[body])
    found = []
    for body, sides in enumerate(carries):
        named = {side for side, (name, _) in enumerate(spec.sides) if name in model.body(body).name}
        one = sides or named
        found.append(one.pop() if len(one) == 1 else -1)
    return found


def _torso(state: TaskState) -> Torso:
    """The root link, which is the torso in every task."""
    position, rotation = state.physics.x.pos[0], state.physics.x.rot[0]
    forward = math.rotate(jnp.array([1.0, 0.0, 0.0]), rotation)
    up = math.rotate(jnp.array([0.0, 0.0, 1.0]), rotation)
    return Torso(position, jnp.arctan2(-forward[2], up[2]))


def _ground_contact(env: PipelineEnv, feet: tuple[str, ...]) -> Callable[[Any], Array]:
    """Contact of each foot with the ground z = 0, in closed form from link poses.

    Spring and positional physics keep no contacts in their state unless debugging. The lowest point of a
    capsule with centre c, half-length h along its axis a, and radius r is c_z - h |a_z| - r (a sphere has
    h = 0); the foot touches where that is not above the ground.
    """
    model: Any = env.sys.mj_model
    ids = [model.geom(foot).id for foot in feet]
    links = jnp.asarray(model.geom_bodyid[ids] - 1)  # Brax leaves out MuJoCo's world body
    centre = jnp.asarray(model.geom_pos[ids])
    axis = jax.vmap(math.rotate, (None, 0))(jnp.array([0.0, 0.0, 1.0]), jnp.asarray(model.geom_quat[ids]))
    radius = jnp.asarray(model.geom_size[ids, 0])
    is_capsule = model.geom_type[ids] == 3  # mjGEOM_CAPSULE; the others are spheres
    half_length = jnp.asarray(np.where(is_capsule, model.geom_size[ids, 1], 0.0))

    def touches(physics: Any) -> Array:
        rotate = jax.vmap(math.rotate)
        rotation = physics.x.rot[links]
        centre_z = physics.x.pos[links, 2] + rotate(centre, rotation)[:, 2]
        lowest = centre_z - half_length * jnp.abs(rotate(axis, rotation)[:, 2]) - radius
        return (lowest <= 0.0).astype(jnp.float32)

    return touches
