"""The HTTP application: ``POST /predict``, ``/healthz``, ``/openapi.json``, and the page."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ppmobilenet import __version__
from ppmobilenet.errors import DataError, UserError
from ppmobilenet.field.occlusion import heat, occlusion
from ppmobilenet.field.predictor import Predictor
from ppmobilenet.field.serving.limits import Desk, Limits, Refusal, too_large
from ppmobilenet.telling import log

SETTINGS = "PPMOBILENET_SERVE"  # the environment variable by which worker processes know what to serve
LONGEST_NAME = 200
MOST_ENTRIES = 1000  # of the JSON that holds a photo
# a body that is the photo: as it should be said, as curl says of any --data-binary, and nothing said
BARE = ("application/octet-stream", "application/x-www-form-urlencoded", "")
FIELD = re.compile(rb"[A-Za-z_]*=")  # what a form begins with that was meant as one; no photo does
URL = re.compile(r"\s*[a-zA-Z][a-zA-Z0-9+.-]*://")
DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,")
PAGE = Path(__file__).with_name("page.html")

# how a photo may be sent, as /openapi.json tells it
BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {"file": {"type": "string", "format": "binary", "description": "a photo"}},
            }
        },
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["image"],
                "properties": {
                    "image": {"type": "string", "format": "byte", "description": "a photo in base64, or its data: URL"}
                },
            }
        },
        "image/*": {"schema": {"type": "string", "format": "binary", "description": "the photo itself"}},
    },
}
REFUSALS = {
    400: "the photo, or the request, cannot be used",
    408: "the photo did not arrive in time",
    413: "too many bytes or pixels",
    415: "the photo is sent in a way that is not taken",
    422: "a parameter cannot be read",
    503: "too much is in work, or the answer took too long",
}


def make_app(predictor: Predictor, limits: Limits) -> FastAPI:
    """Return the application.

    Args:
        predictor: answers.
        limits: what one caller may cost the others.
    """
    # the usual pages of documentation fetch their scripts from elsewhere; /openapi.json needs nothing
    title = f"{predictor.package.meta['name']}, ppmobilenet"
    app = FastAPI(title=title, version=__version__, docs_url=None, redoc_url=None)
    desk = Desk(limits)
    page, policy = _page()
    app.add_exception_handler(UserError, _refuse)
    app.add_exception_handler(HTTPException, _refuse_http)
    app.add_exception_handler(RequestValidationError, _refuse_parameters)
    app.add_exception_handler(ClientDisconnect, _refuse_gone)

    @app.get("/", include_in_schema=False)
    async def show() -> HTMLResponse:
        return HTMLResponse(page, headers=policy)

    @app.get("/healthz", summary="Is it alive, and what does it answer with?")
    async def healthz() -> dict:
        meta, decision = predictor.package.meta, predictor.decision
        about = {} if decision.unsure_below is None else {"unsure_below": decision.unsure_below}
        engine = {"backend": predictor.backend, "form": predictor.form["name"]}
        return {"status": "ok", "model": meta["name"], "classes": meta["class_num"], **engine, **about}

    @app.post(
        "/predict",
        summary="What does a photo show?",
        openapi_extra={"requestBody": BODY},
        responses={status: {"description": text} for status, text in REFUSALS.items()},
    )
    async def predict(request: Request, map: bool = False) -> JSONResponse:
        """Send a photo as the form's `file`, as JSON `{"image": base64}`, or as the body itself; URLs are not fetched.

        `map=true` also asks where the answer came from: `seen` and `heat`, pictures as data: URLs.
        """
        until = asyncio.get_running_loop().time() + limits.seconds
        with desk:
            name, unpack = await _photo(request, limits, until)
            return JSONResponse(await desk.do(lambda: _answer(predictor, limits, unpack(), name, map), until))

    return app


def from_environment() -> FastAPI:
    """Return the application of a worker process, which is told by the environment what to serve."""
    given = json.loads(os.environ[SETTINGS])
    return make_app(Predictor(**given["predictor"]), Limits(**given["limits"]))


def settings(predictor: Mapping, limits: Limits) -> str:
    """Return what :func:`from_environment` reads."""
    return json.dumps({"predictor": dict(predictor), "limits": asdict(limits)})


def _answer(predictor: Predictor, limits: Limits, photo: bytes, name: str, wants_map: bool) -> dict:
    """Return what is sent back for one photo. Even to read its header may take long, if somebody made it so."""
    limits.check(photo)
    start = time.perf_counter()
    found = replace(predictor(photo), source=name).to_dict()
    if wants_map:
        seen, fall, _ = occlusion(predictor, photo)
        picture = cv2.imencode(".jpg", np.ascontiguousarray(seen[:, :, ::-1]))[1].tobytes()
        overlay = heat(fall, (seen.shape[1], seen.shape[0]))
        found |= {"seen": _data_url("jpeg", picture), "heat": _data_url("png", overlay)}
    return {**found, "milliseconds": round(1000 * (time.perf_counter() - start), 1)}


def _data_url(kind: str, picture: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


# -- reading a request -------------------------------------------------------------------------------------------------


async def _photo(request: Request, limits: Limits, until: float) -> tuple[str, Callable[[], bytes]]:
    """Return the name of the photo that a request brings, and what unpacks it, which may take a while."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        # beside the photo there are only borders and names
        form = await _bounded(request, limits.max_bytes + 10_000, limits, until).form(max_files=1, max_fields=4)
        return await _of_form(form)
    if kind == "application/json":
        body = await _bounded(request, limits.max_bytes * 4 // 3 + 10_000, limits, until).body()
        return "photo", lambda: _of_json(body)
    if kind.startswith("image/") or kind in BARE:
        body = await _bounded(request, limits.max_bytes, limits, until).body()
        if kind.startswith("image/") or not FIELD.match(body):
            return "photo", lambda: body
    raise Refusal(
        415,
        f"a photo does not come as {kind or 'a body without a Content-Type'}",
        allowed="multipart/form-data with a field file, application/json with image in base64, image/...",
        hint=f"curl -F file=@photo.jpg {request.url}",
    )


def _bounded(request: Request, most: int, limits: Limits, until: float) -> Request:
    """Return the request, its body ending in a refusal where it is too long or too slow."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > most:
        raise too_large(limits.max_bytes)
    came = 0

    async def receive() -> Mapping:
        nonlocal came
        left = until - asyncio.get_running_loop().time()
        try:
            message = await asyncio.wait_for(request.receive(), max(0.0, left))
        except asyncio.TimeoutError:
            raise Refusal(408, f"the photo did not arrive within {limits.seconds:g} seconds") from None
        came += len(message.get("body", b""))
        if came > most:
            raise too_large(limits.max_bytes)
        return message

    return Request(request.scope, receive)


async def _of_form(form: Mapping) -> tuple[str, Callable[[], bytes]]:
    given = form.get("file")
    if isinstance(given, UploadFile):
        content = await given.read()
        return (given.filename or "photo")[:LONGEST_NAME], lambda: content
    if any(isinstance(value, str) and URL.match(value) for value in form.values()):
        raise _no_url()
    found = ", ".join(map(str, form)) or "nothing"
    raise Refusal(400, f"the form holds {found[:LONGEST_NAME]}", allowed="a field named file with the photo")


def _of_json(body: bytes) -> bytes:
    if sum(map(body.count, (b",", b"[", b"{"))) > MOST_ENTRIES:  # reading it would hold up everybody for seconds
        raise Refusal(400, "the JSON holds more than a photo", allowed='{"image": "the photo in base64"}')
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        raise Refusal(400, "the body is no JSON", allowed='{"image": "the photo in base64"}') from None
    text = given.get("image") if isinstance(given, dict) else None
    if isinstance(given, dict) and any(isinstance(value, str) and URL.match(value) for value in given.values()):
        raise _no_url()
    if not isinstance(text, str):
        raise Refusal(400, "the JSON holds no text named image", allowed='{"image": "the photo in base64"}')
    if found := DATA_URL.match(text[:100]):
        text = text[found.end() :]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        hint = "base64.b64encode(photo), without line breaks"
        raise Refusal(400, f"image is no base64: {error}", hint=hint) from None


def _no_url() -> Refusal:
    return Refusal(400, "a URL is not fetched", hint="send the photo itself, as a file or in base64")


# -- refusing ----------------------------------------------------------------------------------------------------------


def _said(status: int, message: str, allowed: str | None = None, hint: str | None = None) -> JSONResponse:
    about = {"error": message, "allowed": allowed, "what_to_do": hint}
    headers = {"Retry-After": "1"} if status == 503 else None
    return JSONResponse({key: text for key, text in about.items() if text}, status, headers)


async def _refuse(_: Request, error: UserError) -> JSONResponse:
    if isinstance(error, DataError):  # its hint is of lists and folders
        return _said(400, error.message, error.allowed, "send another photo")
    if not isinstance(error, Refusal):  # not the photo: the engine failed
        log.warning("%s", error)
        return _said(500, "the model cannot run; the server's log says more")
    return _said(error.status, error.message, error.allowed, error.hint)


async def _refuse_http(request: Request, error: HTTPException) -> JSONResponse:
    hint = f"POST a photo: curl -F file=@photo.jpg {request.url}" if error.status_code == 405 else None
    return _said(error.status_code, str(error.detail), hint=hint)


async def _refuse_gone(_: Request, __: ClientDisconnect) -> JSONResponse:
    return _said(400, "the photo broke off")  # nobody hears it


async def _refuse_parameters(_: Request, error: RequestValidationError) -> JSONResponse:
    wrong = error.errors()[0]
    return _said(422, f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}")


def _page() -> tuple[str, dict[str, str]]:
    """Return the page and what a browser may do with it: this script, this server, the camera."""
    page = PAGE.read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; connect-src 'self'; "
        "img-src 'self' data: blob:; media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
    return page, {**headers, "Permissions-Policy": "camera=(self)", "Cache-Control": "no-cache"}
