"""The explorer without a browser: requests, answers, what is refused; the toy task stands in for physics."""

import io
import json
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from explored import ELITES, NAMES, SHAPE, drawn, make_model, make_run
from test_generator import with_draws
from test_sample import decoded

from ldpol import archive as archives
from ldpol import models
from ldpol.explore import answers, export, source
from ldpol.explore.__main__ import main, parse
from ldpol.explore.app import LARGEST, assets, create_app, is_loopback, names_of
from ldpol.explore.explorer import Explorer
from ldpol.explore.requests import Limits, Request, RequestError, Wish, parse_request, parse_sequence
from ldpol.explore.stage import Stage
from ldpol.explore.worker import CLIENTS, Busy, Superseded, Worker
from ldpol.rollout import rollout

LIMITS = Limits(("left", "right"), (0.0, 0.0), (1.0, 2.0), True, True)
HOSTS = frozenset({"localhost"})
ASKED = {"wish": {"measures": [0.25, 0.75]}, "seed": 3}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def stage(toy, run):
    return Stage(source.open_model(str(run)))


def wait_for(explorer):
    while not all(explorer.ready.values()):
        assert explorer.trouble is None, explorer.trouble
        time.sleep(0.02)
    return explorer


@pytest.fixture(scope="module")
def client(toy, run):
    explorer = wait_for(Explorer(source.open_model(str(run)), Stage))
    with create_app(explorer, HOSTS).test_client() as client:
        yield client
    explorer.close()


# What may be asked for.


def test_a_request_is_read():
    body = {
        "wish": {"measures": [0.5, None], "text": " walk  on ", "quality": 1},
        "seed": 4,
        "guidance": 2,
        "steps": 8,
        "verified": False,
    }
    assert parse_request(body, LIMITS) == Request(Wish((0.5, None), 1.0, "walk on"), 4, 2.0, 8, False)
    assert parse_request({}, LIMITS) == Request(Wish((None, None)))
    assert len(parse_sequence({"wishes": [{}, {"text": "run"}]}, LIMITS).wishes) == 2


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ([], "must be a JSON object"),
        ({"wish": 3}, "a wish must be a JSON object"),
        ({"path": "/etc/passwd"}, "a request has no path"),
        ({"wish": {"measures": [0.5]}}, "a list of 2: left, right"),
        ({"wish": {"measures": [0.5, 2.5]}}, "right must be a number from 0 to 2, found 2.5"),
        ({"wish": {"measures": [True, 0.5]}}, "left must be a number"),
        ({"wish": {"measures": [float("nan"), 0.5]}}, "left must be a number"),
        ({"wish": {"measures": ["0.5", 0.5]}}, "left must be a number"),
        ({"wish": {"quality": -0.1}}, "the rank of fitness must be"),
        ({"wish": {"text": "a" * 301}}, "at most 300 characters"),
        ({"wish": {"text": 7}}, "at most 300 characters"),
        ({"seed": -1}, "the seed must be a whole number"),
        ({"seed": 2**31 - 4}, "the seed must be a whole number"),
        ({"seed": 1.5}, "the seed must be a whole number"),
        ({"guidance": 1e9}, "guidance must be a number from 0 to 8"),
        ({"steps": 1000}, "steps must be one of 2, 4, 8, 16, 32"),
        ({"steps": True}, "steps must be one of"),
        ({"verified": 1}, "verified must be true or false"),
    ],
)
def test_what_cannot_be_asked_for(body, said):
    with pytest.raises(RequestError, match=said):
        parse_request(body, LIMITS)


def test_an_archive_takes_measures_alone():
    archive = Limits(("left", "right"), (0.0, 0.0), (1.0, 1.0), False, False)
    for wish, said in ({"text": "run"}, "not understood"), ({"quality": 0.5}, "only be asked for measures"):
        with pytest.raises(RequestError, match=said):
            parse_request({"wish": wish}, archive)


