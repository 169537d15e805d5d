"""``ppmobilenet infer --engine ray``: Ray Data gives the parts to workers and does a killed one's again.

What makes it exact is no memory of Ray's but the files: a part's answers take their name when all of them are written,
and a part whose file is there is not answered again. (Ray Data's own checkpoints keep an id a row in memory, and want
ids that are unique; a list may name a photo twice.)
"""

from __future__ import annotations

import json
import logging
import math
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from ppmobilenet.errors import DamagedFileError, UserError
from ppmobilenet.field.cluster import answers, parts
from ppmobilenet.field.cluster.worker import Orders, Worker, identity
from ppmobilenet.field.predictor import Predictor
from ppmobilenet.files import is_partial, remove, write_text
from ppmobilenet.machine import usable_cores
from ppmobilenet.telling import bar, tell

JOB = "_job.json"  # readers of a folder of Parquet pass over names that begin so
STORE = 200_000_000  # bytes of a local cluster's object store: only numbers travel through it
BLOCKS = 4000  # pieces that Ray hands out, at most; of several parts each where there are more


@dataclass
class Done:
    """What a job has come to.

    Attributes:
        photos: rows in its files, one a photo.
        failed: of these, photos that could not be used.
        parts: files.
        parts_before: of these, answered by an earlier start.
        photos_now: answered by this start.
        seconds: from the first part's beginning to the last one's end; not the start of Ray and of its workers.
        workers: processes that answered.
    """

    photos: int = 0
    failed: int = 0
    parts: int = 0
    parts_before: int = 0
    photos_now: int = 0
    seconds: float = 0.0
    workers: int = 0

    @property
    def rate(self) -> float:
        """Photos a second."""
        return self.photos_now / max(self.seconds, 1e-9)


def run(
    predictor: dict,
    source: str,
    infer_list: str | None = None,
    save: str | None = None,
    resume: bool = False,
    batch_size: int = 1,
    workers: int | None = None,
) -> Done:
    """Answer photos on a Ray cluster: the one that RAY_ADDRESS names or this machine belongs to, else a local one.

    Args:
        predictor: arguments of :class:`Predictor`; each worker opens one.
        source, infer_list: as :func:`.parts.find` takes them.
        save: the folder for the answers, ``answers.parquet`` or ``answers.jsonl``.
        resume: go on with a job that was begun there.
        batch_size: photos a run of the model.
        workers: processes, at most; default, and no more, as many as the cluster has processors for.

    Raises:
        UserError: what is wrong with the words, the package or a machine.
        DataError: there is nothing to answer.
    """
    answers.check(save)
    folder = Path(os.path.abspath(save))
    opened = Predictor(**predictor)  # what is wrong with it is said here, and every worker gets the same engine
    predictor = {**predictor, "package": os.path.abspath(predictor["package"]), "backend": opened.backend}
    begun = _begun(folder, resume)
    with _cluster() as ray:
        room = _room(ray, predictor["threads"])
        workers = min(workers or room, room)  # more would wait for processors that are taken
        cut_for = begun.get("cut_for", workers)  # with other workers, too, the parts are those of the first start
        photos = parts.find(source, infer_list, folder, cut_for, anew=not begun)
        package = identity(opened.package)
        asked = {"cut_for": cut_for, "photos": photos.identity, "package": package, "topk": opened.topk}
        _check_same(folder, begun, asked)
        write_text(folder / JOB, json.dumps(asked), where="--save")
        orders = Orders(photos.kind, photos.root, folder, predictor, batch_size, package)
        done = _add_up(_answered(ray, orders, photos.parts, workers), len(photos.parts))
    done.workers = workers
    remove(folder / "_work")
    write_text(folder / JOB, json.dumps({**asked, "done": asdict(done)}), where="--save")
    _say(done, folder)
    return done


def _begun(folder: Path, resume: bool) -> dict:
    """Return what a job was begun with in the folder; nothing where there is none, or one that was killed before that.

    Raises:
        UserError: there is one, and nobody asked to go on with it; or the folder is something else.
    """
    if not folder.exists():
        return {}
    job = folder / JOB
    if not folder.is_dir():
        raise UserError("it exists, and is no folder of an earlier job", where=folder, hint="another --save")
    if not job.is_file():
        strange = sorted(path.name for path in folder.iterdir() if not _is_left(path))
        if strange:
            raise UserError(
                f"it holds {strange[0]!r}, which is no beginning of a job, and there is no {JOB}",
                where=folder,
                hint="another --save",
            )
        return {}
    if not resume:
        have = sum(1 for _ in folder.glob("part-*"))
        raise UserError(
            f"it holds the answers of an earlier job ({have} parts)",
            where=folder,
            hint="--resume goes on with it; another --save, or remove the folder, to answer anew",
        )
    try:
        found = json.loads(job.read_text(encoding="utf-8"))
        return {key: found[key] for key in ("cut_for", "photos", "package", "topk")}
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedFileError("this is not what a job writes", where=job, hint="another --save") from error


