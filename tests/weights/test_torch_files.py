"""PyTorch's files, read without PyTorch: written here by PyTorch where it is installed, and one stored real one."""

from __future__ import annotations

import pickle
import struct
import sys

import numpy as np
import pytest

from ppmobilenet.errors import DamagedFileError, UserError
from ppmobilenet.weights.files import read_weights

try:
    import torch
except ModuleNotFoundError:
    torch = None
needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch is not installed (make peers)")

DTYPES = ("float32", "float16", "float64", "bfloat16", "int64", "int32", "uint8", "int8", "int16", "bool")


@needs_torch
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_reads_every_dtype_and_layout(tmp_path, zipped):
    torch.manual_seed(0)
    base = torch.randn(6, 8) * 50
    state = {name: base.to(getattr(torch, name)) for name in DTYPES}
    state["transposed"] = base.t()
    state["part"] = base[2:5, ::2]
    state["shared"] = base
    state["scalar"] = torch.tensor(7)
    state["none"] = torch.zeros(0, 4)
    state["parameter"] = torch.nn.Parameter(base[0])
    torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    read = read_weights(tmp_path / "w")
    assert list(read) == list(state)
    for name, tensor in state.items():
        expected = tensor.detach().float() if name == "bfloat16" else tensor.detach()
        np.testing.assert_array_equal(read[name], expected.numpy(), err_msg=name)
        assert read[name].dtype == expected.numpy().dtype


@needs_torch
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_takes_the_weights_out_of_a_training_checkpoint(tmp_path, zipped):
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    net(torch.ones(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    checkpoint = {
        "epoch": 3,
        "best_acc1": torch.tensor(0.5),
        "state_dict": net.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    torch.save(checkpoint, tmp_path / "w.pth.tar", _use_new_zipfile_serialization=zipped)
    read = read_weights(tmp_path / "w")
    assert list(read) == list(net.state_dict())


@needs_torch
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_whole_pickled_network_is_refused_by_name(tmp_path, zipped):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(DamagedFileError, match="torch.nn.modules.linear.Linear"):
        read_weights(tmp_path / "w.pth")


@needs_torch
@pytest.mark.filterwarnings("ignore")
def test_a_torchscript_program_is_refused_with_what_to_do(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "w.pt"))
    with pytest.raises(UserError, match="TorchScript program.*\n.*torch.save"):
        read_weights(tmp_path / "w.pt")


def legacy_file() -> bytes:
    """A legacy file of {"w": [[0, 1, 2], [3, 4, 5]]} as PyTorch 1.5 writes it, byte by byte."""

    def reference(kind: str) -> bytes:
        return (
            b"(X\x07\x00\x00\x00storagectorch\n" + kind.encode() + b"\nX\x01\x00\x00\x007X\x03\x00\x00\x00cpuK\x06NtQ"
        )

    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + reference("FloatStorage")
        + (b"K\x00K\x02K\x03\x86K\x03K\x01\x86\x89ccollections\nOrderedDict\n)RtR")
    )
    return (
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
        + pickle.dumps(1001, 2)
        + pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2}}, 2)
        + b"\x80\x02}X\x01\x00\x00\x00w"
        + tensor
        + b"s."
        + pickle.dumps(["7"], 2)
        + struct.pack("<q", 6)
        + np.arange(6, dtype="<f4").tobytes()
    )


def test_a_stored_legacy_file_needs_no_pytorch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "w.pth").write_bytes(legacy_file())
    assert read_weights(tmp_path / "w.pth")["w"].tolist() == [[0, 1, 2], [3, 4, 5]]


@needs_torch
def test_the_stored_legacy_file_is_what_pytorch_reads(tmp_path):
    (tmp_path / "w.pth").write_bytes(legacy_file())
    assert torch.load(tmp_path / "w.pth", weights_only=True)["w"].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("cut", [1, 8, 23, 24, 30, 60])
def test_a_cut_legacy_file_is_damaged(tmp_path, cut):
    (tmp_path / "w.pth").write_bytes(legacy_file()[:-cut])
    with pytest.raises(DamagedFileError):
        read_weights(tmp_path / "w.pth")


@needs_torch
def test_a_flipped_byte_in_a_zip_is_found_by_its_checksum(tmp_path):
    torch.save({"w": torch.arange(1000.0)}, tmp_path / "w.pth")
    content = bytearray((tmp_path / "w.pth").read_bytes())
    at = content.index(struct.pack("<3f", 500, 501, 502))
    content[at + 2] ^= 1
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(DamagedFileError, match="checksum"):
        read_weights(tmp_path / "w.pth")


def test_the_real_legacy_file_equals_its_npz(shared):
    legacy = read_weights(shared / "weights" / "MobileNetV1_x0_25_torch_legacy.pth.tar")
    npz = read_weights(shared / "weights" / "MobileNetV1_x0_25.npz")
    np.testing.assert_array_equal(legacy["module.fc.weight"].T, npz["fc.weight"])
    np.testing.assert_array_equal(legacy["module.stage1.0.0.weight"], npz["conv.conv.weight"])