@pytest.mark.parametrize("wishes", [None, [], [{}], [{}] * 7, [{}, 3]])
def test_sequences_that_are_refused(wishes):
    with pytest.raises(RequestError):
        parse_sequence({"wishes": wishes}, LIMITS)


# The worker.


def test_the_latest_request_wins():
    gate, done = threading.Event(), []
    worker = Worker(gate.wait)
    first, second, other = (worker.submit(who, lambda n=n: done.append(n)) for n, who in enumerate("aab"))
    gate.set()
    other.result(5)
    assert done == [1, 2] and second.done()
    with pytest.raises(Superseded):
        first.result(5)
    with pytest.raises(ZeroDivisionError):
        worker.submit("a", lambda: 1 / 0).result(5)
    assert worker.submit("a", lambda: 7).result(5) == 7
    worker.close()


def test_the_queue_is_bounded():
    gate = threading.Event()
    worker = Worker(gate.wait)
    futures = [worker.submit(str(n), lambda: 1) for n in range(CLIENTS)]
    with pytest.raises(Busy):
        worker.submit("one more", lambda: 1)
    futures.append(worker.submit("0", lambda: 2))  # in place of its own older one
    gate.set()
    assert [future.result(5) for future in futures[1:]] == [1] * (CLIENTS - 1) + [2]
    worker.close()


# Answers.


def test_films_are_of_the_models_own_samples(stage):
    """What is filmed is what `model.sample_set` gives with the seed on the page, played by `rollout`."""
    request = Request(Wish((0.25, None), 0.5), seed=5, guidance=1.5)
    answer, policies = answers.draw(stage, request)
    assert [one["role"] for one in answer["films"]] == ["generated"] * 4 + ["elite"]
    model, task = make_model(), drawn()
    measures = jnp.array([0.25, jnp.nan])
    drawn_set, _ = jax.jit(lambda key: model.sample_set(key, 4, measures, quality=0.5, guidance=1.5))(jax.random.key(5))
    for i, one in enumerate(answer["films"][:4]):
        expected = jax.tree.map(lambda leaf: leaf[i], drawn_set)  # noqa: B023
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a[i], b, atol=1e-4), policies, expected)  # noqa: B023
        score = rollout(task, model.apply, expected, jax.random.key(0))
        np.testing.assert_allclose(one["reached"], score.measures, atol=1e-3)
        assert one["fell"] == (score.length < task.episode_length) and one["film"]["steps"] == score.length
        assert decoded(one["film"]).shape[0] == 2 * 6 + 1 + 2


def test_a_wish_far_from_all_verified_draws(toy, tmp_path):
    """Cells are .25 wide, their diagonal .35; what is left free is far from nothing."""
    run = make_run(tmp_path)
    with_draws(make_model(), [[0.25, 0.25]] * 4)[0].save(run / "model")
    stage = Stage(source.open_model(str(run)))
    for wish, notes in (
        (Wish((1.0, 0.25)), ["No verified draw does this; the nearest misses it by 0.75."]),
        (Wish((0.5, 0.6)), ["No verified draw does this; the nearest misses it by 0.43."]),
        (Wish((0.25, 0.5)), []),
        (Wish((0.25, None)), []),
    ):
        answer, _ = answers.draw(stage, Request(wish))
        assert answer["notes"] == notes
        assert [one.get("verified") for one in answer["films"]] == [True] * 4 + [None]
    answer, _ = answers.draw(stage, Request(Wish((1.0, 0.25)), verified=False))
    assert answer["notes"] == [] and not any(one["verified"] for one in answer["films"][:4])


def test_the_elite_is_the_nearest(stage):
    answer, _ = answers.draw(stage, Request(Wish((0.5, 0.5))))
    distance = np.linalg.norm(stage.measures - 0.5, axis=1)
    elite = answer["films"][4]
    assert elite["row"] == distance.argmin()
    np.testing.assert_allclose(elite["known"]["measures"], stage.measures[elite["row"]], atol=1e-4)


