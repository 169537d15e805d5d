"""Reading is lazy: peak memory stays under 2.2 times the file, whatever its kind."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ppmobilenet.weights.writing import write_weights

# reads a file, or loads it into a model, and prints by how much the process grew at its peak
MEASURE = """
import sys
import numpy as np
from ppmobilenet.weights.files import read_weights
path, model = sys.argv[1], None
if len(sys.argv) > 2:
    from ppmobilenet.zoo import create_model
    from ppmobilenet.weights.loading import load_weights
    model = create_model(sys.argv[2])

def peak():
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["VmHWM"].split()[0]) * 1024

open("/proc/self/clear_refs", "w").write("5")  # the peak so far is forgotten
before = peak()
if model is None:
    arrays = read_weights(path)
    total = sum(float(np.asarray(array, "float32").sum()) for array in arrays.values())
else:
    load_weights(model, path)
print(peak() - before)
"""


def growth(repo: Path, *words: object) -> int:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("only Linux tells a process's peak memory")
    done = subprocess.run([sys.executable, "-c", MEASURE, *map(str, words)], cwd=repo, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


@pytest.fixture(scope="module")
def large() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {f"w{i}": rng.random((1000, 1000), "float32") for i in range(10)}


@pytest.mark.parametrize("kind", ["p2.pdparams", "p4.pdparams", "w.npz", "w.safetensors", "zip.pth", "legacy.pth"])
def test_peak_of_reading(tmp_path, large, repo, kind):
    path = tmp_path / kind
    if kind.startswith("p"):
        path.write_bytes(pickle.dumps(large, int(kind[1])))
    elif kind.startswith("w"):
        write_weights(large, path)
    else:
        torch = pytest.importorskip("torch", reason="PyTorch is not installed (make peers)")
        state = {key: torch.from_numpy(array) for key, array in large.items()}
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip.pth")
    ratio = growth(repo, path) / path.stat().st_size
    print(f"{kind}: {ratio:.2f} times the file")
    assert ratio < 2.2


def test_peak_of_loading(tmp_path, repo):
    pytest.importorskip("paddle")
    from ppmobilenet.zoo import create_model

    state = {key: tensor.numpy() for key, tensor in create_model("MobileNetV2_x2_0").state_dict().items()}
    path = write_weights(state, tmp_path / "w.pdparams")
    ratio = growth(repo, path, "MobileNetV2_x2_0") / path.stat().st_size
    print(f"into a model: {ratio:.2f} times the file")
    assert ratio < 2.2
