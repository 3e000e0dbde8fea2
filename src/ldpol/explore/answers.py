"""Wishes to answers of the page: films, numbers, what was understood, as JSON values."""

import io
import json
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from ldpol.errors import UserError
from ldpol.explore import programs
from ldpol.explore.requests import DRAWS, Request, RequestError, WishList, as_json, free
from ldpol.explore.source import map_of, plain
from ldpol.explore.stage import Stage
from ldpol.generator import PolicyGenerator
from ldpol.language.claims import satisfied
from ldpol.language.understanding import describe_understanding
from ldpol.model.answering import Source
from ldpol.report.animation import render_animation
from ldpol.traits import columns
from ldpol.types import Params

FAINT = 0.2
"""Claims less probable than this are not worth mentioning."""
EXAMPLES = (
    "walk slowly",
    "hop on the left leg, fast",
    "run as fast as possible",
    "walk with many steps, leaning forward",
    "hop on the right leg",
    "move backwards",
    "stand still",
    "walk, leaning backwards",
    "run with the body held high",
    "move forward slowly, with the body held low",
)


def facts(stage: Stage) -> dict[str, Any]:
    """Return what the page must know."""
    model, task = stage.model, stage.task
    found: dict[str, Any] = {
        "task": task.name,
        "map": map_of(stage.arrays),
        "playable": stage.rows.tolist(),
        "sides": [name for name, _ in task.sides],
        "feet": [next((i for i, (_, feet) in enumerate(task.sides) if m in feet), -1) for m in range(task.measures)],
        "segment": programs.segment_length(task) * task.dt,
        "model": None,
    }
    if model is not None:
        found["model"] = {
            "steps": model.steps,
            "guidance": model.guidance,
            "text_guidance": model.text_guidance,
            "speaks": stage.limits.speaks,
            "bytes": model.nbytes,
            "verified": 0 if model.bank is None else len(model.bank),
            "diffuses": bool(model.denoiser),
        }
    return found


def examples(stage: Stage) -> list[str]:
    """Return sentences that this model understands, every word of them."""
    if not stage.limits.speaks:
        return []
    found = []
    for text in EXAMPLES:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                heard = stage.read(text)
            except (UserError, UserWarning):
                continue
        if heard.max(initial=0.0) > 0.5:
            found.append(text)
    return found[:8]


def draw(stage: Stage, request: Request) -> tuple[dict[str, Any], Params]:
    """Film `DRAWS` samples and the nearest elite; the `DRAWS + 1` nearest elites where there is no model.

    Returns:
      The answer, and the policies of its films.
    """
    wish, heard, notes = request.wish, None, []
    cast: list[dict[str, Any]] = []
    parts: list[Params] = []
    wanted = np.asarray(free(wish.measures))
    if stage.model is not None:
        if wish.text:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                heard = stage.read(wish.text)
            notes = [str(one.message) for one in caught]
        asked = stage.asked(wish, heard, request.guidance)
        drawn, source = stage.draw(request.seed, asked, request.steps, request.verified)
        parts.append(drawn)
        cast += [{"role": "generated", "verified": bool(one)} for one in source.verified]
        notes += _far(stage.model, source)
        wanted = _aim(stage, wanted, drawn)
    if len(stage.rows):
        places = stage.nearest(wanted, 1 if stage.model is not None else DRAWS + 1)
        parts.append(jax.tree.map(lambda leaf: leaf[places], stage.elites))
        cast += [{"role": "elite"} | _known(stage, int(place)) for place in places]
    policies = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    answer = {
        "request": {
            "wish": as_json(wish),
            "seed": request.seed,
            "guidance": request.guidance,
            "steps": request.steps,
            "verified": request.verified,
        },
        "films": _films(stage, policies, cast),
        "understood": _understood(stage, heard),
        "notes": notes,
    }
    return answer, policies


def _far(model: PolicyGenerator, source: Source) -> list[str]:
    """Say so if no verified draw comes to within a diagonal of a cell of what is asked for."""
    away = float(source.distance.min())
    if not source.verified.any() or away <= np.linalg.norm(model.grid.sides):
        return []
    return [f"No verified draw does this; the nearest misses it by {away:.2f}."]


def _aim(stage: Stage, wanted: NDArray[Any], drawn: Params) -> NDArray[Any]:
    """What the elite beside some policies shall do: what was asked for and, where that is free, what the first did."""
    if not np.isnan(wanted).any():
        return wanted
    scores, _ = stage.shoot(jax.tree.map(lambda leaf: leaf[_rows(len(leaf))], drawn))
    return np.where(np.isnan(wanted), scores.measures[0], wanted)


def _rows(count: int) -> NDArray[Any]:
    """Those of `count` policies to film, with repeats of the last: another number would be another program."""
    return np.minimum(np.arange(DRAWS + 1), count - 1)