def test_what_is_free_the_elite_does_as_the_first_draw(stage):
    for wish in (Wish((0.25, None)), Wish((None, None))):
        answer, _ = answers.draw(stage, Request(wish))
        aim = [
            free if one is None else one for one, free in zip(wish.measures, answer["films"][0]["reached"], strict=True)
        ]
        distance = np.linalg.norm(stage.measures - np.asarray(aim), axis=1)
        assert answer["films"][4]["row"] == distance.argmin()


def test_ten_episodes(stage):
    request = Request(Wish((0.25, 0.75)), seed=2)
    answer, policies = answers.draw(stage, request)
    found = answers.numbers(stage, answer, policies, 1)
    policy = jax.tree.map(lambda leaf: leaf[1], policies)
    keys = [jax.random.fold_in(jax.random.key(0), i) for i in range(10)]
    scores = [rollout(drawn(), SHAPE.apply, policy, key) for key in keys]
    measures = np.asarray([score.measures for score in scores])
    np.testing.assert_allclose(found["mean"], measures.mean(0), atol=1e-3)
    np.testing.assert_allclose(found["spread"], measures.std(0), atol=1e-3)
    assert found["fell"] == sum(score.length < 20 for score in scores) and found["episodes"] == 10
    traits = dict((name, value) for name, value, _ in found["traits"])
    np.testing.assert_allclose([traits["left"], traits["right"]], found["mean"], atol=1e-3)


def test_a_sentence(stage):
    answer, policies = answers.draw(stage, Request(Wish((None, None), text="walk slowly on the left leg")))
    claims, told = stage.model.language.claims, answer["understood"]
    heard = np.asarray(stage.model.read(["walk slowly on the left leg"])[0])
    assert {one["claim"] for one in told} == set(np.flatnonzero(heard >= 0.2).tolist())
    assert len(told) >= 2
    assert [one["probability"] for one in told] == sorted((one["probability"] for one in told), reverse=True)
    found = answers.numbers(stage, answer, policies, 0)
    traits = dict((name, value) for name, value, _ in found["traits"])
    for one, holds in zip(told, found["holds"], strict=True):
        claim = claims[one["claim"]]
        assert holds == (claim.low <= traits[claim.trait] < claim.high)


def test_an_archive_alone_shows_its_nearest_elites(toy, run):
    stage = Stage(source.open_archive(str(run)))
    answer, policies = answers.draw(stage, Request(Wish((0.1, 0.2))))
    rows = [one["row"] for one in answer["films"]]
    distance = np.linalg.norm(stage.measures - [0.1, 0.2], axis=1)
    assert rows == np.argsort(distance)[:5].tolist() and {one["role"] for one in answer["films"]} == {"elite"}
    elites = archives.load(run / "archive" / "elites").policies
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[np.asarray(rows)]), policies, elites)
    assert answers.facts(stage)["model"] is None and answers.facts(stage)["map"]["elites"]["stored"]
    anything, _ = answers.draw(stage, Request(Wish((None, None))))
    assert [one["row"] for one in anything["films"]] == np.argsort(-stage.known("fitness"), kind="stable")[:5].tolist()
    with pytest.raises(RequestError, match="needs a model"):
        answers.sequence(stage, parse_sequence({"wishes": [{}, {}]}, stage.limits))


@pytest.mark.parametrize("measures", [1, 4])
def test_other_numbers_of_measures(toy, tmp_path, measures):
    stage = Stage(source.open_model(str(make_run(tmp_path / "run", measures))))
    facts = answers.facts(stage)
    assert facts["map"]["names"] == list(NAMES[:measures]) and not facts["model"]["speaks"]
    answer, policies = answers.draw(stage, Request(Wish((0.5,) * measures)))
    assert len(answer["films"]) == 5 and len(answer["films"][0]["reached"]) == measures
    assert len(answers.numbers(stage, answer, policies, 0)["mean"]) == measures


