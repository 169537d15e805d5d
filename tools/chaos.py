"""Break training runs on purpose and count what survives.

    python tools/chaos.py --kills 200            # SIGKILL at random moments
    python tools/chaos.py --kills 50 --kind taught   # of a run with a teacher; several: with several labels a photo
    python tools/chaos.py --faults               # at every system call of a save: SIGKILL, ENOSPC, EROFS, EIO
    python tools/chaos.py --machines 20          # SIGKILL of one of two machines that train together

Each trial starts a real run (MobileNetV2 x0.25 on 16 small photos) that saves every few steps, breaks it, and lets the
next start go on with ``Global.checkpoints=auto``. A trial is

* lost, when no checkpoint verifies, or the newest one is more than a save interval older than it may be;
* wrong, when the run ends otherwise than it should, or the finished run's losses and weights are not, bit for bit,
  those of a run that nothing disturbed;
* survived, otherwise.

Two machines are two launchers in network namespaces of their own where that is allowed (root on Linux with iproute2),
else at 127.0.0.1 and 127.0.0.2. What is killed is the training process of one, or all of its processes; with namespaces
a last trial cuts the cable. There a trial is lost as well when the other machine has not ended within a minute, or has
not said in one line which process is gone.

The exit code is 1 unless nothing is lost or wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import errno
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from ppmobilenet.config import load_config  # noqa: E402
from ppmobilenet.errors import DamagedFileError, UserError  # noqa: E402
from ppmobilenet.training import checkpoint, disk  # noqa: E402
from ppmobilenet.training.trainer import train  # noqa: E402
from ppmobilenet.weights.writing import write_weights  # noqa: E402
from ppmobilenet.zoo import create_model  # noqa: E402

SAVE_STEPS = 2
# a save runs beside training: while one is being written, the steps of the next interval are done, too
MAY_BE_LOST = 2 * SAVE_STEPS
FAULTS = {"kill": None, "ENOSPC": errno.ENOSPC, "EROFS": errno.EROFS, "EIO": errno.EIO}
CALLS = ("open", "write", "fsync", "rename", "replace", "link", "mkdir")

YAML = """
Global: {{output_dir: {out}, device: cpu, epochs: 3, seed: 3, save_steps: {save}, print_batch_step: 1,
         checkpoints: auto, image_shape: [3, 32, 32], cpu_kernels: "off"}}
Arch: {{name: MobileNetV2_x0_25, class_num: 2}}
Optimizer: {{name: Momentum, lr: {{name: Cosine, learning_rate: 0.02}}}}
DataLoader:
  Train:
    dataset:
      name: ImageNetDataset
      image_root: {data}
      cls_label_path: {data}/list.txt
      transform_ops:
        - DecodeImage: {{to_rgb: True, channel_first: False}}
        - RandCropImage: {{size: 32}}
        - NormalizeImage: {{scale: 1.0/255.0, mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2], order: ''}}
    sampler: {{name: DistributedBatchSampler, batch_size: 4, shuffle: True}}
    loader: {{num_workers: 0}}
  Eval:
    dataset:
      name: ImageNetDataset
      image_root: {data}
      cls_label_path: {data}/list.txt
      transform_ops:
        - DecodeImage: {{to_rgb: True, channel_first: False}}
        - ResizeImage: {{size: 32}}
        - NormalizeImage: {{scale: 1.0/255.0, mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2], order: ''}}
    sampler: {{name: DistributedBatchSampler, batch_size: 16}}
    loader: {{num_workers: 0}}
"""


# a run that learns from a teacher, whose answers are kept, with an average of the weights and photos without labels
TAUGHT = """
Teacher: {{name: MobileNetV1_x0_25, pretrained: {data}/teacher.pdparams, views: 2}}
Loss:
  Train:
    - DistillationKLDivLoss: {{temperature: 2}}
    - DistillationRKDLoss: {{weight: 0.1, student_keepkeys: [avg_pool], teacher_keepkeys: [avg_pool]}}
    - CELoss: {{weight: 0.5}}
EMA: {{decay: 0.9}}
"""
UNLABELLED = """
  UnLabelTrain:
    dataset:
      name: ImageNetDataset
      image_root: {data}
      transform_ops:
        - DecodeImage: {{to_rgb: True, channel_first: False}}
        - RandCropImage: {{size: 32}}
        - NormalizeImage: {{scale: 1.0/255.0, mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2], order: ''}}
    sampler: {{name: DistributedBatchSampler, batch_size: 3, shuffle: True}}
    loader: {{num_workers: 0}}
