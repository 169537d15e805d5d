"""Published files, downloaded once into a cache and checked before they get their name.

| setting (environment) | meaning |
|---|---|
| ``PPMOBILENET_HOME`` | the cache; default ``~/.cache/ppmobilenet`` |
| ``PPMOBILENET_MIRROR`` | an address to use instead of the published host: ``http://10.0.0.5:8000`` |
| ``PPMOBILENET_OFFLINE`` | ``1``: never use the network |
| ``PPMOBILENET_TIMEOUT`` | seconds without progress before a try is given up; default 20 |
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

from ppmobilenet import __version__, files
from ppmobilenet.errors import DamagedFileError, UserError
from ppmobilenet.machine import cache_folder, writable_folder
from ppmobilenet.telling import log
from ppmobilenet.weights import naming
from ppmobilenet.weights.catalog import Published, find
from ppmobilenet.weights.files import read_weights
from ppmobilenet.weights.guess import guess

TRIES = 5
CHUNK = 1 << 16
MAX_SIZE = 2 << 30
# seconds before the second, third, ... try
WAITS = (0.5, 1, 2, 4)


class _Again(Exception):
    """This try failed in a way that another may not."""


def address(url: str) -> str:
    """Return the address to ask: the published one, or the same path on ``PPMOBILENET_MIRROR``.

    Raises:
        UserError: a mirror that is no http address.
    """
    mirror = os.environ.get("PPMOBILENET_MIRROR")
    if not mirror:
        return url
    if urllib.parse.urlsplit(mirror).scheme not in ("http", "https"):
        raise UserError(f"PPMOBILENET_MIRROR={mirror!r} is no address", allowed="http://... or https://...")
    return mirror.rstrip("/") + urllib.parse.urlsplit(url).path


def published_file(name: str, use_ssld: bool = False) -> Path:
    """Return a model's published weights, from the cache or downloaded into it.

    Args:
        name: one of ``catalog.rows()``, or a model with ``use_ssld``.
        use_ssld: the distilled weights.

    Raises:
        UserError: none are published; no network, offline mode; the address answers with an error.
        DamagedFileError: what came is no weight file of this network, or its sha256 is not the recorded one.
    """
    row = find(name, use_ssld)
    return download(
        row.url, row.url.rsplit("/", 1)[1], sha256=row.sha256, check=lambda path: check_published(path, row)
    )


def check_published(path: Path, row: Published) -> None:
    """Read a file and hold its keys and shapes against the network that the catalogue says it is.

    Raises:
        DamagedFileError: it cannot be read, is of another network, or has another MD5 than is known of it.
    """
    found = row.md5 and digest(path, "md5")
    if found != row.md5:
        raise DamagedFileError(
            f"its MD5 is {found}, that of {row.model} is known as {row.md5}",
            where=path,
            hint="a file that you trust all the same is loaded by its path",
        )
    arrays = read_weights(path)
    try:
        layout = naming.read_layout(arrays)
    except UserError as error:
        raise DamagedFileError(f"is not the weights of {row.model}: {error.message}", where=path) from None
    neutral, _ = naming.neutral_arrays(layout, arrays)
    found = guess({key: array.shape for key, array in neutral.items()}, layout.family)
    if found is None or (found.name, found.arguments) != (row.model, {}):
        raise DamagedFileError(f"is not the weights of {row.model}, but of {found or 'an unknown network'}", where=path)


def download(
    url: str, name: str, *, sha256: str | None = None, check: Callable[[Path], None] = lambda path: None
) -> Path:
    """Return the cached file ``name``, downloading it if it is not there.

    A broken connection is resumed where it broke. Several processes that ask at once download once. The sha256 is
    recorded beside the file at its first use and enforced after; one that is given is enforced at once.

    Args:
        url: its published address.
        name: its name in the cache.
        sha256: what it must be, if that is known.
        check: reads the file and raises if it is not what was meant; called before the file gets its name.

    Raises:
        UserError: it cannot be had; the message says why and what to do.
        DamagedFileError: what came, or what is in the cache, is not the file.
    """
    folder, kept = writable_folder("weights"), cache_folder("weights") / name
    if folder != kept.parent and kept.is_file():  # a cache that came with an image, and cannot be written
        _check_cached(kept, sha256, check, record=False)
        return kept
    target = folder / name
    try:
        lock = open(folder / f".{name}.lock", "a+b")
    except OSError as error:
        raise UserError(
            f"the cache cannot be written: {error.strerror}",
            where=folder,
            hint="set PPMOBILENET_HOME to another folder",
        ) from error
    with lock, files.locked(lock):
        if target.is_file():
            _check_cached(target, sha256, check)
            return target
        if os.environ.get("PPMOBILENET_OFFLINE", "") not in ("", "0"):
            raise UserError(
                f"{name} is not in the cache, and PPMOBILENET_OFFLINE forbids to download it",
                hint=f"download {url} on another machine and put it into {folder}",
            )
        part = folder / f".{name}.part"
        log.info("downloading %s into %s", address(url), folder)
        _fetch(address(url), part)
        try:
            check(part)
            found = digest(part)
            if sha256 is not None and found != sha256:
                raise DamagedFileError(f"its sha256 is {found}, the published file's is {sha256}")
        except UserError as error:
            part.unlink()
            _note(part).unlink(missing_ok=True)
            raise DamagedFileError(
                f"what {address(url)} gave was not kept: {error.message}",
                hint=f"try again, or put the file into {folder} by hand",
            ) from None
        _record(target, found)
        files.settle(part, target)
        _note(part).unlink(missing_ok=True)
        log.info("%s: %.1f MB, sha256 %s", target, target.stat().st_size / 1e6, found)
        return target


def digest(path: Path, kind: str = "sha256") -> str:
    """Return a file's checksum in hexadecimal."""
    sha = hashlib.new(kind, usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            sha.update(chunk)
    return sha.hexdigest()


def _record(target: Path, found: str) -> None:
    files.write_text(_recorded(target), f"{found}  {target.name}\n")


def _recorded(target: Path) -> Path:
    return target.with_name(f"{target.name}.sha256")


def _check_cached(target: Path, sha256: str | None, check: Callable[[Path], None], record: bool = True) -> None:
    found = digest(target)
    if not _recorded(target).is_file():  # put there by hand: this is its first use
        check(target)
        if record:
            _record(target, found)
    recorded = _recorded(target)
    known = recorded.read_text(encoding="ascii", errors="replace").partition(" ")[0] if recorded.is_file() else found
    expected = sha256 or known
    if found != expected:
        raise DamagedFileError(
            f"its sha256 is {found}, but {expected} is " + ("published" if sha256 else "what it was when it came"),
            where=target,
            hint=f"delete it and {_recorded(target).name} beside it: the next use downloads it again",
        )


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _fetch(url: str, part: Path) -> None:
    """Download into ``part``, resuming what is there, with retries."""
    reason = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(WAITS[min(attempt, len(WAITS)) - 1])
            log.info("%s: %s; try %d of %d", url, reason, attempt + 1, TRIES)
        try:
            _try(url, part)
            return
        except _Again as error:
            reason = str(error)
    raise UserError(
        f"{url} cannot be downloaded: {reason} ({TRIES} tries)",
        hint="check the network; PPMOBILENET_MIRROR names another host, and a file put into "
        f"{part.parent} by hand is used without a network",
    )


def _timeout() -> float:
    text = os.environ.get("PPMOBILENET_TIMEOUT", "20")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise UserError(f"PPMOBILENET_TIMEOUT={text!r}", allowed="seconds, above 0")
    return seconds


def _try(url: str, part: Path) -> None:
    """One request: all of the file, or what is missing of it."""
    timeout = _timeout()
    note = {}
    have = part.stat().st_size if part.exists() else 0
    if have:
        with contextlib.suppress(OSError, ValueError):
            note = json.loads(_note(part).read_text(encoding="utf-8"))
    # only what is known to be of the same file is continued
    resume = have > 0 and isinstance(note, dict) and note.get("url") == url and bool(note.get("validator"))
    headers = {"User-Agent": f"ppmobilenet/{__version__}", "Accept-Encoding": "identity"}
    if resume:
        headers |= {"Range": f"bytes={have}-", "If-Range": note["validator"]}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout) as response:
            start = have if response.status == 206 else 0
            if start and not (response.headers.get("Content-Range") or "").startswith(f"bytes {have}-"):
                part.unlink()
                raise _Again("the server resumed at another place")
            if "text/html" in response.headers.get("Content-Type", ""):
                raise UserError(f"{url} answers with a web page instead of the file", hint=_BY_HAND)
            length = response.headers.get("Content-Length")
            total = start + int(length) if length and length.isdigit() else None
            if total is not None and total > MAX_SIZE:
                raise UserError(f"{url} offers {total} bytes: no MobileNet's weights")
            validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
            _note(part).write_text(json.dumps({"url": url, "validator": validator}), encoding="utf-8")
            _copy(response, part, start, total, timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # what is there is not a beginning of the file
            part.unlink(missing_ok=True)
            raise _Again("the server cannot resume") from None
        if error.code in (408, 425, 429) or error.code >= 500:
            raise _Again(f"the server answers {error.code} {error.reason}") from None
        raise UserError(f"{url}: the server answers {error.code} {error.reason}", hint=_BY_HAND) from None
    except urllib.error.URLError as error:
        raise _Again(f"no connection ({error.reason})") from None
    except TimeoutError:
        raise _Again(f"nothing came for {timeout:g} s") from None
    except (http.client.HTTPException, ConnectionError) as error:
        raise _Again(f"the connection broke ({type(error).__name__})") from None
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror or error}", where=part) from error


_BY_HAND = "PPMOBILENET_MIRROR names another host; or download the file by hand and give its path instead"


def _copy(response, part: Path, start: int, total: int | None, timeout: float) -> None:
    done, progress_at, progress_time = start, start, time.monotonic()
    with open(part, "ab" if start else "wb") as file:
        while chunk := response.read1(CHUNK):
            file.write(chunk)
            done += len(chunk)
            if done > (total if total is not None else MAX_SIZE):
                raise UserError(f"more bytes came than the {total or MAX_SIZE} that were announced")
            now = time.monotonic()
            if done - progress_at >= CHUNK:
                progress_at, progress_time = done, now
            elif now - progress_time > timeout:  # a trickle holds off the socket's own timeout for ever
                raise _Again(f"fewer than {CHUNK} bytes came in {timeout:g} s")
    if total is not None and done < total:
        raise _Again(f"the connection broke after {done} of {total} bytes")
