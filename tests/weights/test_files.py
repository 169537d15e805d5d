"""Reading and writing weight files, through the public functions."""

from __future__ import annotations

import os
import pickle
import struct

import numpy as np
import pytest

from ppmobilenet.errors import DamagedFileError, UserError
from ppmobilenet.weights.files import read_pickle, read_weights
from ppmobilenet.weights.writing import write_weights


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "conv.weight": rng.normal(size=(8, 3, 3, 3)).astype("float32"),
        "half": rng.normal(size=(5,)).astype("float16"),
        "double.fortran": np.asfortranarray(rng.normal(size=(3, 4))),
        "count": np.array(7, "int64"),
        "empty": np.zeros((0, 3), "float32"),
    }


def assert_same(read: dict, arrays: dict) -> None:
    assert list(read) == list(arrays)
    for key, array in arrays.items():
        assert read[key].dtype == array.dtype and read[key].shape == array.shape, key
        np.testing.assert_array_equal(read[key], array)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_reads_every_pickle_protocol(tmp_path, arrays, protocol):
    path = tmp_path / "w.pdparams"
    path.write_bytes(pickle.dumps({**arrays, "StructuredToParameterName@@": {"a": "b"}}, protocol))
    assert_same(read_weights(path), arrays)


@pytest.mark.parametrize("spelling", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_reads_the_names_of_numpy_1_and_2(tmp_path, arrays, spelling):
    content = pickle.dumps(arrays, 2)
    for name in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        content = content.replace(b"c" + name, b"c" + spelling)
    (tmp_path / "w.pdparams").write_bytes(content)
    assert_same(read_weights(tmp_path / "w.pdparams"), arrays)


def test_reads_what_python_2_wrote(tmp_path):
    # Python 2 wrote names and data as byte strings
    array = np.arange(6, dtype="<f4").reshape(2, 3)
    data = array.tobytes()
    content = (
        b"\x80\x02}q\x00(U\x06weightcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02K\x03\x86cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        b"K\x00tb\x89T" + struct.pack("<i", len(data)) + data + b"tbu."
    )
    assert pickle.loads(content, encoding="latin1")["weight"].tolist() == array.tolist()
    (tmp_path / "w.pdparams").write_bytes(content)
    assert_same(read_weights(tmp_path / "w.pdparams"), {"weight": array})


@pytest.mark.parametrize("extension", [".pdparams", ".npz", ".safetensors"])
def test_written_files_read_back_and_leave_nothing_else(tmp_path, arrays, extension):
    path = write_weights(arrays, tmp_path / "new" / f"w{extension}")
    assert_same(read_weights(path), arrays)
    assert_same(read_weights(path.with_suffix("")), arrays)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_written_pdparams_is_a_plain_pickle_for_any_numpy(tmp_path, arrays):
    content = write_weights(arrays, tmp_path / "w.pdparams").read_bytes()
    assert b"numpy._core" not in content
    value = pickle.loads(content)
    assert value.pop("StructuredToParameterName@@") == {key: key for key in arrays}
    assert_same(value, arrays)


def test_paddle_opens_what_we_write_and_we_open_what_paddle_writes(tmp_path):
    paddle = pytest.importorskip("paddle")
    layer = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3), paddle.nn.BatchNorm2D(4))
    state = {key: value.numpy() for key, value in layer.state_dict().items()}
    write_weights(state, tmp_path / "ours.pdparams")
    loaded = paddle.load(str(tmp_path / "ours.pdparams"))
    missing, unexpected = layer.set_state_dict(loaded)
    assert not missing and not unexpected
    paddle.save(layer.state_dict(), str(tmp_path / "theirs.pdparams"))
    assert_same(read_weights(tmp_path / "theirs"), state)


def test_paddle_optimizer_and_training_states_read_as_plain_values(tmp_path):
    paddle = pytest.importorskip("paddle")
    with paddle.utils.unique_name.guard():
        layer = paddle.nn.Linear(3, 2)
        optimizer = paddle.optimizer.Momentum(paddle.optimizer.lr.StepDecay(0.1, 3), parameters=layer.parameters())
        layer(paddle.ones([2, 3])).sum().backward()
        optimizer.step()
    paddle.save([optimizer.state_dict()], str(tmp_path / "w.pdopt"))
    (read,) = read_pickle(tmp_path / "w.pdopt")
    for key, value in optimizer.state_dict().items():
        if isinstance(value, paddle.Tensor):
            np.testing.assert_array_equal(
                np.asarray(read[key][1] if isinstance(read[key], tuple) else read[key]), value
            )
        else:
            assert read[key] == value
    states = {"epoch": 3, "metric": 0.5, "best": {"names": ["a", "b"], "n": np.float32(0.25)}}
    paddle.save(states, str(tmp_path / "w.pdstates"))
    assert read_pickle(tmp_path / "w.pdstates") == states