def _is_left(path: Path) -> bool:
    """Whether a job that was killed before it answered anything, or knew what was asked, has left a file."""
    if path.name == parts.LISTED:
        return parts.is_listing(path)
    return is_partial(path, JOB) or is_partial(path, parts.LISTED)


def _check_same(folder: Path, begun: dict, asked: dict) -> None:
    """Refuse to answer one half of a job in another way than the other."""
    other = [key for key in begun if begun[key] != asked[key]]
    if other:
        raise UserError(
            f"the job there was begun with another value of: {', '.join(other)}",
            where=folder,
            hint="the words of the first start with --resume, or another --save",
        )


@contextmanager
def _cluster() -> Iterator:
    """Give Ray, connected: to the cluster that is there, or to one of this machine's own for the time of the block."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it tells its makers otherwise
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what its C++ remarks is in its own log files
    import ray

    if ray.is_initialized():
        yield ray
        return
    _look_for(os.environ.get("RAY_ADDRESS", ""))
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        ray.init(address="auto", **quiet)
    except ConnectionError:  # there is none
        local = {"num_cpus": usable_cores(), "object_store_memory": STORE, "include_dashboard": False}
        ray.init(address="local", **local, **quiet)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"Ray takes {os.environ.get('RAY_ADDRESS', '')!r} for no cluster: {str(error).splitlines()[0]}",
            where="RAY_ADDRESS",
            allowed="host:port, as `ray start --head` prints it; nothing: a cluster of this machine's own",
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _room(ray, threads: int) -> int:
    """Return for how many workers of so many threads the cluster has processors.

    Raises:
        UserError: for none: Ray would wait for such a machine without a word.
    """
    each = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    room = sum(processors // threads for processors in each)
    if not room:
        raise UserError(
            f"no machine of the cluster has {threads} processors for a worker, the largest has {max(each, default=0)}",
            where="--threads",
            hint="fewer of them",
        )
    return room


def _look_for(address: str) -> None:
    """Refuse an address where nothing listens: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or "/" in host:  # a word of Ray's: auto, local
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise UserError(
            f"there is no Ray cluster at {address!r}: {error}",
            where="RAY_ADDRESS",
            hint="`ray start --head` prints its address; without RAY_ADDRESS a cluster of this machine's own is used",
        ) from error


def _answered(ray, orders: Orders, pieces: Sequence[parts.Part], workers: int) -> Iterator[dict]:
    """Yield what :class:`Worker` says of each part, as they are answered."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # ours counts photos
    for name in ("ray.data", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)
    rows = ray.data.from_items([asdict(part) for part in pieces], override_num_blocks=min(len(pieces), BLOCKS))
    pool = ray.data.ActorPoolStrategy(
        min_size=1, max_size=workers, initial_size=workers, max_tasks_in_flight_per_actor=2
    )
    yield from rows.map(
        Worker,
        fn_constructor_kwargs={"orders": orders},
        compute=pool,
        num_cpus=orders.predictor["threads"],
    ).iter_rows()


def _add_up(told: Iterator[dict], total: int) -> Done:
    """Add up what the workers say.

    Raises:
        UserError: one of them met what the user has to mend; every part that is finished stays.
    """
    done, began, ended = Done(), math.inf, -math.inf
    with bar(total=total, unit="part") as progress:
        for each in told:
            if each["fault"]:
                raise UserError(each["fault"], hint="--resume then goes on: what is answered stays")
            done.parts += 1
            done.photos += each["photos"]
            done.failed += each["failed"]
            done.parts_before += each["before"]
            if not each["before"]:
                done.photos_now += each["photos"]
                began, ended = min(began, each["began"]), max(ended, each["ended"])
            progress.set_postfix_str(f"{done.photos} photos", refresh=False)
            progress.update()
    done.seconds = max(0.0, ended - began)
    return done


def _say(done: Done, folder: Path) -> None:
    if done.parts_before:
        tell(f"{done.parts_before} of {done.parts} parts were answered before")
    if done.photos_now:
        tell(
            f"{done.photos_now} photos in {done.seconds:.1f} s: {done.rate:.1f} a second, "
            f"{done.workers} worker{'s' * (done.workers > 1)}"
        )
    tell(f"{done.photos} answers in {done.parts} parts written to {folder}")
    if done.failed:
        tell(f"{done.failed} of {done.photos} photos could not be used")
