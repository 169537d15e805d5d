"""What every engine has in common: what it is given is checked, and what its library raises is told in our words."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np

from ppmobilenet.errors import UserError
from ppmobilenet.field.package import Package

# library -> the process that first started it, where its threads do not live on in a forked child
_STARTED: dict[str, int] = {}


def started(library: str) -> None:
    """Note that such a library was started in this process."""
    _STARTED[library] = os.getpid()


def why_not_in_fork(library: str) -> str | None:
    """Return why such a library cannot start in this process, or None."""
    if _STARTED.get(library, os.getpid()) == os.getpid():
        return None
    return (
        f"{library} was started before this process was forked, and does not live on in the child: open the Predictor "
        "in the child only, or start processes anew (spawn)"
    )


class Engine:
    """A form of a package, open in one library: ``engine(batch) -> output``, one call at a time.

    A subclass opens its library in ``_open`` and runs it in ``_run``.

    Args:
        package: the opened package.
        form: which of its forms.
        threads: threads for one inference.

    Attributes:
        backend: the engine's name in ``BACKENDS``.
        alone: at most one call at a time in the whole process, so more engines would bring nothing.

    Raises:
        UserError: the library does not start or refuses the model.
        DamagedFileError: a file of the form is missing or was changed.
    """

    backend: ClassVar[str]
    library: ClassVar[str]
    alone: ClassVar[bool] = False
    # what the libraries raise where they refuse a model or an input; a library that is broken raises ImportError
    refusals: tuple[type[Exception], ...] = (ImportError, OSError, RuntimeError, ValueError, TypeError)

    def __init__(self, package: Package, form: Mapping, threads: int):
        self.package, self.form, self.threads = package, form, threads
        self.files = package.files_of(form)
        given = package.meta["input"]
        self._dtype = np.dtype(given["dtype"])
        self._declared = tuple(given["shape"][1:])
        # of a folder that PaddleClas wrote the declared shape is a guess
        self._shape = self._declared if package.meta["files"] else None
        damaged = "the file is damaged or of another version of the library: export again, or take another backend"
        with self._told("cannot open the model", damaged):
            self._open()

    def _open(self) -> None:
        raise NotImplementedError

    def _run(self, batch: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def another(self) -> Engine:
        """Return an engine that may run at the same time as this one, sharing weights where the library can.

        Never asked of one that is ``alone``.
        """
        raise NotImplementedError

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Run the model.

        Args:
            batch: ``[N, ...]`` of the package's input shape and type.

        Raises:
            UserError: it is of another shape or type, or the library fails.
        """
        self._check(batch)
        batch = np.ascontiguousarray(batch)
        with self._told(f"cannot run on {batch.dtype} {list(batch.shape)}", "`ppmobilenet verify` tries every engine"):
            if self.form.get("batch") == 1 and len(batch) > 1:
                return np.concatenate([self._run(batch[i : i + 1]) for i in range(len(batch))])
            return self._run(batch)

    def _check(self, batch: np.ndarray) -> None:
        """Refuse what the libraries take very differently: Paddle's OpenVINO engine gives the last answer again."""
        right = isinstance(batch, np.ndarray) and batch.dtype == self._dtype and batch.ndim == 4 and len(batch) > 0
        if right and self._shape in (None, batch.shape[1:]):
            return
        found = f"{batch.dtype} {list(batch.shape)}" if isinstance(batch, np.ndarray) else type(batch).__name__
        shape = ", ".join(map(str, self._shape or ("C", "H", "W")))
        raise UserError(
            f"the model was given {found}",
            where=self.package.folder,
            allowed=f"a NumPy array, {self._dtype} [N, {shape}], N at least 1",
            hint="Predictor.preprocess makes one photo's input; input[None] gives it the batch axis",
        )

    @classmethod
    def open(cls, package: Package, form: Mapping, threads: int) -> Engine:
        """Return an engine on a form: a new one, unless the library allows only one in a process."""
        return cls(package, form, threads)

    @contextlib.contextmanager
    def _told(self, what: str, hint: str) -> Iterator[None]:
        try:
            yield
        except self.refusals as error:
            raise UserError(f"{self.library} {what}: {_essence(error)}", where=self.files[0], hint=hint) from error


def _essence(error: Exception) -> str:
    """Return what an engine's error says, without its C++ stack, rules and colours."""
    text = re.sub(r"\x1b\[[\d;]*m", "", str(error)).rpartition("Error Message Summary:")[2]
    lines = [line.strip() for line in text.splitlines()]
    return "; ".join([line for line in lines if line.strip("-")][:4]) or type(error).__name__