def test_safetensors_both_ways_with_its_own_package(tmp_path, arrays):
    package = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    plain = {key: np.array(array, order="C") for key, array in arrays.items()}
    package.save_file(plain, tmp_path / "theirs.safetensors", metadata={"format": "np"})
    assert_same(dict(sorted(read_weights(tmp_path / "theirs").items())), dict(sorted(arrays.items())))
    theirs = package.load_file(write_weights(arrays, tmp_path / "ours.safetensors"))
    assert_same(dict(sorted(theirs.items())), dict(sorted(arrays.items())))


def test_static_folder(shared):
    read = read_weights(shared / "weights" / "MobileNetV2_fluid")
    assert len(read) == 266 and "fc10_weights" not in read
    assert read["conv9_weights"].shape == (1280, 320, 1, 1) and read["conv9_weights"].dtype == np.float32


def bad_files() -> dict[str, tuple[bytes, str]]:
    good = pickle.dumps({"w": np.ones(1000, "float32")}, 4)
    return {
        "empty": (b"", "empty"),
        "truncated": (good[:-1000], "ends at byte"),
        "web page": (b"<!DOCTYPE html><html>404</html>", "web page"),
        "web page after a blank line": (b"\n\xef\xbb\xbf <HTML>", "web page"),
        "text": (b"hello world, this is not it", "no weight file"),
        "trailing": (good + b"more", "4 bytes follow"),
        "list": (pickle.dumps([1, 2]), "a list, not a dict"),
        "no arrays": (pickle.dumps({"epoch": 3}), "no weights; found: 'epoch'"),
        "objects": (pickle.dumps({"w": np.array([{}], dtype=object)}), "dtype"),
        "zip": (b"PK\x03\x04" + b"\0" * 50, "damaged"),
    }


@pytest.mark.parametrize("kind", bad_files())
def test_bad_files_are_one_clear_error(tmp_path, kind):
    content, words = bad_files()[kind]
    (tmp_path / "bad.pdparams").write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        read_weights(tmp_path / "bad.pdparams")
    assert "bad.pdparams" in str(caught.value)


def test_a_missing_file_names_its_neighbour(tmp_path):
    (tmp_path / "best_model.pdparams").write_bytes(b"x")
    with pytest.raises(UserError, match="did you mean 'best_model.pdparams'"):
        read_weights(tmp_path / "best_modle")


def test_a_folder_of_other_things_is_said(tmp_path):
    (tmp_path / "label_list.txt").write_text("0 dress\n")
    with pytest.raises(UserError, match="no folder of parameters: label_list.txt is none"):
        read_weights(tmp_path)


def test_the_folder_of_a_run_names_its_weights(tmp_path, arrays):
    write_weights(arrays, tmp_path / "best_model.pdparams")
    with pytest.raises(UserError, match="the folder of a run\n.*name the weights in it: .*best_model$"):
        read_weights(tmp_path)


def test_file_beside_a_folder_of_the_same_name_is_meant(tmp_path, arrays):
    write_weights(arrays, tmp_path / "best_model.pdparams")
    (tmp_path / "best_model").mkdir()
    assert_same(read_weights(tmp_path / "best_model"), arrays)


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_a_folder_that_cannot_be_written_is_a_user_error(tmp_path, arrays):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be written"):
        write_weights(arrays, tmp_path / "w.npz")


def test_a_failed_write_keeps_the_old_file(tmp_path, arrays):
    path = write_weights(arrays, tmp_path / "w.npz")
    with pytest.raises(ValueError):
        write_weights({"w": np.array([object()])}, path)
    assert_same(read_weights(path), arrays)
    assert len(list(tmp_path.iterdir())) == 1


def test_pickle_that_runs_code_is_named_and_does_not_run(tmp_path):
    class Bad:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    (tmp_path / "w.pdparams").write_bytes(pickle.dumps({"w": Bad()}))
    with pytest.raises(DamagedFileError, match="posix.system"):
        read_weights(tmp_path / "w")
    assert not (tmp_path / "ran").exists()
