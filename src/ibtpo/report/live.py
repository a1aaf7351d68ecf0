"""A small server on this machine whose pages follow a run in progress.

Only who knows the token in its address gets anything, and only through 127.0.0.1 or localhost: a page of another site,
open in the same browser, cannot ask for it under a name of its own (DNS rebinding). Nothing in an address is ever taken
for a path on the disk, and nothing is written into the run folder.
"""

import contextlib
import secrets
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..errors import ConfigError, IBTPOError
from .follow import DATA, TREES, Follower

HOST = "127.0.0.1"
HEADERS = {
    "Cache-Control": "no-store",  # the browser asks again each time; versions say whether there is anything new
    "Content-Security-Policy": "frame-ancestors 'none'",  # beside the page's own policy
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",  # the address holds the token
    "X-Content-Type-Options": "nosniff",
}


def serve(folder: Path, port: int, tell: Callable[[str, str], None]) -> None:
    """Serves the pages of a run until it is interrupted.

    folder: the run folder.
    port: the port on 127.0.0.1; 0 takes a free one.
    tell: called with the addresses of the report and of the trees once they can be opened.

    Raises `ConfigError` if the port is taken, and as `read_run` does if the folder cannot be read.
    """
    app, token = make_app(folder)
    with socket.socket() as place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            place.bind((HOST, port))
            place.listen()  # who opens an address at once waits until the server is there
        except (OSError, OverflowError) as e:
            raise ConfigError(f"--port {port} cannot be used ({e}); give another, or none for a free one") from e
        report = f"http://{HOST}:{place.getsockname()[1]}/{token}/"
        tell(report, report + TREES)
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=1
        )
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[place])


def make_app(folder: Path) -> tuple[Starlette, str]:
    """The server of a run folder, and the token that its addresses begin with."""
    follower, token = Follower(folder), secrets.token_urlsafe(24)

    def answer(request: Request) -> Response:
        if not secrets.compare_digest(request.path_params["token"].encode(), token.encode()):
            return _text("not found", 404)
        name = request.path_params["name"]
        try:
            if name == "":
                return _page(request, *follower.report())
            if name == TREES:
                if _has(request, follower.trees_version()) or request.method == "HEAD":
                    return _page(request, follower.trees_version(), b"")
                return _page(request, *follower.trees())
        except (IBTPOError, OSError) as e:
            return _text(f"{e}\n", 503)
        folder, _, file = name.rpartition("/")
        if folder == DATA and file in follower.files:
            return Response(follower.files[file](), 200, HEADERS, "text/csv; charset=utf-8")
        return _text("not found", 404)

    routes = [Route("/{token}/{name:path}", answer, methods=["GET"])]
    middleware = [
        Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"], www_redirect=False),
        Middleware(GZipMiddleware, compresslevel=3),  # for who looks through a tunnel
    ]
    app = Starlette(routes=routes, middleware=middleware)
    app.router.redirect_slashes = False
    return app, token


def _has(request: Request, version: str) -> bool:
    """Whether the browser has this version already."""
    return request.headers.get("If-None-Match") == f'"{version}"'


def _page(request: Request, version: str, page: bytes) -> Response:
    """A page, or that nothing has changed since the version that the browser has."""
    headers = {**HEADERS, "ETag": f'"{version}"'}
    if _has(request, version):
        return Response(status_code=304, headers=headers)
    return Response(page, 200, headers, "text/html; charset=utf-8")


def _text(text: str, status: int) -> Response:
    return Response(text, status, HEADERS, "text/plain; charset=utf-8")
