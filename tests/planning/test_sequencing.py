import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import HIGH, SPEED, make_toy, push

from ldpol.networks import MLP
from ldpol.planning.choosing import around, best_candidate, first, from_archive, from_generator, look_ahead
from ldpol.planning.sequencing import (
    Choice,
    NextRequest,
    SegmentScore,
    draw_sequences,
    play_segment,
    play_sequence,
    play_sequences,
    segment_steps,
    trace_sequence,
)
from ldpol.rollout import rollout
from ldpol.tasks import make_task

START = (0.0, 0.0)
SWITCHING = jnp.array([[0.5, 0.25], [-1.0, 0.5], [0.25, -1.0], [1.0, 0.0]])
"""Four actions for 5 steps each; the last one is lethal in its third step."""


def given(key, wanted, state, next_request):
    """A choice that was made before: the request is the policy."""
    return Choice(wanted, jnp.zeros((), jnp.int32))


def step_by_hand(x, y, action):
    x = max(x + SPEED * min(max(action[0], -1.0), 1.0), -1.0)
    return x, min(max(y + SPEED * min(max(action[1], -1.0), 1.0), -1.0), 1.0)


def segment_by_hand(x, y, alive, action, steps, settle, until=None):
    """One segment in plain floats: `(fitness, measures, lived, survived), x, y`."""
    fitness, seen, lived = 0.0, [], 0
    for t in range(steps):
        if alive:
            x, y = step_by_hand(x, y, action)
            fitness, lived, alive = fitness + y, lived + 1, x < 1.0
            if settle <= t < (until or steps):
                seen.append((x > HIGH, y > HIGH))
    return (fitness, np.mean(seen, 0) if seen else np.full(2, np.nan), lived, alive), x, y


def sequence_by_hand(actions, steps, settle, start=START):
    (x, y), alive, rows = start, True, []
    for action in np.asarray(actions):
        row, x, y = segment_by_hand(x, y, alive, action, steps, settle)
        alive = row[3]
        rows.append(row)
    return rows


def check(score, rows):
    np.testing.assert_allclose(score.segments.fitness, [row[0] for row in rows], atol=1e-6)
    np.testing.assert_allclose(score.segments.measures, [row[1] for row in rows], atol=1e-6)
    np.testing.assert_array_equal(score.segments.lived, [row[2] for row in rows])
    np.testing.assert_array_equal(score.segments.survived, [row[3] for row in rows])
    np.testing.assert_allclose(score.fitness, sum(row[0] for row in rows), atol=1e-6)
    assert score.length == sum(row[2] for row in rows)


def same(one, other, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **({"rtol": 0} | tolerance)), one, other)


@pytest.mark.parametrize("settle", [0, 2, 4])
def test_episode_by_hand(settle):
    task = make_toy()
    score = play_sequence(task, push, given, SWITCHING, jax.random.key(0), settle=settle)
    check(score, sequence_by_hand(SWITCHING, 5, settle))


def test_what_an_early_death_leaves():
    """Death in step 4, the third of the first segment with 10: nothing later is reached, only measures are NaN."""
    task, actions = make_toy(), jnp.array([[1.0, 0.5], [-1.0, 0.0]])
    score = play_sequence(task, push, given, actions, jax.random.key(0), settle=4)
    check(score, sequence_by_hand(actions, 10, 4))
    assert score.segments.lived.tolist() == [4, 0] and score.segments.survived.tolist() == [False, False]
    assert np.isnan(score.segments.measures).all() and np.isfinite(score.fitness)


