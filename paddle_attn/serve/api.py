"""The HTTP API: `POST /predict` with a picture as the body."""

from __future__ import annotations

import asyncio

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from .desk import Desk
from .texts import Refused, language_of

PATH = "/predict"
SECONDS = 30  # in which a picture has to arrive


def add_api(app: FastAPI, desk: Desk, max_bytes: int) -> None:
    """Add the route. It answers

        {"width": 640, "height": 480,
         "results": [{"model", "labels", "class_ids", "scores", "milliseconds"}, …]}

    with one result for each network, the best class first, `?topk=5` of them; or `{"error": sentence}` with
    status 400 (damaged), 405 (not POST), 408 (too slow), 413 (too large), 415 (not a picture), 503 (busy).

    Args:
        desk: where requests wait.
        max_bytes: of a picture's file.
    """

    @app.api_route(PATH, methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
    async def predict(request: Request) -> JSONResponse:
        try:
            if request.method != "POST":
                raise Refused(405, "method")
            topk = _topk(request, desk)
            with desk.place():
                seen = await desk.answer(await _body(request, max_bytes), topk)
        except Refused as refused:
            return refusal(refused, request.headers.get("accept-language", ""))
        width, height = seen.size
        results = [answer.as_json for answer in seen.answers]
        return JSONResponse({"width": width, "height": height, "results": results})


def refusal(refused: Refused, accept_language: str) -> JSONResponse:
    """The sentence as JSON."""
    headers = {"allow": "POST"} if refused.status == 405 else {}
    sentence = refused.sentence(language_of(accept_language))
    return JSONResponse({"error": sentence}, refused.status, headers)


def _topk(request: Request, desk: Desk) -> int:
    classes = min(len(model.predictor.classes) for model in desk.models)
    given = request.query_params.get("topk", str(min(5, classes)))
    if not (given.isascii() and given.isdigit() and len(given) < 10 and 1 <= int(given) <= classes):
        raise Refused(400, "topk", classes=classes)
    return int(given)


async def _body(request: Request, max_bytes: int) -> bytes:
    """The picture, read up to the limit."""
    too_large = Refused(413, "large", mb=f"{max_bytes / 1e6:g}")
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise Refused(415, "form", url=request.url.replace(query=""))
    if int(request.headers.get("content-length", 0)) > max_bytes:
        raise too_large

    async def read() -> bytes:
        content = bytearray()
        async for part in request.stream():
            content += part
            if len(content) > max_bytes:
                raise too_large
        return bytes(content)

    try:
        return await asyncio.wait_for(read(), SECONDS)
    except asyncio.TimeoutError:
        raise Refused(408, "slow", seconds=SECONDS) from None
