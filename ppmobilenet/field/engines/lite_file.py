"""What the head of a Paddle Lite ``.nb`` file says."""

from __future__ import annotations

from pathlib import Path

from ppmobilenet.errors import DamagedFileError, UserError
from ppmobilenet.field.engines import lite_env

HEADER_META = b"\x02\x00"
VERSION_BYTES = 16


def read_version(path: Path) -> str:
    """Return the version of the opt that wrote an ``.nb`` file: two bytes of format, then 16 bytes of text.

    Raises:
        DamagedFileError: it is no ``.nb``.
        UserError: it was written by another version than the runtime needs.
    """
    with open(path, "rb") as file:
        head = file.read(len(HEADER_META) + VERSION_BYTES)
    if len(head) < len(HEADER_META) + VERSION_BYTES or not head.startswith(HEADER_META + b"v"):
        raise DamagedFileError("this is not a Paddle Lite model (the header is another)", where=path)
    version = head[len(HEADER_META) :].split(b"\0")[0].decode("ascii", "replace")
    if version != lite_env.LITE_VERSION:
        raise UserError(
            f"this .nb was written by opt {version}; the runtime here is {lite_env.LITE_VERSION}, and the two must be "
            "the same",
            where=path,
            hint="convert it again: export the package with this version",
        )
    return version
