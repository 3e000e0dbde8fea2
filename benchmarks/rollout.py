"""Rollout speed and memory against QDax's scorer and against bare physics.

Four programs over the same policies and episode length take turns:

  ldpol          `ldpol.rollout.evaluate` with its defaults, the policies split over all devices
  qdax           QDax's own scorer (`scoring_function_brax_envs`): a vmap over 256 policies of a scan that stores every
                 transition; one program on the default device, with XLA's threads
  qdax, sharded  the same scorer, the policies split over all devices by hand
  physics        a scan of `task.step` under constant random actions, split over all devices: an upper bound

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

from ldpol.experiments import defaults, settings
from ldpol.policy import PolicyShape
from ldpol.rollout import RolloutConfig, copied_to, evaluate, policy_mesh, split_over
from ldpol.tasks import SPECS, Task, TaskState, make_task
from ldpol.types import Array, Key, Params, PyTree, Score

LENGTHS = (250, 1000)  # of the episodes whose memory is compared


def with_falls(task: Task, falls: Array) -> Task:
    """Let a fall end an episode only where `falls` is 1: one program plays full and ordinary episodes."""

    def step(state: TaskState, action: Array) -> TaskState:
        state = task.step(state, action)
        return state.replace(done=state.done * falls)

    return task.replace(step=step)


def ours(
    task: Task, shape: PolicyShape, config: RolloutConfig, mesh: Mesh, falls: Array, policies: Params, keys: Key
) -> Score:
    """Play one episode of each policy as the library does."""
    return evaluate(with_falls(task, falls), shape.apply, policies, keys, config=config, mesh=mesh)


def qdax_score(task: Task, shape: PolicyShape, policies: Params, key: Key) -> PyTree:
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


def bare(task: Task, keys: Key) -> tuple[Array, Array]:
    """Step the physics under constant random actions; sums of rewards, so that nothing is optimised away."""

    def lane(key: Key) -> tuple[Array, Array]:
        reset_key, action_key = jax.random.split(key)
        action = jax.random.uniform(action_key, (task.action_size,), minval=-1.0, maxval=1.0)

        def body(carry: tuple[TaskState, Array], _: None) -> tuple[tuple[TaskState, Array], None]:
            state, total = carry
            state = task.step(state, action)
            return (state, total + state.reward), None

        (state, total), _ = jax.lax.scan(body, (task.reset(reset_key), jnp.zeros(())), None, length=task.episode_length)
        return total, state.observation

    return jax.vmap(lane)(keys)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--task", default="walker2d", choices=list(SPECS))
    args = arguments.parse_args()
    start()
    config = defaults.base(args.task)
    mesh = policy_mesh()
    devices = mesh.size
    rollouts = settings.build(RolloutConfig, config.rollout.device)
    length, count, batch, repeats = (100, 128, 64, 1) if args.quick else (500, 1024, 256, 3)
    task = make_task(args.task, backend=config.task.backend, episode_length=length, reset_noise=config.task.reset_noise)
    shape = PolicyShape(task.observation_size, task.action_size, tuple(config.policy.hidden))
    say(f"{args.task} on {devices} devices: {count} policies {shape.hidden}, episodes of {length} steps")

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
    lanes = jax.device_put(jax.random.split(play_key, rollouts.lanes * devices), spread)
    never, always = jax.device_put((jnp.zeros(()), jnp.ones(())), copied_to(mesh))

    def compiled(name: str, function: Any, *inputs: Any, on: int = 1, optimise: bool = True) -> Program:
        program = build(function, *inputs, devices=on, optimise=optimise)
        say(f"{name}: traced in {program.lower_seconds:.1f} s, compiled in {program.compile_seconds:.1f} s")
        return program

    score = partial(qdax_score, task, shape)
    programs = {
        "ldpol": compiled("ldpol", partial(ours, task, shape, rollouts, mesh), never, policies, keys, on=devices),
        "qdax": compiled("qdax", score, *batches[0]),
        "qdax, sharded": compiled("qdax, sharded", split(mesh, lambda p, k: score(p, k[0])), *some, on=devices),
        "physics": compiled("physics", split(mesh, partial(bare, task)), lanes, on=devices),
    }
    play = {name: program.run for name, program in programs.items()}
    scores: dict[str, list[PyTree]] = {"full": [], "useful": [], "qdax": []}

    def kept(what: str, name: str, *inputs: Any) -> PyTree:
        scores[what].append(play[name](*inputs))
        return scores[what][-1]

    # A warm-up and the repeats take QDax's program through all batches, so that both see the same policies.
    turn = itertools.cycle(batches)
    say("running")
    seconds = measure(
        {
            "ldpol, full": lambda: kept("full", "ldpol", never, policies, keys),
            "ldpol, useful": lambda: kept("useful", "ldpol", always, policies, keys),
            "qdax": lambda: kept("qdax", "qdax", *next(turn)),
            "qdax, sharded": lambda: play["qdax, sharded"](*some),
            "physics": lambda: play["physics"](lanes),
        },
        repeats,
    )
    shortest = float(scores["full"][-1].length.min())
    if shortest != length:
        raise RuntimeError(f"an episode without falls ended after {shortest:.0f} of {length} steps")
    lived = float(scores["useful"][-1].length.sum())
    share = sum(qdax_lived(scored) for scored in scores["qdax"]) / (len(scores["qdax"]) * batch * length)
    speed = {
        "ldpol": {"full": count * length / seconds["ldpol, full"].best, "useful": lived / seconds["ldpol, useful"].best}
    }
    for name in ("qdax", "qdax, sharded"):
        executed = batch * length / seconds[name].best
        speed[name] = {"full": executed, "useful": share * executed}
    speed["physics"] = {"full": lanes.size * length / seconds["physics"].best}
    ratios = {
        name: {kind: speed["ldpol"][kind] / rate for kind, rate in rates.items()}
        for name, rates in speed.items()
        if name != "ldpol"
    }
    table(
        f"Environment steps/s, {args.task}, {devices} devices, episodes of {length} steps "
        f"(random policies live {lived / count:.0f}; in QDax's scorer {share * length:.0f})",
        ("program", "full", "useful", "ldpol/it, full", "ldpol/it, useful", "trace + compile, s"),
        [
            (
                name,
                rates["full"],
                rates.get("useful", "-"),
                ratios.get(name, {}).get("full", "-"),
                ratios.get(name, {}).get("useful", "-"),
                programs[name].lower_seconds + programs[name].compile_seconds,
            )
            for name, rates in speed.items()
        ],
    )
    memory = compare_memory(task, shape, rollouts, mesh, (never, *batches[0]), batch)
    table(
        f"Bytes of temporaries and outputs, {batch} policies, by episode length",
        ("program", *(f"{steps} steps" for steps in LENGTHS)),
        [
            (name, *(sizes[str(steps)]["temporaries"] + sizes[str(steps)]["outputs"] for steps in LENGTHS))
            for name, sizes in memory.items()
        ],
    )
    finish(
        "rollout",
        args.out,
        config,
        {"task": args.task, "episode_length": length, "policies": count, "batch": batch, "repeats": repeats},
        {
            "steps_per_second": speed,
            "ldpol_over": ratios,
            "useful_share": {"ldpol": lived / (count * length), "qdax": share},
            "seconds": {name: value._asdict() for name, value in seconds.items()},
            "programs": {name: program.about() for name, program in programs.items()},
            "memory": memory,
        },
        [
            Target("steps/s of full episodes over qdax", ratios["qdax"]["full"], 2.3),
            Target("steps/s of full episodes over bare physics", ratios["physics"]["full"], 0.9),
        ],
    )


def compare_memory(
    task: Task, shape: PolicyShape, rollouts: RolloutConfig, mesh: Mesh, inputs: PyTree, batch: int
) -> dict[str, dict[str, dict[str, int]]]:
    """Compile our program and QDax's at several episode lengths for their memory alone, side by side."""
    falls, policies, key = inputs
    spread = jax.device_put((policies, jax.random.split(key, batch)), split_over(mesh))

    def one(name: str, steps: int) -> dict[str, int]:
        longer = task.replace(episode_length=steps)
        if name == "ldpol":
            function, given, on = partial(ours, longer, shape, rollouts, mesh), (falls, *spread), mesh.size
        else:
            function, given, on = partial(qdax_score, longer, shape), (policies, key), 1
        program = build(function, *given, devices=on, optimise=False)
        say(f"{name}, {steps} steps: compiled for its memory")
        return program.memory

    with ThreadPoolExecutor(2) as pool:
        found = {(n, steps): pool.submit(one, n, steps) for n in ("ldpol", "qdax") for steps in LENGTHS}
        return {n: {str(steps): found[n, steps].result() for steps in LENGTHS} for n in ("ldpol", "qdax")}


if __name__ == "__main__":
    main()