"""
# a run whose photos have several labels
SEVERAL = """
Loss: {{Train: [MultiLabelLoss: {{weight_ratio: True, size_sum: True}}], Eval: [MultiLabelLoss: ]}}
Metric: {{Train: [AccuracyScore: ], Eval: [ATTRMetric: ]}}
EMA: {{decay: 0.9}}
"""
KINDS = {
    "plain": YAML,
    "taught": YAML + UNLABELLED + TAUGHT,
    "several": YAML.replace("ImageNetDataset", "MultiLabelDataset").replace("list.txt", "labels.txt") + SEVERAL,
}


def write_teacher(folder: Path) -> None:
    """Write random weights for a teacher, in a process of its own: this one computes nothing."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    state = create_model("MobileNetV1_x0_25", class_num=2).state_dict()
    write_weights({key: value.numpy() for key, value in state.items()}, folder / "teacher.pdparams")
    os._exit(0)


def write_photos(folder: Path) -> None:
    """Write 16 photos of two classes, and their lists: one label a photo, and several."""
    rng = np.random.default_rng(0)
    lines = []
    for i in range(16):
        image = rng.integers(0, 100, (36, 40, 3)) + (i % 2) * 90
        cv2.imwrite(str(folder / f"{i}.png"), image.astype(np.uint8))
        lines.append(f"{i}.png {i % 2}\n")
    (folder / "list.txt").write_text("".join(lines))
    (folder / "labels.txt").write_text("".join(f"{i}.png\t{i % 2},{i // 2 % 2}\n" for i in range(16)))


