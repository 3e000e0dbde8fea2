"""`lanes_last` is `jax.vmap` with the batch axis last: compared with it, function by function and on every task."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import ldpol
from ldpol.lanes import batch_last, lanes_last
from ldpol.lanes.interpreter import RULES
from ldpol.tasks import SPECS

LANES = 5
MATRIX = jnp.arange(12.0).reshape(3, 4) / 7 - 0.6
LONG = jnp.sin(jnp.arange(60.0)).reshape(20, 3)
CUBE = MATRIX.reshape(2, 2, 3)
INDICES = jnp.array([2, 0, 0, 1])


@jax.custom_jvp
def tripled_slope(x):
    return jnp.sin(x)


tripled_slope.defjvp(lambda primals, tangents: (jnp.sin(primals[0]), 3.0 * tangents[0]))


@jax.custom_vjp
def flipped_slope(x, y):
    return x * y


flipped_slope.defvjp(lambda x, y: (x * y, (x, y)), lambda kept, slope: (-slope * kept[1], -slope * kept[0]))


def halve_until_small(x):
    """A loop whose number of steps differs between lanes."""
    return jax.lax.while_loop(lambda c: jnp.abs(c[0]).max() > 0.3, lambda c: (c[0] / 2, c[1] + 1), (x, 0))


def count_to_shared_bound(x):
    """A loop that all lanes leave together, with a counter that no lane changes and that indexes a lane's array."""
    return jax.lax.fori_loop(0, x.shape[0], lambda i, c: c + i * x[i] * x[::-1][i], 0.0)


def scan_with_late_dependence(x):
    """The carry's second part depends on the lane from the second step on, its third never."""

    def step(carry, row):
        a, b, c = carry
        return (a + row, a, c + 1), (b, c, row * c)

    return jax.lax.scan(step, (x[0], jnp.ones(()), jnp.zeros(())), x, reverse=True)


def keyed(x):
    key = jax.random.fold_in(jax.random.key(3), jnp.abs(10 * x[0]).astype(jnp.int32))
    one, other = jax.random.split(key)
    keys = jnp.stack([one, other, key])[jnp.array([1, 2])]
    kept = jnp.where(x[0] > 0, one, other)
    return jax.vmap(jax.random.uniform)(keys), jax.random.normal(kept, (2,)), jax.random.key_data(kept)


