"""The web application: routes, and what keeps other sites and other files out."""

import mimetypes
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlm_rl.view import pages
from vlm_rl.view.pages import Page, Viewed
from vlm_rl.view.rendering import STATIC, Renderer

HOSTS = ["127.0.0.1", "localhost"]
"""Names a browser may call this server by. Another site whose name leads here sends its own."""

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


class _Headers:
    """Adds `_HEADERS` to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message["headers"], *own]
            await send(message)

        await self.app(scope, receive, with_headers)


def build(viewed: Mapping[str, Viewed]) -> Starlette:
    """Return the application over the folders, by name."""
    renderer = Renderer(viewed)

    def shown(make: Callable[..., Page], **fixed: Any) -> Callable[[Request], Response]:
        def respond(request: Request) -> Response:
            arguments = dict(request.path_params)
            if "run" in arguments:
                arguments["run"] = _run(viewed, arguments["run"])
            page = make(viewed, dict(request.query_params), **arguments, **fixed)
            text = renderer.html(page, export="export" in request.query_params)
            headers = {}
            if "export" in request.query_params:
                headers["Content-Disposition"] = f'attachment; filename="{page.name}.html"'
            return HTMLResponse(text, page.status, headers)

        return respond

    def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        page = pages.failure(viewed, error.status_code, error.detail)
        return HTMLResponse(renderer.html(page, export=False), error.status_code)

    routes: list[BaseRoute] = [
        Route("/", shown(pages.curves)),
        Route("/curves.json", lambda request: _curves(viewed, request)),
        Route("/state.json", lambda request: _state(viewed)),
        Route("/compare", shown(pages.compared)),
        Route("/r/{run}/problems", shown(pages.problems)),
        Route("/r/{run}/problem", shown(pages.problem)),
        Route("/r/{run}/completions", shown(pages.completions)),
        Route("/r/{run}/completion/{group:int}/{column:int}", shown(pages.completion)),
        Route("/r/{run}/length", shown(pages.length)),
        Route("/r/{run}/evaluations", shown(pages.evaluations)),
        Route("/r/{run}/report/{name:path}", shown(pages.report)),
        Route("/r/{run}/samples/{name:path}", shown(pages.samples)),
        Route("/r/{run}/image/{name}", lambda request: _image(viewed, request)),
        Route("/r/{run}/figure/{name:path}", lambda request: _figure(viewed, request)),
        Route("/static/{name}", _static),
    ]
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(_Headers),
            Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False),
        ],
        exception_handlers={HTTPException: refused},
    )


def _run(viewed: Mapping[str, Viewed], name: str) -> Viewed:
    if name not in viewed:
        raise HTTPException(404, f"no run of the name {name} is open here")
    return viewed[name]


def _curves(viewed: Mapping[str, Viewed], request: Request) -> Response:
    names = request.query_params.getlist("m")
    return JSONResponse(pages.curve_data(viewed, names))


def _state(viewed: Mapping[str, Viewed]) -> Response:
    return JSONResponse({name: one.state() for name, one in viewed.items()})


def _image(viewed: Mapping[str, Viewed], request: Request) -> Response:
    run = _run(viewed, request.path_params["run"])
    return _file(run.folder.image(request.path_params["name"]))


def _figure(viewed: Mapping[str, Viewed], request: Request) -> Response:
    run = _run(viewed, request.path_params["run"])
    return _file(run.folder.picture(request.path_params["name"]))


def _static(request: Request) -> Response:
    name = request.path_params["name"]
    return _file(STATIC / name if name in {path.name for path in STATIC.iterdir()} else None)


def _file(path: Path | None) -> Response:
    if path is None:
        raise HTTPException(404, "there is no such file")
    with suppress(FileNotFoundError):  # a run that goes on may delete old files
        path.stat()
        return FileResponse(path, media_type=mimetypes.guess_type(path.name)[0])
    raise HTTPException(404, "the file is gone")
