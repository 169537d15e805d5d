"""The ONNX file itself: what it asks of a runtime, and its names."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper  # noqa: E402

from ppmobilenet.errors import UserError  # noqa: E402
from ppmobilenet.workshop.onnx import tidy  # noqa: E402


def tensor(name: str, kind: int = TensorProto.FLOAT, shape: tuple = (1, 2)):
    return helper.make_tensor_value_info(name, kind, shape)


def write(path, nodes, domains=(), output="y", initializers=()):
    """As a converter leaves it: every domain that it knows, an IR version of its own."""
    graph = helper.make_graph(nodes, "g", [tensor("x")], [tensor(output)], list(initializers))
    opsets = [helper.make_opsetid(domain, version) for domain, version in {"": 13, **dict(domains)}.items()]
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 9
    onnx.save(model, str(path))


def run(path, x) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_outputs()] == ["output"]
    return session.run(["output"], {"x": x})[0]


X = np.float32([[-1, 2]])


def test_domains_that_no_node_uses_are_left_out(tmp_path):
    path = tmp_path / "a.onnx"
    write(path, [helper.make_node("Relu", ["x"], ["y"])], {"ai.onnx.ml": 5, "com.microsoft": 1, "org.pytorch.aten": 1})
    assert tidy(path) == {"input": "x", "output": "output", "opset": 13, "ir_version": 7}
    model = onnx.load(str(path))
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 13)] and model.ir_version == 7
    assert run(path, X).tolist() == [[0, 2]]
    before = path.read_bytes()
    assert tidy(path)["output"] == "output" and path.read_bytes() == before


def test_a_domain_that_is_used_inside_of_control_flow_stays(tmp_path):
    branches = {}
    for key, node in {
        "then_branch": helper.make_node("Gelu", ["x"], ["output"], domain="com.microsoft"),
        "else_branch": helper.make_node("Relu", ["x"], ["other"]),
    }.items():
        branches[key] = helper.make_graph([node], key, [], [tensor(node.output[0])])
    nodes = [helper.make_node("If", ["yes"], ["y"], **branches)]
    path = tmp_path / "a.onnx"
    yes = helper.make_tensor("yes", TensorProto.BOOL, [], [False])
    write(path, nodes, {"com.microsoft": 1, "ai.onnx.ml": 5}, initializers=[yes])
    tidy(path)
    assert {entry.domain for entry in onnx.load(str(path)).opset_import} == {"", "com.microsoft"}
    assert run(path, X).tolist() == [[0, 2]]


def test_a_tensor_inside_that_has_the_outputs_name_steps_aside(tmp_path):
    path = tmp_path / "a.onnx"
    write(path, [helper.make_node("Relu", ["x"], ["output"]), helper.make_node("Neg", ["output"], ["y"])])
    tidy(path)
    assert run(path, X).tolist() == [[0, -2]]


def test_products_of_two_maps_stay_float_in_int8(tmp_path):
    """Attention multiplies what it has computed: no weights, so it is neither counted nor quantized."""
    pytest.importorskip("paddle")
    from ppmobilenet.workshop.quantizers import onnx_int8

    weight = onnx.numpy_helper.from_array(np.float32([[1, 2], [3, -4]]), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"], name="layer")]
    nodes += [helper.make_node("Transpose", ["x"], ["t"], name="turn", perm=[1, 0])]
    nodes += [helper.make_node("MatMul", ["t", "a"], ["y"], name="product")]
    write(tmp_path / "a.onnx", nodes, initializers=[weight])
    tensors = np.random.default_rng(0).normal(size=(4, 2)).astype("float32")
    assert onnx_int8(tmp_path / "a.onnx", tmp_path / "b.onnx", tensors, "abs_max", [], 1) == 1
    made = {node.name: node for node in onnx.load(str(tmp_path / "b.onnx")).graph.node}
    assert "product" in made and {"t", "a"} & {name.partition("_")[0] for name in made["product"].input}
    with pytest.raises(UserError, match="1 weighted layers, the network 2"):
        onnx_int8(tmp_path / "a.onnx", tmp_path / "c.onnx", tensors, "abs_max", [], 2)