SMOOTH = {
    "arithmetic": lambda x: jnp.exp(x) * x[0] - x / 3 + x**2 + jnp.hypot(x, 2.0) + jnp.clip(x, -0.3, x[1] + 1),
    "norm": lambda x: x / (1.0 + jnp.linalg.norm(x)),
    "short sums": lambda x: (x.sum(), jnp.outer(x, x).sum(), jnp.outer(x, x).sum(1), x.mean()),
    "long sums": lambda x: jnp.tile(x, 7).sum(),
    "short products": lambda x: (x @ MATRIX, MATRIX.T @ x, jnp.outer(x, x) @ x, x @ x),
    "products without a sum": lambda x: jnp.einsum("i,jk->kij", x, x[None] * MATRIX.T),
    "batched products": lambda x: jnp.einsum("bij,bkj->bik", x[None, None] * CUBE, x[None, None] ** 2 * CUBE[:, ::-1]),
    "long products": lambda x: ((LONG @ x) @ LONG, LONG.T @ (LONG @ x), jnp.outer(LONG @ x, x).T @ (LONG @ x)),
    "product with several free axes": lambda x: jnp.einsum("ia,jka->jik", jnp.outer(x, x), LONG.reshape(4, 5, 3)),
    "shapes": lambda x: jnp.concatenate([x[::-1], jnp.outer(x, x).T.reshape(-1)[1:7:2], jnp.pad(x, (1, 2))]),
    "padding by a lane's number": lambda x: jax.lax.pad(x, x[0] * 1.0, ((1, 0, 1),)),
    "stack and squeeze": lambda x: jnp.stack([x, jnp.ones(3), x[:, None].squeeze(1)])[1:],
    "gather by shared indices": lambda x: (x[INDICES], jnp.outer(x, x)[INDICES, 1], MATRIX.T[INDICES] @ x),
    "gather by a lane's index": lambda x: (x[jnp.argmax(x)], MATRIX[jnp.argmin(x)], jnp.outer(x, x)[:, jnp.argmax(x)]),
    "scatter by shared indices": lambda x: (jnp.zeros(3).at[INDICES].add(x[INDICES]), jnp.outer(x, x).at[1].set(x)),
    "scatter by a lane's index": lambda x: jnp.zeros(3).at[jnp.argmax(x)].set(x[0]),
    "segments": lambda x: jax.ops.segment_sum(jnp.outer(x, x)[INDICES], INDICES, 4),
    "dynamic slices": lambda x: jax.lax.dynamic_update_slice(
        jnp.tile(x, 2), jax.lax.dynamic_slice(x, (jnp.asarray(1),), (2,)), (jnp.argmax(x),)
    ),
    "sorting": lambda x: (jnp.sort(x), jax.lax.top_k(x, 2)[0]),
    "cumulation": lambda x: (jnp.cumsum(x), jnp.max(x), jax.lax.cummax(x)),
    "select": lambda x: jnp.where(x[0] > 0, x, jnp.where(x > 0.2, 1.0, x * 2)),
    "nested jit and relu": jax.jit(lambda x: jax.nn.relu(x - 0.1) + jax.nn.softplus(x) + jax.jit(jnp.tanh)(x)),
    "nested vmap": lambda x: jax.vmap(lambda row: row @ x + jnp.cross(row, x))(LONG),
    "own batching rule": lambda x: batch_last(lambda x: x * jnp.linalg.norm(x))(x + 1),
    "nested lanes": lambda x: lanes_last(lambda column, x: column @ x, (-1, None))(LONG.T * x[:, None], x),
    "checkpoint": jax.checkpoint(lambda x: jnp.sin(x) * x[0]),
    "custom jvp": lambda x: tripled_slope(2 * x),
    "custom vjp": lambda x: flipped_slope(x, x[::-1]),
    "shared loop": count_to_shared_bound,
    "scan": scan_with_late_dependence,
    "scan without rows": lambda x: jax.lax.scan(lambda c, _: (jnp.cos(c), c.sum()), x, None, length=4),
    "cond on a shared predicate": lambda x: jax.lax.cond(MATRIX.sum() > 0, lambda: (x * 2, 1.0), lambda: (x, 0.0)),
    "cond on a lane's predicate": lambda x: jax.lax.cond(x[0] > 0, lambda x: x * 2, lambda x: jnp.zeros(3), x),
    "switch": lambda x: jax.lax.switch(jnp.argmax(x), [jnp.sin, jnp.cos, lambda x: x * x[0]], x),
    "linear solve": lambda x: jnp.linalg.solve(jnp.outer(x, x) + 2 * jnp.eye(3), x),
    "nothing of a lane": lambda x: (MATRIX, jnp.ones(())),
}  # fmt: skip
NOT_SMOOTH = {
    "loop of different lengths": halve_until_small,
    "integers": lambda x: ((10 * x).astype(jnp.int32) // 3 % 4, jnp.argsort(x)),
    "booleans": lambda x: ((x > 0).all(), ~(x > 0) ^ (x < 0.2)),
    "keys": keyed,
    "complex numbers": lambda x: (jnp.abs(jnp.fft.fft(x)), (x + 1j * x[0]).imag),
}  # fmt: skip


@pytest.fixture(scope="module")
def items():
    return jax.random.normal(jax.random.key(0), (3, LANES))


def assert_same(found, expected, tolerance=1e-5):
    chex_free = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), found, expected)
    assert all(jax.tree.leaves(chex_free)), (jax.tree.map(jnp.shape, found), jax.tree.map(jnp.shape, expected))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), found, expected)


@pytest.mark.parametrize("name", [*SMOOTH, *NOT_SMOOTH])
def test_equals_vmap(name, items):
    function = (SMOOTH | NOT_SMOOTH)[name]
    expected = jax.vmap(function, -1, -1)(items)
    assert_same(lanes_last(function)(items), expected)
    assert_same(jax.jit(lanes_last(function))(items), expected)


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_equal_those_of_vmap(name, items):
    def total(mapped):
        def weighted(x):
            leaves = [leaf for leaf in jax.tree.leaves(mapped(x)) if jnp.issubdtype(leaf.dtype, jnp.floating)]
            return sum((jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape) * leaf).sum() for leaf in leaves)

        return weighted

    function = SMOOTH[name]
    expected = jax.grad(total(jax.vmap(function, -1, -1)))(items)
    assert_same(jax.jit(jax.grad(total(lanes_last(function))))(items), expected, 1e-4)


