"""`make demo`: handwritten digits from PNG files to predictions of the exported model, each step a real command.

Every step is printed as the command you would type, and runs as that command.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

CONFIG = "configs/quick_start/MobileNetV2_x0_25_digits.yaml"
DEMO = Path("demo")
LEAST_TOP1 = 0.97


def run(*words: str) -> None:
    """Show a command and run it; stop here when it fails."""
    print(f"\n$ python {' '.join(words)}", flush=True)
    done = subprocess.run([sys.executable, *words])
    if done.returncode:
        sys.exit(f"demo stopped: this command ended with exit code {done.returncode}")


def main() -> None:
    """Run the demo in the repository's top folder."""
    start = time.monotonic()
    best = f"Global.pretrained_model={DEMO}/output/best_model"
    three = DEMO / "three"
    run("tools/make_digits.py", str(DEMO / "digits"))
    run("tools/train.py", "-c", CONFIG)
    run("tools/eval.py", "-c", CONFIG, "-o", best, "--json", str(DEMO / "eval.json"))
    run("tools/export_model.py", "-c", CONFIG, "-o", best)
    three.mkdir(exist_ok=True)
    for line in (DEMO / "digits/val_list.txt").read_text(encoding="utf-8").splitlines()[:3]:
        file, label = line.split()
        (three / f"a_{label}.png").write_bytes((DEMO / "digits" / file).read_bytes())
    run("tools/infer.py", "-i", str(three), "-m", str(DEMO / "inference"))

    top1 = json.loads((DEMO / "eval.json").read_text(encoding="utf-8"))["top1"]
    print(f"\n{top1:.1%} of the held-out digits are right, in {time.monotonic() - start:.0f} s. Where everything lies:")
    for path, what in {
        "digits": "the photos and their list files",
        "output": "weights (best_model, latest), train.log, metrics, the effective configuration",
        "eval.json": "the evaluation",
        "inference": "the exported model for Paddle Inference, with its preprocessing and labels",
        "three": "the three digits that were predicted (a_7.png is a seven)",
    }.items():
        print(f"  {DEMO / path!s:<16} {what}")
    if top1 < LEAST_TOP1:
        sys.exit(f"demo failed: top-1 {top1:.4f} is below {LEAST_TOP1}")


if __name__ == "__main__":
    main()
