"""What a request's head says, checked against a model: all there is to do for each request like it."""

from collections.abc import Sequence
from typing import NamedTuple

from tritonclient.grpc import service_pb2 as pb

from nextact_server.inference.infer_check import TensorHead, check_heads
from nextact_server.inference.infer_spec import ModelSpec
from nextact_server.rpc.kserve.contents import InputPlan, input_plan
from nextact_server.rpc.kserve.parameters import SharedPart, classes_wanted, shared_part

__all__ = ["Plan", "Wish"]


class Wish(NamedTuple):
    """What is asked of one output: its tensor in shared memory, or its best classes."""

    shared: SharedPart | None
    classes: int


class Plan:
    """A head that fits a model: all there is to do for each request like it.

    Attributes:
        raw: the inputs in order, where each is raw bytes of a fixed size; None: contents must be looked at.
        inputs: the inputs in order, each with its shared memory and typed contents, if any.
        names: the outputs that responses hold.
        wishes: what is asked of outputs beside their plain tensor, mostly nothing.
    """

    __slots__ = ("batch_size", "inputs", "names", "output_names", "raw", "spec", "wishes")

    def __init__(self, spec: ModelSpec, head: pb.ModelInferRequest, raw_sizes: Sequence[int], request_id: str) -> None:
        heads = [TensorHead(each.name, each.datatype, tuple(each.shape)) for each in head.inputs]
        self.spec = spec
        self.output_names = tuple(dict.fromkeys(each.name for each in head.outputs))
        self.wishes = _wishes(head.outputs)
        self.batch_size = check_heads(spec, heads, self.output_names, request_id)
        self.names = frozenset(self.output_names or (output.name for output in spec.outputs))
        raw_at = 0
        inputs: list[tuple[InputPlan, SharedPart | None, pb.InferTensorContents | None]] = []
        for tensor, each in zip(heads, head.inputs, strict=True):
            shared = shared_part(each.name, each.parameters)
            contents = each.contents if each.HasField("contents") else None
            got = None
            if shared is None and contents is None and raw_at < len(raw_sizes):
                got = raw_sizes[raw_at]
                raw_at += 1
            inputs.append((input_plan(spec, tensor, got, request_id), shared, contents))
        self.inputs = tuple(inputs)
        is_plain = all(plan.byte_size >= 0 and not shared and contents is None for plan, shared, contents in inputs)
        self.raw = tuple(plan for plan, _, _ in inputs) if is_plain else None


def _wishes(outputs: Sequence[pb.ModelInferRequest.InferRequestedOutputTensor]) -> dict[str, Wish]:
    wishes: dict[str, Wish] = {}
    for output in outputs:
        if output.parameters and output.name not in wishes:
            classes = classes_wanted(output.parameters)
            shared = shared_part(output.name, output.parameters)
            if classes or shared is not None:
                wishes[output.name] = Wish(shared, classes)
    return wishes