@pytest.mark.parametrize("name", ["short products", "custom jvp", "scan", "loop of different lengths", "keys"])
def test_maps_again_and_over_devices(name, items, mesh):
    function = (SMOOTH | NOT_SMOOTH)[name]
    several = jnp.stack([items, items[::-1], items * 2, items + 1])
    expected = jax.vmap(jax.vmap(function, -1, -1))(several)
    assert_same(jax.jit(jax.vmap(lanes_last(function)))(several), expected)
    spec = PartitionSpec("policies")
    split = jax.shard_map(jax.vmap(lanes_last(function)), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    assert_same(jax.jit(split)(several), expected)


def test_arguments_may_be_shared_in_part(items):
    function = lambda tree, matrix, nothing: {"out": matrix @ tree["x"] + tree["y"], "nothing": nothing}  # noqa: E731
    tree = {"x": items, "y": MATRIX[0, 0]}
    found = lanes_last(function, ({"x": -1, "y": None}, None, -1))(tree, LONG, None)
    expected = jax.vmap(function, ({"x": -1, "y": None}, None, None), -1)(tree, LONG, None)
    assert_same(found, expected)


def test_a_primitive_without_a_rule_falls_back(items, monkeypatch):
    for name in ("dot_general", "gather", "scan", "reduce_sum"):
        monkeypatch.delitem(RULES, name)
    for name in ("short products", "gather by shared indices", "scan", "short sums"):
        assert_same(lanes_last(SMOOTH[name])(items), jax.vmap(SMOOTH[name], -1, -1)(items))


def test_one_trace_per_call(items):
    traces = []

    def function(x):
        traces.append(1)
        return x * 2

    jax.jit(lanes_last(function))(items)
    assert len(traces) == 1


def test_refuses_arguments_without_a_common_lane_axis(items):
    with pytest.raises(ValueError, match=r"last axis of the same size.*\(3, 5\), \(4,\)"):
        lanes_last(lambda x, y: x[0] + y)(items, jnp.ones(4))
    with pytest.raises(ValueError, match="need a last axis"):
        lanes_last(lambda x: x)(1.0)
    with pytest.raises(ValueError, match="in_axes must be -1"):
        lanes_last(lambda x: x, 0)(items)


@pytest.mark.parametrize("name", ["short products", "nested vmap", "custom jvp", "scan", "keys", "nothing of a lane"])
def test_batch_last_is_invisible(name, items):
    """One item, a batch anywhere, batches of batches, shared arguments, derivatives."""
    plain = (SMOOTH | NOT_SMOOTH)[name]
    function = batch_last(plain)
    several = jnp.stack([items, items * 2])
    assert_same(jax.jit(function)(items[:, 0]), plain(items[:, 0]))
    assert_same(jax.vmap(function, -1, -1)(items), jax.vmap(plain, -1, -1)(items))
    inner, outer = (jax.vmap(jax.vmap(one, -1), 0) for one in (plain, function))
    assert_same(jax.jit(outer)(several), inner(several))
    assert_same(lanes_last(function)(items), lanes_last(plain)(items))
    if name in SMOOTH:
        total = lambda one: lambda x: sum(leaf.sum() for leaf in jax.tree.leaves(jax.vmap(one, -1)(x)))  # noqa: E731
        assert_same(jax.grad(total(function))(items), jax.grad(total(plain))(items), 1e-4)


def test_batch_last_of_arguments_of_which_one_is_shared(items):
    function = batch_last(lambda tree, matrix: matrix @ tree["x"] + tree["y"])
    tree, axes = {"x": items, "y": jnp.ones(())}, ({"x": -1, "y": None}, None)
    expected = LONG @ items + 1
    np.testing.assert_allclose(jax.vmap(function, axes, -1)(tree, LONG), expected, rtol=1e-5, atol=1e-6)


def test_batches_of_batches_are_one_lane_axis():
    function = batch_last(lambda x: jnp.sin(x) * x)
    program = str(jax.make_jaxpr(jax.vmap(jax.vmap(function)))(jnp.ones((3, LANES, 2))))
    assert "f32[2,15] = sin" in program and program.count(" sin ") == 1


@pytest.mark.parametrize("name", SPECS)
def test_physics_equals_vmap(name):
    """Reset and two steps of every task; compiled without optimisation, which takes a fraction of the time."""
    task = ldpol.make_task(name)

    def begin_and_act(key, action):
        start = task.reset(key)
        after = task.step(task.step(start, action), -action)
        return start, after, task.measure(after)

    keys = jax.random.split(jax.random.key(0), LANES)
    actions = jax.random.uniform(jax.random.key(1), (task.action_size, LANES), minval=-1.0)
    found, expected = (
        jax.jit(mapped)
        .lower(keys, actions)
        .compile(compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True})(
            keys, actions
        )
        for mapped in (lanes_last(begin_and_act), jax.vmap(begin_and_act, -1, -1))
    )
    assert_same(found, expected, 1e-3)
