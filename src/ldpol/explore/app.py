"""The page and its requests over HTTP; nothing in a request names a file."""

import ipaddress
from collections.abc import Callable
from concurrent.futures import Future
from importlib import resources
from typing import Any

from flask import Flask, Response, jsonify, request

from ldpol.errors import UserError
from ldpol.explore.explorer import Explorer, NotReady
from ldpol.explore.requests import Limits, RequestError, parse_request, parse_sequence
from ldpol.explore.worker import Busy, Superseded

LARGEST = 16 * 1024
"""Bytes of a request."""
PATIENCE = 120.0
"""Seconds until an answer is given up: another number of sampler steps compiles a program."""
SCRIPTS = ("api.js", "state.js", "map.js", "stage.js", "controls.js", "shelf.js", "sequence.js", "app.js")
KINDS = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def assets() -> dict[str, bytes]:
    """Return all files of the page by their address below it."""
    package = resources.files("ldpol")  # not that of the report, which would import Matplotlib
    static = package.joinpath("explore", "static")
    files = {"index.html": static.joinpath("index.html"), "static/body.js": package.joinpath("report", "body.js")}
    files |= {f"static/{name}": static.joinpath(name) for name in ("style.css", *SCRIPTS)}
    return {name: file.read_bytes() for name, file in files.items()}


def create_app(explorer: Explorer, hosts: frozenset[str]) -> Flask:
    """Build the application.

    Args:
      explorer: answers.
      hosts: values of the `Host` header that are answered: a page of somewhere else that has its name resolve to this
        machine (DNS rebinding) is not.
    """
    app = Flask("ldpol.explore", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = LARGEST
    app.json.sort_keys = False  # type: ignore[attr-defined]
    files = assets()

    @app.before_request
    def check() -> Any:
        if request.host not in hosts:
            return _problem(403, "this address is not served here")
        origin = request.headers.get("Origin")
        if origin is not None and origin.partition("://")[2] not in hosts:
            return _problem(403, "requests of other pages are not answered")
        if request.method == "POST" and request.mimetype != "application/json":
            return _problem(415, "requests must be application/json")
        return None

    @app.after_request
    def guard(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cache-Control"] = "no-store"
        return response

    @app.get("/")
    @app.get("/static/<name>")
    def page(name: str = "") -> Any:
        address = f"static/{name}" if name else "index.html"
        if address not in files:
            return _problem(404, "there is nothing here")
        return Response(files[address], mimetype=KINDS[address.rpartition(".")[2]])

    @app.get("/data.js")
    def data() -> Any:
        # A page that was exported has its answers here instead.
        return Response('"use strict";\nconst EXPORTED = null;\n', mimetype=KINDS["js"])

    @app.get("/api/facts")
    def facts() -> Any:
        return jsonify(explorer.facts())

    @app.get("/api/status")
    def status() -> Any:
        return jsonify(explorer.status())

    @app.post("/api/draw")
    def draw() -> Any:
        return _answer(explorer, lambda limits, client, body: explorer.draw(client, parse_request(body, limits)))

    def of_one_film(submit: Callable[..., "Future[Any]"]) -> Any:
        def parsed(limits: Limits, client: str, body: dict[str, Any]) -> "Future[Any]":
            which = _which(body)
            return submit(client, parse_request(body, limits), which)

        return _answer(explorer, parsed)

    @app.post("/api/numbers")
    def numbers() -> Any:
        return of_one_film(explorer.numbers)

    @app.post("/api/policy")
    def policy() -> Any:
        return of_one_film(explorer.policy)

    @app.post("/api/page")
    def film() -> Any:
        return of_one_film(explorer.page)

    @app.post("/api/sequence")
    def sequence() -> Any:
        return _answer(explorer, lambda limits, client, body: explorer.sequence(client, parse_sequence(body, limits)))

    @app.errorhandler(404)
    @app.errorhandler(405)
    @app.errorhandler(413)
    def refuse(error: Any) -> Any:
        return _problem(error.code, {413: "the request is too large"}.get(error.code, "there is nothing here"))

    return app


def _answer(explorer: Explorer, submit: Callable[[Limits, str, dict[str, Any]], "Future[Any]"]) -> Any:
    """Check the body, wait for the answer, and turn errors into messages for the page."""
    body = request.get_json(silent=True)
    if not isinstance(body, dict):
        return _problem(400, "the request is not a JSON object")
    client = body.pop("client", "")
    if not isinstance(client, str) or len(client) > 40:
        return _problem(400, "client must be a short string")
    if explorer.limits is None:
        return _problem(503, f"not ready yet: {explorer.trouble or explorer.doing}")
    try:
        answer = submit(explorer.limits, client, body).result(PATIENCE)
    except RequestError as error:
        return _problem(400, str(error))
    except Superseded:
        return Response(status=204)  # nobody waits for this any more
    except (NotReady, Busy) as error:
        return _problem(503, str(error))
    except TimeoutError:
        return _problem(503, "the answer takes too long; try again in a moment")
    except UserError as error:  # of the library: a sentence of unknown words only, say
        return _problem(400, str(error))
    except Exception as error:
        return _problem(500, f"{type(error).__name__}: {error}"[:300])
    if isinstance(answer, bytes):
        return Response(answer, mimetype="application/octet-stream")
    return jsonify(answer)


def _which(body: dict[str, Any]) -> int:
    which = body.pop("which", 0)
    if isinstance(which, bool) or not isinstance(which, int):
        raise RequestError("which must be the number of a film, counted from 0")
    return which


def _problem(code: int, message: str) -> Any:
    response = jsonify({"error": message})
    response.status_code = code
    return response


def names_of(host: str, port: int) -> frozenset[str]:
    """Return the `Host` headers under which a server at `host` and `port` is asked for from this machine."""
    names = {"127.0.0.1", "localhost", "[::1]"} if is_loopback(host) else {f"[{host}]" if ":" in host else host}
    return frozenset(f"{name}:{port}" for name in names) | (names if port == 80 else frozenset())


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach a server at `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
