"""`python -m ldpol.sample --model FILE --text "walk slowly" --out policy`: one policy, and a film of it.

What it writes loads in three lines:

    from ldpol.sample import load_policy
    params, shape, about = load_policy("policy")
    action = shape.apply(params, observation)
"""

import argparse
import math
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldpol.errors import UserError

if TYPE_CHECKING:
    from ldpol.archive import Archive
    from ldpol.generator import PolicyGenerator
    from ldpol.networks import Network
    from ldpol.tasks import Task

KIND = "policy"
EPILOG = """\
example:
  python -m ldpol.sample --model runs/demo/model --measures 0.2,0.7 --out policy
  python -m ldpol.sample --model runs/demo/model --text "hop on the left leg, fast" --out hopper

writes the file `policy` (numbers and a description, no code) and `policy.html`, which opens offline. To load it:
  from ldpol.sample import load_policy
  params, shape, about = load_policy("policy")
  action = shape.apply(params, observation)
"""


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m ldpol.sample",
        description="Sample one policy that behaves as asked, play it, and film it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--model", type=Path, required=True, metavar="FILE", help="what the train stage wrote")
    parser.add_argument("--measures", metavar="X,Y", help="one number a measure; nan leaves it free")
    parser.add_argument("--text", metavar="SENTENCE", help="what it should do, in English")
    parser.add_argument("--quality", type=float, metavar="Q", help="quantile of the archive's fitness, 0 to 1")
    parser.add_argument("--out", type=Path, required=True, metavar="PATH", help="file of the policy; also PATH.html")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another policy (default: 0)")
    parser.add_argument("--diffusion", action="store_true", help="draw anew, though the model has verified draws")
    parser.add_argument("--guidance", type=float, help="of diffusion: strength of the condition (default: the model's)")
    parser.add_argument("--steps", type=int, help="of diffusion: sampling steps (default: the model's)")
    parser.add_argument("--episodes", type=int, default=10, help="to measure it with (default: 10)")
    options = parser.parse_args(arguments)
    if options.measures is None and options.text is None and options.quality is None:
        parser.error("say what to sample: --measures, --text or --quality, or several of them")
    return options


def numbers(text: str) -> list[float]:
    """Read numbers separated by commas.

    Raises:
      ValueError: if one is not a number.
    """
    values = []
    for part in text.split(","):
        try:
            values.append(float(part))
        except ValueError as error:
            raise UserError(
                f"--measures takes numbers separated by commas, nan for a free one, found {part.strip()!r} in {text!r}"
            ) from error
    return values


def check(model: "PolicyGenerator", measures: list[float], options: argparse.Namespace) -> None:
    """Raise `ValueError` for what cannot be asked for, before anything is compiled."""
    from ldpol.model.diffusion import STRONGEST

    names = ", ".join(model.measure_names)
    if len(measures) != len(model.measure_names):
        raise UserError(
            f"this model of {model.task} takes {len(model.measure_names)} measures ({names}), found {len(measures)}; "
            "give one number each, nan to leave one free"
        )
    model.condition(measures, quality=options.quality)  # type: ignore[arg-type]
    set_by_hand = not (options.guidance is None and options.steps is None)
    if set_by_hand and model.bank is not None and not options.diffusion:
        raise UserError(
            f"--guidance and --steps are of diffusion, but this model answers from its {len(model.bank)} verified "
            "draws; add --diffusion, or leave them out"
        )
    for name, value, least in (("episodes", options.episodes, 1), ("steps", options.steps, 1)):
        if value is not None and value < least:
            raise UserError(f"--{name} must be at least {least}, found {value}")
    if options.guidance is not None and not abs(options.guidance) <= STRONGEST:
        raise UserError(f"--guidance must be a number of at most {STRONGEST:g}, found {options.guidance:g}")
    if not 0 <= options.seed < 2**32:
        raise UserError(f"--seed must be from 0 to {2**32 - 1}, found {options.seed}")


def page_of(out: Path) -> Path:
    """Return where the film of the policy `out` goes."""
    return out.with_name(f"{out.name}.html")


def check_out(out: Path) -> None:
    """Raise `ValueError` or `OSError` unless policy and film can be written, over nothing but an earlier one's."""
    from ldpol import storage
    from ldpol.report.animation import MARK

    page = page_of(out)
    for path in (out, page):
        storage.check_writable(path)
    if storage.exists(out):
        try:
            storage.load(out, kind=KIND)
        except ValueError as error:
            raise UserError(f"--out {out} exists and is not a saved policy ({error}); choose another name") from error
    if page.exists():
        with page.open("rb") as stream:
            if MARK.encode() not in stream.read(1000):
                raise UserError(f"{page} exists and is not a film of this command; choose another --out")


def make_task(model: "PolicyGenerator | Archive") -> "Task":
    """Build the task that an archive, or a model's archive, was collected on.

    Raises:
      UserError: if it is somebody's own.
    """
    from ldpol import tasks

    if model.task not in tasks.SPECS:
        raise UserError(
            f"this is of task {model.task!r}, which ldpol cannot build: act on your own environment with "
            "ldpol.load(path), generator.sample and generator.apply"
        )
    known = ("backend", "episode_length", "reset_noise")
    return tasks.make_task(model.task, **{name: value for name, value in model.settings if name in known})


