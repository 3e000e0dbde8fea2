"""Rollout speed and memory of every task, against QDax's scorer and against a plain `vmap` of the environment's step.

Programs over the same policies and episode length take turns, all of them split over all devices unless they say so:

  ldpol          `ldpol.rollout.rollout_batch` with its defaults: on a CPU, lanes last
  ldpol, vmap    the same queue with lanes first, 64 of them
  qdax, sharded  QDax's own scorer (`scoring_function_brax_envs`): a vmap over 256 policies of a scan that stores every
                 transition, the policies split over all devices by hand
  qdax           the same as QDax runs it: one program on the default device, with XLA's threads (walker2d alone)
  vmap, N lanes  a scan of a vmapped `step` under constant random actions, without policies, at N lanes per device
  lanes last     the same through `lanes_last`, at the lanes that rollouts take: an upper bound

"Full" counts every step of episodes that a fall does not end. "Useful" counts the steps until the fall of random
policies: what a search gets out of them. QDax's scorer plays on after a fall, so both come from the same run of it.
"""

import itertools
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from common import Program, Target, build, finish, measure, parser, say, start, table
from jax.sharding import Mesh, PartitionSpec

from ldpol.lanes import lanes_last
from ldpol.networks import MLP
from ldpol.rollout import RolloutConfig, copied_to, policy_mesh, rollout_batch, split_over
from ldpol.tasks import SPECS, Task, TaskState, make_task
from ldpol.types import Array, Key, Params, PyTree, Score

LENGTHS = (250, 1000)  # of the episodes whose memory is compared
VMAP_LANES = (64, 128)
FLOORS = {"walker2d": 2.6, "ant": 2.6, "humanoid": 2.6, "halfcheetah": 2.6, "hopper": 2.3}
"""What rollouts must reach, as multiples of the best plain vmap of `step`."""


def plain(task: Task) -> Task:
    """Return the task with functions that `jax.vmap` maps as it maps any other."""
    original = lambda function: function.__wrapped__  # noqa: E731
    return task.replace(reset=original(task.reset), step=original(task.step), measure=original(task.measure))


def with_falls(task: Task, falls: Array) -> Task:
    """Let a fall end an episode only where `falls` is 1: one program plays full and ordinary episodes."""

    def step(state: TaskState, action: Array) -> TaskState:
        state = task.step(state, action)
        return state.replace(done=state.done * falls)

    return task.replace(step=step)


def ours(task: Task, shape: MLP, config: RolloutConfig, mesh: Mesh, falls: Array, policies: Params, keys: Key) -> Score:
    """Play one episode of each policy as the library does."""
    return rollout_batch(with_falls(task, falls), shape.apply, policies, keys, config=config, mesh=mesh)


def qdax_score(task: Task, shape: MLP, policies: Params, key: Key) -> PyTree:
    """Call QDax's scorer with a step function like its own, on our task's physics and foot contacts.

    Cheaper than QDax's own environments: no automatic reset and no episode statistics.
    """
    from qdax.core.neuroevolution.buffers.buffer import QDTransition
    from qdax.tasks.brax.descriptor_extractors import get_feet_contact_proportion
    from qdax.tasks.brax.v2.env_creators import scoring_function_brax_envs

    State = tuple[TaskState, Array, Array]

    def reset(key: Key) -> State:
        state = task.reset(key)
        return state, task.measure(state), jnp.zeros(())

    def play_step(carry: State, params: Params, key: Key) -> tuple[State, Params, Key, QDTransition]:
        state, feet, steps = carry
        action = shape.apply(params, state.observation)
        after = task.step(state, action)
        steps = steps + 1
        over = (steps >= task.episode_length).astype(jnp.float32)
        feet_after = task.measure(after)
        transition = QDTransition(
            obs=state.observation,
            next_obs=after.observation,
            rewards=after.reward,
            dones=jnp.maximum(after.done, over),
            actions=action,
            truncations=over * (1.0 - after.done),
            state_desc=feet,
            next_state_desc=feet_after,
        )
        return (after, feet_after, steps), params, key, transition

    return scoring_function_brax_envs(
        policies,
        key,
        episode_length=task.episode_length,
        play_reset_fn=reset,
        play_step_fn=play_step,
        descriptor_extractor=get_feet_contact_proportion,
    )


def qdax_lived(scored: PyTree) -> float:
    """Return the steps before each episode's end in what QDax's scorer returned, summed."""
    from qdax.tasks.brax.v2.env_creators import get_mask_from_transitions

    return float((1.0 - get_mask_from_transitions(scored[2]["transitions"])).sum())


def split(mesh: Mesh, function: Any) -> Any:
    """Run a function of arrays with leading axis N, and keys, on every device's share."""
    spec = PartitionSpec("policies")
    return jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)


