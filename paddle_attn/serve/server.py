"""The process that serves the page and the API: its port, its temporary folder, its end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

from ..errors import Stopped, UserError
from .desk import Desk
from .models import Served
from .pictures import Example
from .uploads import Uploads

if TYPE_CHECKING:
    from .limits import Limits

CONNECTIONS = 256  # at once


@dataclass(frozen=True)
class Settings:
    """Where the server listens, and its limits.

    Args:
        host: the address; 127.0.0.1 is reached from this machine only.
        port: 0 takes a free one.
        max_bytes: of a picture's file.
        queue: requests that wait or are answered at once; one more is refused.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    max_bytes: int = 10_000_000
    queue: int = 64


def serve(
    models: Sequence[Served],
    examples: Sequence[Example],
    settings: Settings,
    listener: socket.socket,
    uploads: Uploads,
) -> None:
    """Serve until Ctrl-C or SIGTERM; prints the address when the page can be opened.

    Args:
        models: the networks, which all answer every picture.
        examples: the pictures that the page offers.
        settings: the limits.
        listener: of `listen`.
        uploads: of `gradio_in_a_private_folder`.

    Raises: Stopped after the signal.
    """
    import uvicorn

    from .api import PATH

    url = url_of(settings.host, listener.getsockname()[1])
    desk = Desk(models, settings.queue)
    app = make_app(desk, examples, settings, uploads, url)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=2,
    )
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn ends by itself, then raises the signal again
        signal.signal(number, _stop)
    print(f"page  {url}   (Ctrl-C ends it)", flush=True)
    print(f"API   curl --data-binary @photo.jpg {url}{PATH}", flush=True)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        desk.close()


def _stop(number: int, _: FrameType | None) -> None:
    raise Stopped("the page is closed, no picture was kept", number)


def make_app(
    desk: Desk, examples: Sequence[Example], settings: Settings, uploads: Uploads, url: str
) -> Limits:
    """The ASGI application: the API, the page, and the limits around both."""
    import gradio
    from fastapi import FastAPI

    from .api import PATH, add_api
    from .limits import Limits
    from .page import CSS, HEAD, PICTURES, make_page, theme, translations

    @contextlib.asynccontextmanager
    async def sweeping(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(uploads.sweep())
        yield
        task.cancel()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=sweeping)
    add_api(app, desk, settings.max_bytes)
    max_upload = PICTURES * settings.max_bytes + (64 << 10)  # with the headers of the parts
    page = make_page(desk, examples, uploads, settings.max_bytes, f"{url}{PATH}")
    uploads.adopt()
    gradio.mount_gradio_app(
        app,
        page,
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=max_upload,  # of each file; the page refuses smaller ones in a sentence
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        i18n=translations(settings.max_bytes),
        theme=theme(),
        css=CSS,
        head=HEAD,
    )
    return Limits(app, uploads, max_upload)


@contextlib.contextmanager
def listen(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens at an address. Raises UserError when it cannot be used."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserError(f"--host {host}: {error.strerror}; expected an address of this machine") from None
    with listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(128)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                reason = "is in use: choose another one with --port, or 0 for a free one"
            else:
                reason = f"cannot be used ({error.strerror}): choose another --port or --host"
            raise UserError(f"port {port} of {host} {reason}") from None
        yield listener


def url_of(host: str, port: int) -> str:
    """The address to open: a server that listens everywhere is also at 127.0.0.1."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, host)
    return f"http://[{name}]:{port}" if ":" in name and "[" not in name else f"http://{name}:{port}"