def run(options: argparse.Namespace) -> str:
    """Sample, play, write; returns what to tell the user.

    Raises:
      FileNotFoundError: if there is no model.
      ValueError: for what cannot be asked for.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from ldpol import generator_file, session, storage
    from ldpol.film import film as film_of
    from ldpol.language.understanding import describe_understanding
    from ldpol.report.animation import render_animation
    from ldpol.report.filmstrip import encode_film

    check_out(options.out)
    model = generator_file.load(options.model)
    free = [math.nan] * len(model.measure_names)
    measures = free if options.measures is None else numbers(options.measures)
    check(model, measures, options)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        text = None if options.text is None else model.read([options.text])[0]
    for one in heard:
        session.say(f"sample: {one.message}")
    task = make_task(model)
    sample_key, play_key = jax.random.split(jax.random.key(options.seed))
    target = jnp.asarray(measures, jnp.float32)
    if text is not None and options.guidance is None:
        options.guidance = model.text_guidance
    guidance = model.guidance if options.guidance is None else options.guidance
    verified = model.bank is not None and not options.diffusion
    how = {name: value for name in ("quality", "guidance", "steps") if (value := getattr(options, name)) is not None}

    @jax.jit
    def draw(model: Any, key: Any, target: Any, text: Any) -> Any:
        return model.sample_with_source(key, target, text=text, verified=verified, **how)

    @jax.jit
    def play(policy: Any, keys: Any) -> Any:
        scores, films = jax.vmap(lambda key: film_of(task, model.apply, policy, key))(keys)
        return scores, jax.tree.map(lambda leaf: leaf[0], films)

    with session.working(f"sample: playing {options.episodes} episodes of {task.name}"):
        policy, source = draw(model, sample_key, target, text)
        scores, shown = jax.tree.map(np.asarray, play(policy, jax.random.split(play_key, options.episodes)))
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(policy)):
        raise UserError(f"the sampled policy is not finite: guidance {guidance:g} is too strong for this model")
    spread = {name: (getattr(scores, name).mean(0), getattr(scores, name).std(0)) for name in ("measures", "fitness")}
    about = {
        "task": task.name,
        "settings": dict(model.settings),
        "shape": model.shape.to_json(),
        "measure_names": list(model.measure_names),
        "asked": [None if math.isnan(value) else value for value in measures],
        "text": options.text,
        "quality": options.quality,
        "reached": spread["measures"][0].tolist(),
        "fitness": float(spread["fitness"][0]),
        "episodes": options.episodes,
        "seed": options.seed,
        "verified": verified,
    }
    if not verified:
        about |= {"guidance": guidance, "steps": model.steps if options.steps is None else options.steps}
    storage.save(options.out, policy, kind=KIND, about=about)
    lines = {}
    if text is not None and model.language is not None:
        lines |= {"text": options.text, "read as": describe_understanding(model.language.claims, np.asarray(text))}
    if options.quality is not None:
        lines["quality"] = f"{options.quality:g} of the archive's fitness asked for"
    lines |= {
        "asked": _listed(model.measure_names, [("free" if math.isnan(v) else f"{v:.3f}") for v in measures]),
        "reached": _listed(
            model.measure_names, [f"{m:.3f} ± {s:.3f}" for m, s in zip(*spread["measures"], strict=True)]
        ),
        "fitness": f"{spread['fitness'][0]:.1f} ± {spread['fitness'][1]:.1f} over {options.episodes} episodes",
        "source": f"a verified draw; the nearest of {len(model.bank)} lies {float(source.distance):.3f} away"
        if model.bank is not None and verified
        else "diffusion",
        "length": f"{scores.length.mean():.0f} of {task.episode_length} steps",
    }
    lived = max(int(shown.alive.sum()), 1)
    film = encode_film(
        shown.ends[:lived],
        shown.measures[:lived],
        shown.rewards[:lived],
        radii=task.skeleton.radii if task.skeleton else (),
        sides=task.skeleton.sides if task.skeleton else (),
        dt=task.dt,
    )
    page = render_animation(
        f"{task.name}: a sampled policy",
        film,
        names=model.measure_names,
        low=model.grid.low,
        high=model.grid.high,
        asked=measures,
        facts=lines | {"seed": str(options.seed), "shown": "the first episode; drag to turn"},
    )
    html = page_of(options.out)
    storage.write_bytes(html, page.encode())
    return "\n".join(
        [*(f"{name:8} {text}" for name, text in lines.items()), f"policy   {options.out}\nfilm     {html}"]
    )


def _listed(names: tuple[str, ...], values: list[str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True))


def load_policy(path: Path | str) -> "tuple[Any, Network, dict[str, Any]]":
    """Read a policy that this command wrote; never executes anything from the file.

    Returns:
      Its parameters, its architecture (`shape.apply(params, observation)` acts), and what was asked for and reached.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if it is damaged, of another kind, or no sound policy.
    """
    from ldpol import networks, storage
    from ldpol.archive import check_policies

    params, about = storage.load(path, kind=KIND)
    try:
        network = networks.from_json(about["shape"])
        check_policies(params, network)
        networks.check_finite(params)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} lacks something or has something unknown: {error}") from error
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    return params, network, about


def main(arguments: list[str] | None = None) -> int:
    """Sample one policy; errors a user can mend are one line on stderr and exit code 2."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    # Imported late, so that --help and a wrong command line answer at once.
    from ldpol import session, storage

    try:
        session.start_jax()
        with storage.lock(options.out.with_name(f".{options.out.name}.lock"), str(options.out)):
            print(run(options))
    except (UserError, OSError) as error:
        print(f"\nsample: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
