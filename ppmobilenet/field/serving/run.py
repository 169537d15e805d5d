"""The server around the application: its address, its processes, its end."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace

import uvicorn

from ppmobilenet.errors import UserError
from ppmobilenet.field.predictor import Predictor
from ppmobilenet.field.serving import app
from ppmobilenet.field.serving.limits import Limits
from ppmobilenet.machine import usable_cores
from ppmobilenet.telling import log, tell


@dataclass(frozen=True)
class Address:
    """Where to listen.

    Attributes:
        host: a name or a number; only this machine's own by default.
        port: 0 takes a free one.
        certificate: a PEM file, for https; ``key`` belongs to it.
        key: a PEM file.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    certificate: str | None = None
    key: str | None = None

    def __post_init__(self):
        if bool(self.certificate) != bool(self.key):
            raise UserError("https needs both a certificate and its key", where="--certificate, --key")
        for option, path in (("--certificate", self.certificate), ("--key", self.key)):
            if path and not os.path.isfile(path):
                raise UserError("there is no such file", where=f"{option} {path}")

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def serve(predictor: Mapping, limits: Limits, address: Address, workers: int = 1) -> None:
    """Answer until a signal comes.

    Args:
        predictor: what :class:`Predictor` is called with.
        limits: of each process; ``at_once`` and the engines' threads are shared out among them.
        address: where to listen.
        workers: processes.

    Raises:
        UserError: the package, the address or the certificate cannot be used.
    """
    share = max(1, (predictor.get("threads") or usable_cores()) // workers)
    predictor, limits = {**predictor, "threads": share}, replace(limits, at_once=max(1, limits.at_once // workers))
    opened = Predictor(**predictor)  # what is wrong with the package is said before anybody is listened to
    listening = _listen(address)
    options = {
        "log_level": "warning",
        "access_log": False,
        "server_header": False,
        "timeout_keep_alive": 30,
        "timeout_graceful_shutdown": int(limits.seconds) + 1,
        "ssl_certfile": address.certificate,
        "ssl_keyfile": address.key,
    }
    scheme, (host, port) = "https" if address.certificate else "http", listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    tell(f"{opened.package.meta['name']} ({opened.backend}) answers at {scheme}://{shown}:{port}/ - Ctrl-C ends it")
    if not address.loopback:
        camera = "" if address.certificate else "; browsers give a page the live camera over https only (--certificate)"
        log.warning("whoever reaches this machine at %s may send photos: there is no password%s", shown, camera)
    if workers == 1:
        uvicorn.Server(uvicorn.Config(app.make_app(opened, limits), **options)).run(sockets=[listening])
        return
    del opened  # every process opens its own
    os.environ[app.SETTINGS] = app.settings(predictor, limits)
    opener = f"{app.__name__}:from_environment"
    uvicorn.run(opener, factory=True, workers=workers, fd=listening.fileno(), **options)


def _listen(address: Address) -> socket.socket:
    """Return a socket that is bound, or say why there is none."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
        listening.listen(128)  # from here on callers wait, and are not refused, while the processes start
    except (OSError, UnicodeError, OverflowError) as error:
        raise UserError(
            f"cannot listen there: {getattr(error, 'strerror', None) or error}",
            where=f"--host {address.host} --port {address.port}",
            hint="another --port, or --port 0 for a free one",
        ) from error
    listening.set_inheritable(True)
    return listening