def start(yaml: Path, out: Path, fault: tuple[str, int] | None = None) -> int:
    """Start a run in a process of its own and return its id.

    A fork of this process, which has imported Paddle and computed nothing: that saves seconds in each trial.
    """
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        with open(out.with_suffix(".log"), "a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        if fault is not None:
            break_call(*fault)
        train(load_config(yaml, [f"Global.output_dir={out}"]))
        code = 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def break_call(fault: str, number: int) -> None:
    """Let the ``number``-th of the calls that saves make fail with ``fault``, or kill this process in it."""
    count = 0

    def broken(name: str, call):
        def replacement(*args, **kwargs):
            nonlocal count
            if threading.current_thread().name != "checkpoint writer":
                return call(*args, **kwargs)
            count += 1
            if count - 1 != number:
                return call(*args, **kwargs)
            if name == "write":  # half of it gets to the disk
                call(args[0], args[1][: len(args[1]) // 2])
            if FAULTS[fault] is None:
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(FAULTS[fault], os.strerror(FAULTS[fault]))

        return replacement

    for name in CALLS:
        setattr(os, name, broken(name, getattr(os, name)))


def count_calls(yaml: Path, out: Path) -> int:
    """Return how many calls the first two saves of a run make."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        with os.fdopen(reader) as file:
            count = int(file.read())
        os.waitpid(child, 0)
        return count
    count, saves = 0, 0
    original = checkpoint.write

    def counted(call):
        def replacement(*args, **kwargs):
            nonlocal count
            if threading.current_thread().name == "checkpoint writer" and saves < 2:
                count += 1
            return call(*args, **kwargs)

        return replacement

    def write(*args):
        nonlocal saves
        result = original(*args)
        saves += 1
        return result

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
    checkpoint.write = write
    with open(os.devnull, "w") as null:
        os.dup2(null.fileno(), 1)
    train(load_config(yaml, [f"Global.output_dir={out}", "Global.epochs=1"]))
    os.close(reader)
    with os.fdopen(writer, "w") as file:
        file.write(str(count))
    os._exit(0)


def losses(out: Path) -> dict[str, str]:
    """Step -> loss, all digits."""
    path = out / "steps.csv"
    if not path.is_file():
        return {}
    with open(path, newline="") as file:
        return {row["step"]: row["loss"] for row in csv.DictReader(file) if row.get("loss")}


def steps_done(out: Path) -> int:
    return max((int(step) for step in losses(out) if step.isdecimal()), default=0)


def saved_step(out: Path) -> int:
    """Return the step of the newest checkpoint that verifies; 0 where none was due yet."""
    found = checkpoint.find("auto", out, "MobileNetV2_x0_25")
    if found is None:
        return 0
    return disk.read_manifest(found.stem.with_name(disk.MANIFEST))["step"]


def weights(out: Path) -> bytes:
    """Return the finished run's weight file: equal weights are equal bytes."""
    return (out / "latest.pdparams").read_bytes()


class Campaign:
    """Trials and their counts.

    Args:
        yaml: the run's configuration.
        root: where runs are made.
    """

    def __init__(self, yaml: Path, root: Path):
        self.yaml, self.root = yaml, root
        self.counts: Counter = Counter(survived=0, lost=0, wrong=0)
        self.most_lost = 0
        self.runs = 0
        began = time.monotonic()
        self.reference = self.new_run()
        if self.finish(self.reference):
            sys.exit(f"the undisturbed run fails; see {self.reference.with_suffix('.log')}")
        self.seconds = time.monotonic() - began
        self.expected = losses(self.reference), weights(self.reference)

    def new_run(self) -> Path:
        self.runs += 1
        return self.root / f"run{self.runs}"

    def finish(self, out: Path) -> int:
        """Run to the end and return the exit code."""
        return os.waitstatus_to_exitcode(os.waitpid(start(self.yaml, out), 0)[1])

    def judge(self, out: Path, before: int) -> str:
        """Say what became of a run that was broken; ``before`` steps had been done when it was started."""
        done = max(before, steps_done(out))
        try:
            saved = saved_step(out)
        except DamagedFileError as error:
            return self.count("lost", f"{out}: {error}")
        self.most_lost = max(self.most_lost, done - saved)
        if done - saved > MAY_BE_LOST:
            return self.count("lost", f"{out}: {done} steps done, {saved} saved")
        expected = self.expected[0]
        if any(expected.get(step) != loss for step, loss in losses(out).items() if int(step) <= saved):
            return self.count("wrong", f"{out}: other losses than the undisturbed run")
        return "survived"

    def judge_end(self, out: Path, code: int) -> str:
        """Say whether a finished run is the undisturbed one."""
        if code:
            return self.count("wrong", f"{out}: the resumed run ends with {code}; see {out.with_suffix('.log')}")
        if (losses(out), weights(out)) != self.expected:
            return self.count("wrong", f"{out}: not the losses or weights of the undisturbed run")
        return "survived"

    def count(self, what: str, why: str) -> str:
        print(f"{what}: {why}", flush=True)
        return what

    def enter(self, what: str, out: Path) -> None:
        """Count a trial; the files of a good one go."""
        self.counts[what] += 1
        if what == "survived":
            shutil.rmtree(out, ignore_errors=True)

    def kills(self, number: int, rng: random.Random) -> None:
        """SIGKILL at random moments; a run is resumed and killed again until it ends."""
        out, before, trial = self.new_run(), 0, 0
        while trial < number:
            child = start(self.yaml, out)
            deadline = time.monotonic() + rng.uniform(0.02, self.seconds * 0.7)
            status = None
            while status is None and time.monotonic() < deadline:
                ended, code = os.waitpid(child, os.WNOHANG)
                status = code if ended else None
                time.sleep(0.005)
            if status is not None:  # it came to its end before
                what = self.judge_end(out, os.waitstatus_to_exitcode(status))
                if what != "survived":
                    self.counts[what] += 1
                else:
                    shutil.rmtree(out)
                out, before = self.new_run(), 0
                continue
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            trial += 1
            what = self.judge(out, before)
            self.counts[what] += 1
            if what != "survived":
                out, before = self.new_run(), 0
            else:
                before = saved_step(out)
            if trial % 20 == 0:
                print(f"{trial} of {number} kills: {dict(self.counts)}", flush=True)
        if steps_done(out):
            what = self.judge_end(out, self.finish(out))
            if what != "survived":
                self.counts[what] += 1

    def faults(self, most: int | None, rng: random.Random) -> None:
        """Each kind of fault at each call of the first two saves, or at ``most`` of these drawn at random."""
        calls = count_calls(self.yaml, self.new_run())
        trials = [(fault, number) for number in range(calls) for fault in FAULTS]
        print(f"{calls} system calls in two saves, {len(trials)} faults", flush=True)
        if most is not None:
            trials = rng.sample(trials, min(most, len(trials)))
        for i, (fault, number) in enumerate(trials, 1):
            out = self.new_run()
            code = os.waitstatus_to_exitcode(os.waitpid(start(self.yaml, out, (fault, number)), 0)[1])
            what = self.judge(out, 0)
            if what == "survived" and code not in ((-signal.SIGKILL,) if fault == "kill" else (0, 2)):
                what = self.count("wrong", f"{fault} at call {number}: exit code {code}")
            if what == "survived":
                what = self.judge_end(out, self.finish(out))
            if what != "survived":
                print(f"  by {fault} at call {number} of {calls}", flush=True)
            self.enter(what, out)
            if i % 20 == 0:
                print(f"{i} of {len(trials)} faults: {dict(self.counts)}", flush=True)


class Network:
    """Two addresses: of network namespaces with a cable between them, or of this machine's loopback."""

    def __init__(self):
        self.spaces = [f"chaos{os.getpid()}-{i}" for i in range(2)]
        self.hosts, self.cuts = [f"10.77.0.{i + 1}" for i in range(2)], True
        words = [f"ip netns add {space}" for space in self.spaces]
        words.append("ip link add eth0 netns {} type veth peer name eth0 netns {}".format(*self.spaces))
        for space, host in zip(self.spaces, self.hosts):
            words += [f"ip -n {space} address add {host}/24 dev eth0", f"ip -n {space} link set lo up"]
            words.append(f"ip -n {space} link set eth0 up")
        try:
            for each in words:
                subprocess.run(each.split(), check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            self.close()
            self.spaces, self.hosts, self.cuts = [], ["127.0.0.1", "127.0.0.2"], False

    def inside(self, machine: int) -> list[str]:
        """Return the words before a command that is to run on a machine."""
        return ["ip", "netns", "exec", self.spaces[machine]] if self.spaces else []

    def cable(self, state: str) -> None:
        """Let the cable be ``up`` or ``down``."""
        subprocess.run(["ip", "-n", self.spaces[1], "link", "set", "eth0", state], check=True)

    def close(self) -> None:
        for space in self.spaces:
            subprocess.run(["ip", "netns", "del", space], capture_output=True)


def kill(launcher: subprocess.Popen, *, launcher_too: bool = True) -> None:
    """SIGKILL a launcher and the processes that it started: these are no part of its group."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
    pids = list(map(int, children.read_text().split())) if children.exists() else []
    for pid in [launcher.pid, *pids] if launcher_too and launcher.poll() is None else pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Machines(Campaign):
    """Trials with two machines that train together, each with one process."""

    WORDS = ("Global.epochs=16", "Optimizer.lr.learning_rate=0.002", "EMA={decay: 0.9}")
    LIMIT = 60.0  # seconds in which the other machine has to have ended

    def __init__(self, yaml: Path, root: Path):
        self.network, self.longest = Network(), 0.0
        try:
            super().__init__(yaml, root)
        except SystemExit:
            self.network.close()
            raise
        with open(self.reference / "metrics.csv", newline="") as file:
            self.training = sum(float(row["seconds"]) for row in csv.DictReader(file))

    def start(self, out: Path) -> list[subprocess.Popen]:
        """Start both launchers."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            master = f"{self.network.hosts[0]}:{probe.getsockname()[1]}"
        launch = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "1", "--nnodes", "2"]
        script = [str(Path(__file__).with_name("train.py")), "-c", str(self.yaml), "--no-report"]
        script += [word for each in (*self.WORDS, f"Global.output_dir={out}") for word in ("-o", each)]
        processes = []
        for i, host in enumerate(self.network.hosts):
            place = ["--master", master, "--rank", str(i), "--host", host, "--log_dir", f"{out}.log{i}"]
            shutil.rmtree(f"{out}.log{i}", ignore_errors=True)  # Paddle adds to an earlier start's
            with open(f"{out}.launcher{i}", "w") as log:
                processes.append(
                    subprocess.Popen(
                        [*self.network.inside(i), *launch, *place, *script],
                        stdout=log,
                        stderr=subprocess.STDOUT,
                    )
                )
        return processes

    def finish(self, out: Path) -> int:
        return max(process.wait() for process in self.start(out))

    def kills(self, number: int, rng: random.Random) -> None:
        """SIGKILL of a machine's training process or of all its processes, ``number`` times, and then the cable."""
        out, trial, before = self.new_run(), 0, 0
        ways = ["process", "machine"] * number
        ways = ways[:number] + ["cable"] * self.network.cuts
        while trial < len(ways):
            running, victim = self.start(out), rng.randrange(2)
            if not self.wait_for_step(running, out, before, rng.uniform(0, 0.8 * self.training)):
                self.enter(self.judge_end(out, max(process.wait() for process in running)), out)
                self.counts["survived"] -= 1  # an end is no kill
                out, before = self.new_run(), 0
                continue
            what = self.break_one(running, victim, ways[trial])
            trial += 1
            if what == "survived":
                what = self.judge(out, before)
            if what == "survived" and victim == 1 and steps_done(out) - saved_step(out) > 1:
                what = self.count("lost", f"{out}: process 0 lives, and has not saved up to its last step")
            self.counts[what] += 1
            out, before = (out, saved_step(out)) if what == "survived" else (self.new_run(), 0)
            print(f"{trial} of {len(ways)}: {ways[trial - 1]} {victim}, {dict(self.counts)}", flush=True)
        self.enter(self.judge_end(out, self.finish(out)), out)
        self.counts["survived"] -= 1
        self.network.close()

    def wait_for_step(self, running: list[subprocess.Popen], out: Path, before: int, more: float) -> bool:
        """Wait for the first step of a start and some seconds more; return whether it is in its steps then.

        Before it the other machine may rightly wait for the one that is gone, which Paddle has not met yet.
        """
        deadline, began = None, time.time()
        while running[0].poll() is None:
            # what stands there is of an earlier start until this one has cut off what was not saved
            done = (
                steps_done(out) if (out / "steps.csv").exists() and (out / "steps.csv").stat().st_mtime > began else 0
            )
            if done > len(self.expected[0]) - 2:
                return False
            if deadline is None and done > before:
                deadline = time.monotonic() + more
            if deadline is not None and time.monotonic() > deadline:
                return True
            time.sleep(0.02)
        return False

    def break_one(self, running: list[subprocess.Popen], victim: int, way: str) -> str:
        """Break a machine, and say whether the other one ends as it should."""
        began, other = time.monotonic(), 1 - victim
        if way == "cable":
            self.network.cable("down")
        else:
            kill(running[victim], launcher_too=way == "machine")
        try:
            running[other].wait(self.LIMIT)
        except subprocess.TimeoutExpired:
            return self.count("lost", f"{way} {victim}: the other machine has not ended after {self.LIMIT:.0f} s")
        finally:
            self.longest = max(self.longest, time.monotonic() - began)
            for process in running:
                kill(process)
                process.wait()
            if way == "cable":
                self.network.cable("up")
        log = Path(f"{self.root}/run{self.runs}.log{other}/workerlog.0").read_text(errors="replace")
        said = [line for line in log.splitlines() if line.startswith("stopped:")]
        if len(said) != 1 or f"process {victim} (" not in said[0]:
            return self.count("lost", f"{way} {victim}: process {other} does not name it once: {said or log[-500:]}")
        return "survived"


def main() -> int:
    """Run the campaigns that the command line asks for."""
    parser = argparse.ArgumentParser(description="break training runs on purpose and count what survives")
    parser.add_argument("--kills", type=int, default=0, metavar="N", help="SIGKILL at N random moments")
    parser.add_argument("--faults", action="store_true", help="every fault at every system call of two saves")
    parser.add_argument("--sample", type=int, metavar="N", help="with --faults: only N of them, drawn at random")
    parser.add_argument("--machines", type=int, default=0, metavar="N", help="SIGKILL of one of two machines, N times")
    parser.add_argument("--kind", choices=list(KINDS), default="plain", help="of run (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the random choices (default: %(default)s)")
    args = parser.parse_args()
    if not args.kills and not args.faults and not args.machines:
        parser.error("give --kills N, --faults or --machines N")
    began = time.monotonic()
    root = Path(tempfile.mkdtemp(prefix="chaos-"))
    write_photos(root)
    yaml = root / "run.yaml"
    yaml.write_text(KINDS[args.kind].format(out=root / "out", data=root, save=SAVE_STEPS))
    if args.kind == "taught":
        write_teacher(root)
    campaign = (Machines if args.machines else Campaign)(yaml, root)
    rng = random.Random(args.seed)
    if args.kills or args.machines:
        campaign.kills(args.machines or args.kills, rng)
    if args.faults:
        campaign.faults(args.sample, rng)
    counts = campaign.counts
    if args.machines:
        print(f"the other machine had ended after {campaign.longest:.0f} s at most, at {campaign.network.hosts[1]}")
    print(
        f"survived: {counts['survived']}, lost: {counts['lost']}, wrong: {counts['wrong']}; at most "
        f"{campaign.most_lost} steps redone (saves every {SAVE_STEPS}); {time.monotonic() - began:.0f} s"
    )
    failed = counts["lost"] + counts["wrong"]
    if failed:
        print(f"the broken runs are in {root}")
    else:
        shutil.rmtree(root)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