def bare(task: Task, last: bool, keys: Key) -> tuple[Array, Array]:
    """Step the physics under constant random actions; sums of rewards, so that nothing is optimised away."""
    axis, each = (-1, lanes_last) if last else (0, jax.vmap)

    def begin(key: Key) -> tuple[TaskState, Array]:
        reset_key, action_key = jax.random.split(key)
        return task.reset(reset_key), jax.random.uniform(action_key, (task.action_size,), minval=-1.0, maxval=1.0)

    def step(state: TaskState, total: Array, action: Array) -> tuple[TaskState, Array]:
        state = task.step(state, action)
        return state, total + state.reward

    def body(carry: tuple[TaskState, Array], _: None) -> tuple[tuple[TaskState, Array], None]:
        return each(step)(*carry, actions), None

    states, actions = each(begin)(keys)
    (state, total), _ = jax.lax.scan(body, (states, jnp.zeros(keys.shape)), None, length=task.episode_length)
    return total, jnp.moveaxis(state.observation, axis, 0)


def compare(name: str, quick: bool) -> dict[str, Any]:
    """Measure one task; returns rates, ratios, compile times and memory."""
    mesh = policy_mesh()
    devices = mesh.size
    length, count, batch, repeats = (50, 64, 32, 1) if quick else (250, 1024, 256, 3)
    task = make_task(name, episode_length=length)
    unaided = plain(task)
    shape = MLP(task.observation_size, task.action_size, (64, 64))
    init_key, play_key = jax.random.split(jax.random.key(0))
    policies = jax.jit(jax.vmap(shape.init))(jax.random.split(init_key, count))
    keys = jax.random.split(play_key, count)
    spread, first = split_over(mesh), jax.devices()[0]
    batches = []
    for begin in range(0, count, batch):
        some = jax.tree.map(lambda leaf: leaf[begin : begin + batch], policies)  # noqa: B023
        batches.append(jax.device_put((some, keys[begin]), first))
    some = jax.device_put((batches[0][0], keys[:devices]), spread)
    policies, keys = jax.device_put((policies, keys), spread)
    never, always = jax.device_put((jnp.zeros(()), jnp.ones(())), copied_to(mesh))
    programs: dict[str, Program] = {}
    runs: dict[str, Any] = {}
    scores: dict[str, list[PyTree]] = {"full": [], "useful": [], "qdax": []}

    def add(program: str, function: Any, *inputs: Any, on: int = devices) -> Program:
        programs[program] = build(function, *inputs, devices=on)
        made = programs[program]
        say(f"{name}, {program}: traced in {made.lower_seconds:.1f} s, compiled in {made.compile_seconds:.1f} s")
        return made

    def kept(what: str, program: Program, *inputs: Any) -> PyTree:
        scores[what].append(program.run(*inputs))
        return scores[what][-1]

    def start_lanes(lanes: int) -> Key:
        return jax.device_put(jax.random.split(play_key, lanes * devices), spread)

    ldpol = add("ldpol", partial(ours, task, shape, RolloutConfig(), mesh), never, policies, keys)
    runs["ldpol, full"] = lambda: kept("full", ldpol, never, policies, keys)
    runs["ldpol, useful"] = lambda: kept("useful", ldpol, always, policies, keys)
    score = partial(qdax_score, unaided, shape)
    sharded = add("qdax, sharded", split(mesh, lambda p, k: score(p, k[0])), *some)
    runs["qdax, sharded"] = lambda: kept("qdax", sharded, *some)
    lanes = {f"vmap, {count} lanes": start_lanes(count) for count in VMAP_LANES}
    lanes["lanes last"] = start_lanes(RolloutConfig().on(first.platform).lanes)
    for what, starts in lanes.items():
        last = what == "lanes last"
        program = add(what, split(mesh, partial(bare, task if last else unaided, last)), starts)
        runs[what] = lambda program=program, starts=starts: program.run(starts)
    if name == "walker2d":
        old = partial(ours, unaided, shape, RolloutConfig(lanes=64, layout="first"), mesh)
        lanes_first = add("ldpol, vmap", old, never, policies, keys)
        runs["ldpol, vmap"] = lambda: lanes_first.run(never, policies, keys)
        qdax = add("qdax", score, *batches[0], on=1)
        turn = itertools.cycle(batches)
        runs["qdax"] = lambda: qdax.run(*next(turn))
    say(f"{name}: running")
    seconds = measure(runs, repeats)
    shortest = float(scores["full"][-1].length.min())
    if shortest != length:
        raise RuntimeError(f"an episode without falls ended after {shortest:.0f} of {length} steps")
    lived = float(scores["useful"][-1].length.sum())
    share = qdax_lived(scores["qdax"][-1]) / (batch * length)
    speed: dict[str, dict[str, float]] = {
        "ldpol": {"full": count * length / seconds["ldpol, full"].best, "useful": lived / seconds["ldpol, useful"].best}
    }
    for program in ("qdax, sharded", "qdax"):
        if program in seconds:
            executed = batch * length / seconds[program].best
            speed[program] = {"full": executed, "useful": share * executed}
    for program, starts in lanes.items():
        speed[program] = {"full": starts.size * length / seconds[program].best}
    if "ldpol, vmap" in seconds:
        speed["ldpol, vmap"] = {"full": count * length / seconds["ldpol, vmap"].best}
    ratios = {
        program: {kind: speed["ldpol"][kind] / rate for kind, rate in rates.items()}
        for program, rates in speed.items()
        if program != "ldpol"
    }
    ratios["best vmap"] = {"full": min(ratios[f"vmap, {lanes} lanes"]["full"] for lanes in VMAP_LANES)}
    table(
        f"Environment steps/s, {name}, {devices} devices, episodes of {length} steps "
        f"(random policies live {lived / count:.0f}; in QDax's scorer {share * length:.0f})",
        ("program", "full", "useful", "ldpol/it, full", "ldpol/it, useful", "trace + compile, s"),
        [
            (
                program,
                rates["full"],
                rates.get("useful", "-"),
                ratios.get(program, {}).get("full", "-"),
                ratios.get(program, {}).get("useful", "-"),
                programs[program].lower_seconds + programs[program].compile_seconds,
            )
            for program, rates in speed.items()
        ],
    )
    result = {
        "steps_per_second": speed,
        "ldpol_over": ratios,
        "useful_share": {"ldpol": lived / (count * length), "qdax": share},
        "seconds": {program: value._asdict() for program, value in seconds.items()},
        "programs": {program: made.about() for program, made in programs.items()},
        "settings": {"episode_length": length, "policies": count, "batch": batch, "repeats": repeats},
    }
    if name == "walker2d":
        memory = compare_memory(unaided, task, shape, mesh, (never, *batches[0]), batch)
        table(
            f"Bytes of temporaries and outputs, {batch} policies, by episode length",
            ("program", *(f"{steps} steps" for steps in LENGTHS)),
            [
                (name, *(sizes[str(steps)]["temporaries"] + sizes[str(steps)]["outputs"] for steps in LENGTHS))
                for name, sizes in memory.items()
            ],
        )
        result["memory"] = memory
    return result


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--tasks", default=",".join(FLOORS), help="names separated by commas (default: all)")
    args = arguments.parse_args()
    names = args.tasks.split(",")
    unknown = [name for name in names if name not in SPECS]
    if unknown:
        arguments.error(f"unknown task {', '.join(unknown)}; choose from {', '.join(SPECS)}")
    start()
    found = {name: compare(name, args.quick) for name in names}
    targets = [
        Target(
            f"{name}: over the best plain vmap of step", found[name]["ldpol_over"]["best vmap"]["full"], FLOORS[name]
        )
        for name in names
    ]
    if "walker2d" in found:
        over = found["walker2d"]["ldpol_over"]["qdax, sharded"]["full"]
        targets.insert(0, Target("walker2d, full episodes: over qdax, sharded", over, 2.8))
    finish("rollout", args.out, {"rollout": RolloutConfig().__dict__}, {"tasks": names}, found, targets)


def compare_memory(
    unaided: Task, task: Task, shape: MLP, mesh: Mesh, inputs: PyTree, batch: int
) -> dict[str, dict[str, dict[str, int]]]:
    """Compile our program and QDax's at several episode lengths for their memory alone, side by side."""
    falls, policies, key = inputs
    spread = jax.device_put((policies, jax.random.split(key, batch)), split_over(mesh))

    def one(name: str, steps: int) -> dict[str, int]:
        if name == "ldpol":
            longer = task.replace(episode_length=steps)
            function, given, on = partial(ours, longer, shape, RolloutConfig(), mesh), (falls, *spread), mesh.size
        else:
            function = partial(qdax_score, unaided.replace(episode_length=steps), shape)
            given, on = (policies, key), 1
        program = build(function, *given, devices=on, optimise=False)
        say(f"{name}, {steps} steps: compiled for its memory")
        return program.memory

    with ThreadPoolExecutor(2) as pool:
        found = {(n, steps): pool.submit(one, n, steps) for n in ("ldpol", "qdax") for steps in LENGTHS}
        return {n: {str(steps): found[n, steps].result() for steps in LENGTHS} for n in ("ldpol", "qdax")}


if __name__ == "__main__":
    main()
