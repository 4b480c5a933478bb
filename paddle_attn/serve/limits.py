"""Which requests reach the page, and how large they may be.

Gradio has many routes; the page needs a few. Others are not found. A browser must load nothing from
elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..files import is_inside
from .api import PATH, refusal
from .texts import Refused
from .uploads import Uploads

GET = re.compile(  # routes of Gradio that the page uses
    r"/|/config/?|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|/pwa_icon.*"
    r"|/(assets|static|svelte)/.*"
    r"|/gradio_api/(queue/data|heartbeat/\w+|startup-events|upload_progress|info/?|app_id|file=.*)"
)
UPLOAD = "/gradio_api/upload"
POST = ("/gradio_api/queue/join", "/gradio_api/reset", "/gradio_api/cancel")
SMALL = 64 << 10  # bytes of a request without pictures
AT_ONCE = 8  # uploads
SECONDS = 120  # in which an upload has to arrive
DISCARDED = 300_000_000  # bytes of a refused request
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
        uploads: where uploads are until they are read.
        max_upload: bytes of one upload, all its pictures together.
    """

    def __init__(self, app: ASGIApp, uploads: Uploads, max_upload: int):
        self.app, self.uploads, self.max_upload = app, uploads, max_upload
        self.uploading = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # a web socket: the page has none
            return await send({"type": "websocket.close", "code": 1008})
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        body = _Body(receive, waits="expect" in headers)
        receive, send = body.receive, _answering(send, body)
        try:
            await self._pass(scope, headers, receive, send)
        except ClientDisconnect:  # in the middle of its request
            return
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
            await self.app(scope, await _only_with(self.uploads, receive), send)
        else:
            raise Refused(404, "nothing")

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.uploading >= AT_ONCE or self.uploads.size > AT_ONCE * self.max_upload:
            raise Refused(503, "busy")
        self.uploading += 1
        try:
            await asyncio.wait_for(self.app(scope, receive, send), SECONDS)
        except asyncio.TimeoutError:
            raise Refused(408, "slow", seconds=SECONDS) from None
        finally:
            self.uploading -= 1


def _check_length(headers: dict[str, str], limit: int) -> None:
    """Raises Refused for a body that is longer, or does not say how long it is."""
    length = headers.get("content-length", "")
    if not length.isdecimal() or int(length) > limit:
        raise Refused(413, "large", mb=f"{limit / 1e6:.3g}")


async def _only_with(uploads: Uploads, receive: Receive) -> Receive:
    """The same request, if all files that it names are uploads. Raises Refused.

    Gradio would download an address and, in a mounted page, read any file of this machine.
    """
    messages: list[Message] = []
    while not messages or messages[-1].get("more_body"):
        messages.append(await receive())
    body = b"".join(message.get("body", b"") for message in messages)
    try:
        allowed = all(is_inside(path, uploads.folder) for path in _paths(json.loads(body or b"{}")))
    except (ValueError, RecursionError):
        allowed = False
    if not allowed:
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


class _Body:
    """The body of a request, of which a refusal discards the rest: a client that still sends reads no answer.

    Args:
        waits: the client sends it only when the server asks.
    """

    def __init__(self, receive: Receive, waits: bool):
        self._receive, self._has_more = receive, not waits

    async def receive(self) -> Message:
        message = await self._receive()
        self._has_more = message["type"] == "http.request" and message.get("more_body", False)
        return message

    async def discard(self) -> None:
        """Up to `DISCARDED` bytes, for `SECONDS` at most."""

        async def read() -> None:
            left = DISCARDED
            while self._has_more and left > 0:
                left -= len((await self.receive()).get("body", b""))

        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(read(), SECONDS)


def _answering(send: Send, body: _Body) -> Send:
    """Sends an answer with `HEADERS`, that of a refused request after its body."""

    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            if message["status"] >= 400:
                await body.discard()
            extra = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", []), *extra]}
        await send(message)

    return answer