# The server.


def test_the_page_and_its_files(client):
    page = client.get("/")
    assert page.status_code == 200 and b"<canvas" in page.data
    for name in assets():
        if name.startswith("static/"):
            assert name.encode() in page.data
            assert client.get(f"/{name}").status_code == 200
    assert sum(map(len, assets().values())) < 200_000
    assert not any(b"http://" in content or b"https://" in content for content in assets().values())
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]


def test_answers_over_http(client):
    assert client.get("/api/status").json["ready"] == {"films": True, "numbers": True, "sequences": True}
    facts = client.get("/api/facts").json
    assert facts["task"] == "toy" and facts["map"]["held_out"] == [0, 1, 2] and len(facts["playable"]) == ELITES
    answer = client.post("/api/draw", json=ASKED)
    assert answer.status_code == 200 and answer.json["request"]["wish"]["measures"] == [0.25, 0.75]
    numbers = client.post("/api/numbers", json=ASKED | {"which": 4}).json
    assert numbers["which"] == 4 and len(numbers["mean"]) == 2
    page = client.post("/api/page", json=ASKED | {"which": 1}).data
    assert page.startswith(b"<!doctype html>") and b"const Body" in page


def test_a_saved_policy_can_be_loaded(client, stage):
    content = client.post("/api/policy", json=ASKED | {"which": 2}).data
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        about = json.loads(str(stored["about"]))
        arrays = {name: stored[name] for name in stored.files if name != "about"}
    assert about["request"]["seed"] == 3 and about["film"] == 2
    _, policies = answers.draw(stage, Request(Wish((0.25, 0.75)), seed=3))
    expected = {"/".join(step.key for step in place): leaf[2] for place, leaf in jax.tree.leaves_with_path(policies)}
    assert arrays.keys() == expected.keys()
    for name, leaf in expected.items():
        np.testing.assert_array_equal(arrays[name], leaf)


def test_a_sequence(client, stage):
    wishes = [{"measures": [0.2, 0.8]}, {"measures": [0.8, None]}, {"text": "run"}]
    answer = client.post("/api/sequence", json={"wishes": wishes, "seed": 1}).json
    assert [one["way"] for one in answer["ways"]] == ["blind", "nearest", "best"]
    length = client.get("/api/facts").json["segment"] / 0.05
    for one in answer["ways"]:
        assert one["film"]["steps"] == max(1, one["lived"]) <= 3 * length and len(one["reached"]) == 3
        assert (one["reached"][2] is None) <= (one["lived"] < 3 * length)


def test_what_was_answered_is_remembered(client):
    first, again = (client.post("/api/draw", json=ASKED).data for _ in range(2))
    assert first == again


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        ({"json": {"wish": {"measures": [0.5]}}}, 400, "a list of 2"),
        ({"json": [1]}, 400, "not a JSON object"),
        ({"data": "{", "content_type": "application/json"}, 400, "not a JSON object"),
        ({"json": {"wish": {"text": "xyzzy"}}}, 400, "xyzzy"),
        ({"json": {"client": "c" * 41}}, 400, "client"),
        ({"data": "{}", "content_type": "text/plain"}, 415, "application/json"),
        ({"data": "wish=1", "content_type": "application/x-www-form-urlencoded"}, 415, "application/json"),
        ({"json": {"text": "a" * LARGEST}}, 413, "too large"),
        ({"json": {}, "headers": {"Host": "evil.example"}}, 403, "not served"),
        ({"json": {}, "headers": {"Origin": "https://evil.example"}}, 403, "other pages"),
        ({"json": {}, "headers": {"Origin": "null"}}, 403, "other pages"),
    ],
)
def test_what_is_refused(client, how, code, said):
    answer = client.post("/api/draw", **how)
    assert answer.status_code == code and said in answer.json["error"]


