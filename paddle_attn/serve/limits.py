"""Which requests reach the page, and how large they may be.

Gradio has many routes; the page needs a few. Others are not found. A browser is told to load nothing from
elsewhere.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .api import PATH, refusal
from .texts import Refused

GET = re.compile(  # routes of Gradio that the page uses
    r"/|/config/?|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|/pwa_icon.*|/(assets|static|svelte)/.*"
    r"|/gradio_api/(queue/data|heartbeat/\w+|startup-events|upload_progress|info/?|app_id|file=.*)"
)
UPLOAD = "/gradio_api/upload"
POST = ("/gradio_api/queue/join", "/gradio_api/reset", "/gradio_api/cancel")
SMALL = 64 << 10  # bytes of a request without pictures
UPLOADS = 8  # at once
SECONDS = 120  # in which an upload has to arrive
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:; font-src 'self' data:; "
    "style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "connect-src 'self' blob: data:; object-src 'none'; base-uri 'self'; form-action 'self'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Limits:
    """ASGI middleware around the page and the API.

    Args:
        app: what it protects.
        folder: where uploads are until they are answered.
        max_upload: bytes of one upload, all its pictures together.
    """

    def __init__(self, app: ASGIApp, folder: Path, max_upload: int):
        self.app, self.folder, self.max_upload = app, folder, max_upload
        self.uploads = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # a web socket: the page has none
            return await send({"type": "websocket.close", "code": 1008})
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        send = _with_headers(send)
        try:
            await self._pass(scope, headers, receive, send)
        except Refused as refused:
            await refusal(refused, headers.get("accept-language", ""))(scope, receive, send)

    async def _pass(self, scope: Scope, headers: dict[str, str], receive: Receive, send: Send) -> None:
        """Hand the request on, or raise Refused before anything was sent."""
        path, method = scope["path"], scope["method"]
        if path == PATH or (method in ("GET", "HEAD") and GET.fullmatch(path)):
            await self.app(scope, receive, send)
        elif method == "POST" and path == UPLOAD:
            _check_length(headers, self.max_upload)
            await self._upload(scope, receive, send)
        elif method == "POST" and path.rstrip("/") in POST:
            _check_length(headers, SMALL)
            await self.app(scope, await _without_addresses(receive), send)
        else:
            raise Refused(404, "nothing")

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.uploads >= UPLOADS or _size(self.folder) > UPLOADS * self.max_upload:
            raise Refused(503, "busy")
        self.uploads += 1
        try:
            await asyncio.wait_for(self.app(scope, receive, send), SECONDS)
        except asyncio.TimeoutError:
            raise Refused(408, "slow", seconds=SECONDS) from None
        finally:
            self.uploads -= 1


def _check_length(headers: dict[str, str], limit: int) -> None:
    """Raises Refused for a body that is longer, or does not say how long it is."""
    length = headers.get("content-length", "")
    if not length.isdigit() or int(length) > limit:
        raise Refused(413, "large", mb=f"{limit / 1e6:.3g}")


async def _without_addresses(receive: Receive) -> Receive:
    """The same request, if no file in it is an address, which Gradio would download. Raises Refused."""
    messages: list[Message] = []
    while not messages or messages[-1].get("more_body"):
        messages.append(await receive())
    body = b"".join(message.get("body", b"") for message in messages)
    try:
        has_address = any("://" in path for path in _paths(json.loads(body or b"{}")))
    except (ValueError, RecursionError):
        has_address = True
    if has_address:
        raise Refused(400, "gone")

    async def replay() -> Message:
        return messages.pop(0) if messages else await receive()

    return replay


def _paths(value: Any) -> list[str]:
    """Every 'path' in a JSON value."""
    if isinstance(value, list):
        return [path for item in value for path in _paths(item)]
    if isinstance(value, dict):
        own = [str(value["path"])] if "path" in value else []
        return own + [path for item in value.values() for path in _paths(item)]
    return []


def _size(folder: Path) -> int:
    """Bytes of the files below a folder; others remove some meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except OSError:
            continue
    return total


def _with_headers(send: Send) -> Callable[[Message], Any]:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            extra = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", []), *extra]}
        await send(message)

    return send_with_headers