def _films(stage: Stage, policies: Params, cast: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    scores, shots = stage.shoot(jax.tree.map(lambda leaf: leaf[_rows(len(cast))], policies))
    return [
        one
        | {
            "film": stage.encode(jax.tree.map(lambda leaf: leaf[i], shots)),  # noqa: B023
            "reached": plain(scores.measures[i]),
            "fitness": plain(scores.fitness[i]),
            "fell": bool(scores.length[i] < stage.task.episode_length),
        }
        for i, one in enumerate(cast)
    ]


def _known(stage: Stage, place: int) -> dict[str, Any]:
    """What is known of an elite that can be played."""
    row = int(stage.rows[place])
    known = {"measures": plain(stage.measures[place]), "fitness": plain(stage.known("fitness")[row])}
    return {"row": row, "known": known}


def _understood(stage: Stage, heard: NDArray[Any] | None) -> list[dict[str, Any]]:
    """The claims that a sentence may make, the most probable first."""
    if heard is None or stage.model is None or stage.model.language is None:
        return []
    claims = stage.model.language.claims
    return [
        {"claim": int(i), "text": describe_understanding([claims[i]], [1.0]), "probability": plain(heard[i])}
        for i in np.argsort(-heard)
        if heard[i] >= FAINT
    ]


def numbers(stage: Stage, answer: dict[str, Any], policies: Params, which: int) -> dict[str, Any]:
    """Say what a policy of an answer reaches in ten episodes, and which of the claims understood hold."""
    policy = _row(answer, policies, which)
    score, behaviour = stage.judge(policy)
    found = {
        "which": which,
        "episodes": programs.EPISODES,
        "mean": plain(score.measures.mean(0)),
        "spread": plain(score.measures.std(0)),
        "fitness": [plain(score.fitness.mean()), plain(score.fitness.std())],
        "fell": int((score.length < stage.task.episode_length).sum()),
        "traits": [],
        "holds": [],
    }
    if len(behaviour):
        told = columns(stage.task)
        found["traits"] = [
            [column.name, plain(value), "" if column.unit == "1" else column.unit]
            for column, value in zip(told, behaviour, strict=True)
        ]
        if stage.model is not None and stage.model.language is not None:
            claims = [stage.model.language.claims[one["claim"]] for one in answer["understood"]]
            found["holds"] = satisfied(claims, [column.name for column in told], behaviour).tolist()
    return found


def policy_file(stage: Stage, answer: dict[str, Any], policies: Params, which: int) -> bytes:
    """Return a policy of an answer as an npz file: an array a parameter, and `about`, JSON."""
    policy = _row(answer, policies, which)
    arrays = {"/".join(str(step.key) for step in place): leaf for place, leaf in jax.tree.leaves_with_path(policy)}
    about = {"task": stage.task.name, "model": stage.source.name, "film": which, "request": answer["request"]}
    buffer = io.BytesIO()
    np.savez(buffer, about=np.asarray(json.dumps(about)), **arrays)
    return buffer.getvalue()


def film_page(stage: Stage, answer: dict[str, Any], which: int) -> bytes:
    """Return a film of an answer as a page of its own, which opens offline."""
    _check(answer, which)
    one, wish = answer["films"][which], answer["request"]["wish"]
    facts = {"from": stage.source.name, "who": f"draw {which + 1} of seed {answer['request']['seed']}"}
    facts |= {"who": "elite"} if one["role"] == "elite" else {}
    facts |= {"sentence": wish["text"]} if wish["text"] else {}
    grid = map_of(stage.arrays)
    page = render_animation(
        f"{stage.task.name}: {'a sampled policy' if one['role'] == 'generated' else 'an elite'}",
        one["film"],
        names=grid["names"],
        low=grid["low"],
        high=grid["high"],
        asked=free(wish["measures"]),
        facts=facts,
    )
    return page.encode()


def _row(answer: dict[str, Any], policies: Params, which: int) -> Params:
    _check(answer, which)
    return jax.tree.map(lambda leaf: np.asarray(leaf[which]), policies)


def _check(answer: dict[str, Any], which: int) -> None:
    count = len(answer["films"])
    if not 0 <= which < count:
        raise RequestError(f"there are {count} films, counted from 0; found {which}")


def sequence(stage: Stage, wanted: WishList) -> dict[str, Any]:
    """Film one episode of several wishes in each of the ways: blind samples, nearest elites, best of several samples.

    Raises:
      RequestError: without a model.
    """
    if stage.model is None:
        raise RequestError("a sequence needs a model; this is an archive alone")
    wishes = [stage.asked(wish, stage.read(wish.text) if wish.text else None) for wish in wanted.wishes]
    keys = jax.random.split(jax.random.key(wanted.seed), len(wishes))
    ways = stage.ways
    states = jax.tree.map(lambda leaf: np.stack([leaf] * len(ways)), stage.reset())
    alive, shown = np.ones(len(ways), bool), []
    for i, asked in enumerate(wishes):
        comes, after = np.asarray(i + 1 < len(wishes)), min(i + 1, len(wishes) - 1)
        now = jax.tree.map(lambda leaf: leaf[-1], states)
        chosen = stage.choose(keys[i], asked, now, (keys[after], wishes[after], comes))
        drawn, _ = stage.draw(wanted.seed + i, asked)
        cast = {"blind": jax.tree.map(lambda leaf: leaf[0], drawn), "best": chosen}
        if "nearest" in ways:
            place = stage.nearest(_aim(stage, np.asarray(free(wanted.wishes[i].measures)), drawn))[0]
            cast["nearest"] = jax.tree.map(lambda leaf: leaf[place], stage.elites)  # noqa: B023
        policies = jax.tree.map(lambda *leaves: np.stack(leaves), *(cast[way] for way in ways))
        states, alive, shots = stage.segment(policies, states, alive)
        shown.append(shots)
    return {"ways": [_judged(stage, way, j, shown) for j, way in enumerate(ways)]}


def _judged(stage: Stage, way: str, place: int, shown: Sequence[Any]) -> dict[str, Any]:
    """The film of one way through a sequence, and what each segment reached once it had settled."""
    parts = [jax.tree.map(lambda leaf: leaf[place], shots) for shots in shown]
    settle = round(programs.SETTLE * programs.segment_length(stage.task))
    reached = []
    for part in parts:
        counts = part.alive & (np.arange(len(part.alive)) >= settle)
        reached.append(plain(part.measures[counts].mean(0)) if counts.any() else None)
    whole = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    return {"way": way, "film": stage.encode(whole), "reached": reached, "lived": int(whole.alive.sum())}