@pytest.mark.parametrize(
    "path",
    ["/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/%2e%2e/app.py", "/static//etc/passwd", "/etc/passwd"],
)
def test_no_path_reaches_the_disk(client, path):
    assert client.get(path).status_code == 404


def test_films_are_counted(client):
    assert "counted from 0" in client.post("/api/numbers", json=ASKED | {"which": 5}).json["error"]
    assert "which" in client.post("/api/numbers", json=ASKED | {"which": "0"}).json["error"]
    assert client.get("/api/draw").status_code == 405


def test_before_jax_has_started(run):
    gate = threading.Event()

    def make_stage(source, say):
        gate.wait()
        raise ValueError("this model is damaged")

    explorer = Explorer(source.open_model(str(run)), make_stage)
    with create_app(explorer, HOSTS).test_client() as client:
        assert client.get("/").status_code == 200
        assert len(client.get("/api/facts").json["map"]["elites"]["reference"]["fitness"]) == ELITES
        assert client.post("/api/draw", json=ASKED).status_code == 503
        gate.set()
        while client.get("/api/status").json["trouble"] is None:
            time.sleep(0.01)
        assert "damaged" in client.post("/api/draw", json=ASKED).json["error"]
    explorer.close()


def test_addresses():
    assert names_of("127.0.0.1", 80) >= {"127.0.0.1", "localhost:80"}
    assert names_of("0.0.0.0", 8) == {"0.0.0.0:8"}
    assert is_loopback("::1") and is_loopback("localhost") and not is_loopback("0.0.0.0")


# Files.


def test_where_models_are_found(run, tmp_path, monkeypatch):
    assert source.open_model(str(run)).archive == run / "archive" / "elites"
    assert source.open_model(str(run / "model")).arrays == {}
    with pytest.raises(FileNotFoundError, match="holds no model"):
        source.open_model(str(run / "eval"))
    monkeypatch.setattr(models, "HERE", tmp_path)
    with pytest.raises(FileNotFoundError, match="no model called 'nobody'"):
        source.open_model("nobody")
    with pytest.raises(FileNotFoundError, match="found nothing"):
        source.open_archive(str(tmp_path / "nowhere"))


def test_a_damaged_map(tmp_path):
    (tmp_path / "arrays.npz").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(ValueError, match="is damaged"):
        source.read_arrays(tmp_path / "arrays.npz")
    assert source.plain([np.nan, 1.23456, np.inf]) == [None, 1.2346, None]


def test_the_command_line(capsys, tmp_path):
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "no model called" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse(["walker2d", "--archive", "x"])
    with pytest.raises(SystemExit):
        parse(["--cells", "0"])


def test_an_export(stage, tmp_path):
    folder = tmp_path / "site"
    export.write(stage, folder, 6)
    text = (folder / "data.js").read_text()
    data = json.loads(text[text.index("{") : text.rindex(";")])
    assert len(data["asked"]) == len(list((folder / "cells").iterdir())) >= 6
    assert data["facts"]["films"] and set(assets()) <= {str(p.relative_to(folder)) for p in folder.rglob("*.*")}
    for i, asked in enumerate(data["asked"]):
        text = (folder / "cells" / f"{i}.js").read_text()
        answer = json.loads(text[text.index("{") : text.rindex(";")])
        assert answer["request"]["wish"]["measures"] == asked["measures"]
        assert all(one["numbers"]["episodes"] == 10 for one in answer["films"])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "diary.txt").write_text("mine")
    with pytest.raises(ValueError, match="not an earlier export"):
        export.export(stage.source, tmp_path / "other", 6)


def test_spread_out_is_the_farthest_first():
    places = np.array([[0.0], [1.0], [10.0], [4.0]])
    assert export.spread_out(places, 3).tolist() == [0, 2, 3]
    assert sorted(export.spread_out(places, 9).tolist()) == [0, 1, 2, 3]