def test_flat_scan_is_the_same():
    """A second implementation: one scan over all steps, parameters indexed by step // segment."""
    task = make_toy(noise=0.2, episode_length=24, width=9.0)
    wanted = jax.random.uniform(jax.random.key(1), (6, 2), minval=-1.0)

    def flat(key):
        def body(state, t):
            state = task.step(state, push(wanted[t // 4], state.observation))
            return state, (state.reward, task.measure(state))

        _, (rewards, measures) = jax.lax.scan(body, task.reset(jax.random.split(key)[0]), jnp.arange(24))
        return rewards.sum(), measures.reshape(6, 4, 2)[:, 1:].mean(1)

    key = jax.random.key(2)
    score = play_sequence(task, push, given, wanted, key, settle=1)
    fitness, measures = flat(key)
    np.testing.assert_allclose(score.fitness, fitness, rtol=1e-5)
    np.testing.assert_allclose(score.segments.measures, measures, atol=1e-6)


def test_traces_are_what_the_score_sums():
    """An episode that ends in step 7 of 20: measures by hand, 0 afterwards, where physics is NaN; the same score."""
    task, key = make_toy(), jax.random.key(0)
    actions = jnp.array([[0.5, 0.5], [1.0, 0.5], [0.0, 0.0], [0.0, 0.0]])
    score, trace = trace_sequence(task, push, given, actions, key, settle=2)
    same(score, play_sequence(task, push, given, actions, key, settle=2), atol=0, equal_nan=True)
    (x, y), rows = START, []
    for action in np.repeat(np.asarray(actions), 5, 0)[:7]:
        assert x < 1.0
        x, y = step_by_hand(x, y, action)
        rows.append((x > HIGH, y > HIGH))
    assert x >= 1.0  # the toy dies here
    np.testing.assert_array_equal(trace.measures, np.r_[np.array(rows, float), np.zeros((13, 2))])
    np.testing.assert_array_equal(trace.alive, np.arange(20) < 7)
    assert trace.alive.sum() == score.length


@pytest.mark.parametrize("action", [(0.25, 0.5), (-1.0, -0.5), (0.1, 1.0)])
def test_one_segment_is_a_rollout(action):
    task, key = make_toy(noise=0.2), jax.random.key(3)
    score = play_sequence(task, push, given, jnp.array([action]), key, settle=0)
    whole = rollout(task, push, jnp.array(action), jax.random.split(key)[0])
    np.testing.assert_allclose(score.fitness, whole.fitness, rtol=1e-6)
    np.testing.assert_allclose(score.segments.measures[0], whole.measures, rtol=1e-6)
    assert score.length == whole.length


def test_steps_of_a_segment():
    task = make_toy(episode_length=20)
    assert segment_steps(task, 4) == 5 and segment_steps(task, 1, 19) == 20
    for count in (0, 3, 40):
        with pytest.raises(ValueError, match="equal segments"):
            segment_steps(task, count)
    for settle in (-1, 5):
        with pytest.raises(ValueError, match="less than the 5 steps"):
            segment_steps(task, 4, settle)


@pytest.mark.parametrize("spread", [False, True], ids=["one device", "two devices"])
@pytest.mark.parametrize("lanes", [4, 64])
def test_many_episodes_are_a_loop(mesh, lanes, spread):
    """Any number of lanes and devices; also values that are traced outside and only captured by the choice."""
    task, episodes = make_toy(noise=0.3), 3
    wanted, keys = jax.random.uniform(jax.random.key(4), (6, 4, 2), minval=-1.0), jax.random.split(jax.random.key(5), 6)

    def choice(gain):
        return lambda key, wanted, state, next_request: Choice(gain * wanted, jnp.zeros((), jnp.int32))

    def play(wanted, keys, gain):
        arguments = {"episodes": episodes, "settle": 1, "lanes": lanes, "mesh": mesh if spread else None}
        return play_sequences(task, push, choice(gain), wanted, keys, **arguments)

    found = jax.jit(play)(wanted, keys, 0.5)
    one = jax.jit(lambda w, k: play_sequence(task, push, choice(0.5), w, k, settle=1))
    for s in range(6):
        for e in range(episodes):
            expected = one(wanted[s], jax.random.fold_in(keys[s], e))
            same(jax.tree.map(lambda leaf: leaf[s, e], found), expected, atol=1e-5)  # noqa: B023


def test_bad_batches(mesh):
    task, keys = make_toy(), jax.random.split(jax.random.key(0), 3)
    for change, message in (
        ({"requests": jnp.zeros((2, 4, 2))}, "3 keys for sequences"),
        ({"episodes": 0}, "at least 1"),
        ({"lanes": 0}, "at least 1"),
        ({"mesh": mesh}, "split evenly"),
    ):
        arguments = {"requests": jnp.zeros((3, 4, 2)), "episodes": 1, "settle": 0} | change
        with pytest.raises(ValueError, match=message):
            play_sequences(task, push, given, keys=keys, **arguments)


def test_drawn_sequences_are_rows_without_repetition():
    measures = jax.random.uniform(jax.random.key(0), (7, 2))
    drawn = np.asarray(draw_sequences(jax.random.key(1), measures, 50, 4))
    rows = {tuple(row): i for i, row in enumerate(np.asarray(measures).tolist())}
    indices = np.array([[rows[tuple(m)] for m in sequence] for sequence in drawn.tolist()])
    assert drawn.shape == (50, 4, 2) and set(indices.ravel()) == set(range(7))
    assert all(len(set(sequence)) == 4 for sequence in indices)
    with pytest.raises(ValueError, match="8 different conditions from 7"):
        draw_sequences(jax.random.key(1), measures, 50, 8)


def test_nearest_elites():
    policies, measures = {"w": jnp.arange(4.0)}, jnp.array([[0.0, 0.0], [1.0, 0.0], [0.2, 0.9], [1.0, 0.0]])
    propose = lambda n: from_archive(policies, measures, n)  # noqa: E731
    key, near = jax.random.key(0), jnp.array([0.8, 0.1])
    assert first(propose(1))(key, near, None, None).policy["w"] == 1.0  # of equals the first
    assert propose(4)(key, near)["w"].tolist() == [1.0, 3.0, 0.0, 2.0]
    assert propose(1)(key, jnp.array([jnp.nan, 0.6]))["w"].tolist() == [2.0]  # a free measure asks nothing
    for count in (0, 5):
        with pytest.raises(ValueError, match=f"{count} elites of an archive of 4"):
            propose(count)


def test_candidates_around_what_is_wanted():
    """The first asks for it exactly, with the key of `from_generator`; the others for more or less, within bounds.

    Each is as far away as a normal of standard deviation 0.2 u of the range, u uniform: 0.2 / sqrt(3) over all.
    """
    sample = lambda key, wanted, quality: (wanted, jax.random.uniform(key), quality)  # noqa: E731
    low, high, wanted = (0.0, -8.0), (1.0, 8.0), jnp.array([0.5, jnp.nan])
    propose = jax.jit(around(sample, 4000, 0.2, 0.6, low, high))
    asked, drawn, rank = propose(jax.random.key(0), wanted)
    plain = from_generator(lambda key, wanted: sample(key, wanted, jnp.nan), 4000)
    np.testing.assert_array_equal(drawn, plain(jax.random.key(0), wanted)[1])
    assert np.isnan(rank[0]) and rank[1:].min() >= 0.6 and rank[1:].max() <= 1.0
    assert float(rank[1:].mean()) == pytest.approx(0.8, abs=0.01)
    assert abs(np.corrcoef(rank[1:], np.abs(asked[1:, 0] - 0.5))[0, 1]) < 0.05  # how far says nothing of how fit
    assert asked[0, 0] == 0.5 and np.isnan(asked[:, 1]).all()
    assert float(asked[1:, 0].std()) == pytest.approx(0.2 / np.sqrt(3), rel=0.1)
    assert float(asked[1:, 0].mean()) == pytest.approx(0.5, abs=0.01)
    at_the_edge, *_ = propose(jax.random.key(0), jnp.array([0.0, 8.0]))
    assert at_the_edge.min() >= -8.0 and at_the_edge[:, 0].min() == 0.0 and at_the_edge[:, 1].max() == 8.0
    assert at_the_edge[:, 1].min() < 6.0  # away in proportion to the range
    exactly, *_ = around(sample, 3, 0.0, 0.0, low, high)(jax.random.key(0), wanted)
    np.testing.assert_array_equal(exactly[:, 0], 0.5)
    for count, spread, quality in ((0, 0.1, 0.0), (1, -0.1, 0.0), (1, 0.1, 1.5)):
        with pytest.raises(ValueError, match=r"at least 1 candidate, a spread >= 0 and a quality in \[0, 1\]"):
            around(sample, count, spread, quality, low, high)


def test_candidates_of_any_number_begin_alike():
    sample = lambda key, wanted: wanted + jax.random.normal(key, (2,))  # noqa: E731
    key, wanted = jax.random.key(0), jnp.array([1.0, 2.0])
    eight = from_generator(sample, 8)(key, wanted)
    np.testing.assert_array_equal(from_generator(sample, 3)(key, wanted), eight[:3])
    assert len(np.unique(eight[:, 0])) == 8
    with pytest.raises(ValueError, match="at least 1 candidate"):
        from_generator(sample, 0)


def scores(fitness, measures, lived, survived):
    return SegmentScore(jnp.array(fitness), jnp.array(measures), jnp.array(lived), jnp.array(survived))


NAN = float("nan")


@pytest.mark.parametrize(
    ("rows", "tolerance", "best"),
    [
        # (fitness, distance of the first measure from 0.5, lived, survived)
        ([(9.0, 0.0, 9, False), (1.0, 0.4, 10, True)], 0.0, 1),  # survival before closeness and reward
        ([(9.0, 0.0, 10, False), (1.0, 0.4, 10, True)], 0.0, 1),  # also when the fall is in the last step
        ([(9.0, 0.3, 10, True), (1.0, 0.1, 10, True)], 0.0, 1),  # closeness before reward
        ([(9.0, 0.13, 10, True), (1.0, 0.11, 10, True)], 0.1, 0),  # unless both are as close
        ([(1.0, 0.1, 10, True), (2.0, 0.1, 10, True)], 0.0, 1),  # then reward
        ([(2.0, 0.15, 10, True), (2.0, -0.15, 10, True)], 0.1, 0),  # then the first
        ([(9.0, 0.0, 3, False), (1.0, 0.4, 7, False)], 0.0, 1),  # of those that fall, the last to fall
        ([(9.0, NAN, 3, False), (1.0, 0.4, 3, False)], 0.0, 1),  # never measured is far away
        ([(NAN, 0.1, 10, True), (1.0, 0.1, 10, True)], 0.0, 1),  # a reward that is no number is no reward
    ],
)
def test_rating(rows, tolerance, best):
    fitness, away, lived, survived = zip(*rows, strict=True)
    measures = [[0.5 + a, 0.25] for a in away]
    target = jnp.array([0.5, 0.25])
    assert best_candidate(scores(fitness, measures, lived, survived), target, tolerance) == best
    order = [1, 0]
    turned = scores(*([column[i] for i in order] for column in (fitness, measures, lived, survived)))
    if rows[0][0] != rows[1][0]:  # no tie
        assert best_candidate(turned, target, tolerance) == order[best]


def test_a_free_measure_does_not_rate():
    two = scores([1.0, 2.0], [[0.5, 0.0], [0.4, 0.9]], [5, 5], [True, True])
    assert best_candidate(two, jnp.array([0.5, jnp.nan])) == 0
    assert best_candidate(two, jnp.array([jnp.nan, jnp.nan])) == 1


def rank_by_hand(x, y, action, steps, settle, horizon, target):
    (fitness, measures, lived, survived), *_ = segment_by_hand(x, y, True, action, horizon, settle, min(steps, horizon))
    away = np.inf if np.isnan(measures).any() else np.linalg.norm(measures - target)
    return (not survived, -lived, np.float32(away), -fitness)


@pytest.mark.parametrize("horizon", [None, 3, 8])
def test_look_ahead_takes_the_best_candidate(horizon):
    """Each choice against all candidates played by hand from the same state; then the episode it leads to."""
    steps, settle, n = 5, 1, 6
    task = make_toy()
    choose = look_ahead(
        *(task, push, lambda key, wanted: wanted["candidates"]),
        **{"steps": steps, "settle": settle, "horizon": horizon, "target": lambda wanted: wanted["target"]},
    )
    play = jax.jit(lambda wanted: play_sequence(task, push, choose, wanted, jax.random.key(0), settle=settle))
    passed_over = 0
    for seed in range(8):
        random = np.random.default_rng(seed)
        # Eighths, so that float32 and Python's floats agree exactly.
        candidates = random.integers(-8, 9, (4, n, 2)) / 8.0
        targets = random.integers(0, 5, (4, 2)) / 4.0
        chosen, (x, y), alive = [], START, True
        for k in range(4):
            ranks = [rank_by_hand(x, y, a, steps, settle, horizon or steps, targets[k]) for a in candidates[k]]
            best = min(range(n), key=ranks.__getitem__)
            passed_over += best != 0
            chosen.append(candidates[k, best])
            if alive:
                row, x, y = segment_by_hand(x, y, alive, chosen[-1], steps, settle)
                alive = row[3]
        rows = sequence_by_hand(chosen, steps, settle)
        score = play({"candidates": jnp.array(candidates), "target": jnp.array(targets)})
        check(score, rows)
        assert score.look_ahead == n * (horizon or steps) * sum(row[2] > 0 for row in rows)
    assert passed_over > 10


def test_a_long_horizon_sees_the_fall_after_the_segment():
    """Both candidates survive 5 steps; the one nearer to its target cannot be stopped from falling one step later."""
    task = make_toy(width=1.0)
    candidates = jnp.array([[[0.75, 0.0], [0.25, 0.0]]])
    state = task.reset(jax.random.key(0))
    wanted = {"candidates": candidates[0], "target": jnp.array([0.6, 0.0])}

    def pick(horizon, follow=None, then=0.0, comes=True):
        choose = look_ahead(
            *(task, push, lambda key, wanted: wanted["candidates"]),
            **{"steps": 5, "settle": 0, "horizon": horizon, "target": lambda wanted: wanted["target"]},
            follow=follow,
        )
        next_request = NextRequest(jax.random.key(1), jnp.array([[then, 0.0]]), jnp.array(comes))
        return choose(jax.random.key(0), wanted, state, next_request).policy[0]

    assert pick(5) == 0.75 and pick(6) == 0.25
    # What the next request is answered with takes over: it turns back in time, or does not; or nothing comes.
    follow = lambda key, wanted: wanted  # noqa: E731
    assert pick(6, follow, -1.0) == 0.75 and pick(6, follow, 1.0) == 0.25 and pick(6, follow, 1.0, False) == 0.75
    assert pick(5, follow, 1.0) == 0.75


@pytest.mark.parametrize(("horizon", "settle"), [(2, 2), (0, 0), (8, 5), (5, -1)])
def test_a_look_ahead_that_measures_nothing(horizon, settle):
    with pytest.raises(ValueError, match="measures nothing"):
        look_ahead(make_toy(), push, None, steps=5, settle=settle, horizon=horizon)  # type: ignore[arg-type]


def test_one_candidate_is_the_blind_sample():
    """Bit by bit and for free; candidates that are all alike change nothing but the cost."""
    task, wanted, keys = make_toy(noise=0.3), jnp.full((3, 4, 2), 0.5), jax.random.split(jax.random.key(1), 3)
    sample = lambda key, wanted: wanted + 0.5 * jax.random.normal(key, (2,))  # noqa: E731

    def play(choose):
        return jax.jit(lambda w, k: play_sequences(task, push, choose, w, k, episodes=5, settle=1))(wanted, keys)

    def ahead(propose):
        return look_ahead(task, push, propose, steps=5, settle=1)

    blind = play(first(from_generator(sample, 1)))
    same(play(ahead(from_generator(sample, 1))), blind, atol=0)
    assert (blind.look_ahead == 0).all() and len(np.unique(blind.fitness)) == 15
    alike = play(ahead(lambda key, wanted: jnp.tile(from_generator(sample, 1)(key, wanted), (3, 1))))
    same(alike.segments, blind.segments, atol=1e-6)
    np.testing.assert_array_equal(alike.look_ahead, 3 * 5 * np.asarray(alike.segments.lived > 0).sum(-1))


@pytest.mark.slow
def test_walker_looks_ahead():
    """Real physics: what the look-ahead foresees is what happens, and it costs what it says."""
    task, settle, n = make_task("walker2d", episode_length=50), 5, 3
    shape = MLP(task.observation_size, task.action_size, (8,))
    sample = lambda key, wanted: jax.tree.map(lambda leaf: 2.0 * leaf, shape.init(key))  # noqa: E731
    propose = from_generator(sample, n)
    steps = segment_steps(task, 2, settle)
    wanted, keys = jnp.full((2, 2, 2), 0.5), jax.random.split(jax.random.key(0), 2)
    ahead = look_ahead(task, shape.apply, propose, steps=steps, settle=settle)
    score = jax.jit(lambda w, k: play_sequences(task, shape.apply, ahead, w, k, episodes=3, settle=settle))(
        wanted, keys
    )
    assert score.segments.measures.shape == (2, 3, 2, 2)
    np.testing.assert_array_equal(score.look_ahead, n * steps * (score.segments.lived > 0).sum(-1))
    assert np.isfinite(score.fitness).all()

    def first_segment(key):
        reset_key, choice_key = jax.random.split(key)
        state = task.reset(reset_key)
        choice_key = jax.random.split(choice_key, 2)[0]
        play = lambda p: play_segment(task, shape.apply, p, state, True, steps=steps, window=(settle, steps))[0]  # noqa: E731
        return jax.vmap(play)(propose(choice_key, wanted[0, 0]))

    candidates = jax.jit(first_segment)(jax.random.fold_in(keys[0], 0))
    best = int(best_candidate(candidates, wanted[0, 0]))
    one = jax.tree.map(lambda leaf: leaf[best], candidates)
    found = jax.tree.map(lambda leaf: leaf[0, 0, 0], score.segments)
    assert found.lived == one.lived and found.survived == one.survived
    np.testing.assert_allclose(found.measures, one.measures, atol=0.15)
