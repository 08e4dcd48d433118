"""Small ONNX models, saved as `model.onnx`."""

from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import TensorProto, helper

FLOAT, STRING, INT64, BFLOAT16 = TensorProto.FLOAT, TensorProto.STRING, TensorProto.INT64, TensorProto.BFLOAT16
Value = tuple[str, int, Sequence[int | str]]


def save(version_dir: Path, nodes: Sequence[onnx.NodeProto], inputs: Sequence[Value], outputs: Sequence[Value]) -> Path:
    version_dir.mkdir(parents=True, exist_ok=True)
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, version_dir / "model.onnx")
    return version_dir


def pair(version_dir: Path, rows: int | str = "batch") -> Path:
    """s = x + y, and t = tanh(x)."""
    nodes = [helper.make_node("Add", ["x", "y"], ["s"]), helper.make_node("Tanh", ["x"], ["t"])]
    x, y, s, t = ((name, FLOAT, [rows, 4]) for name in "xyst")
    return save(version_dir, nodes, [x, y], [s, t])


def same(version_dir: Path, kind: int, shape: Sequence[int | str]) -> Path:
    """o is x."""
    return save(version_dir, [helper.make_node("Identity", ["x"], ["o"])], [("x", kind, shape)], [("o", kind, shape)])
