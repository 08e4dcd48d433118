"""Whether a request's tensors are what a model takes, told in Triton's words.

The order of the checks is that of Triton's `InferenceRequest::Normalize`, so that a request with two mistakes is told
of the same one (https://github.com/triton-inference-server/core/blob/main/src/infer_request.cc).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from nextact_server.inference.infer_errors import InferError, invalid_argument
from nextact_server.inference.infer_spec import ModelSpec, SequenceBatching, TensorSpec
from nextact_server.inference.tensors import Tensor, datatype_of

__all__ = ["TensorHead", "byte_size_mismatch", "check", "check_heads", "named", "splits"]

VARIABLE = -1
_BATCH_NOTE = (
    "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended to each "
    "input shape. If you want to specify the full shape including the batch dim in your input dims config, try setting "
    "max_batch_size to zero. See the model configuration docs for more info on max_batch_size."
)


class TensorHead(NamedTuple):
    """An input tensor without its data. `datatype` is what the caller wrote, whether it exists or not."""

    name: str
    datatype: str
    shape: tuple[int, ...]


def check(spec: ModelSpec, inputs: Mapping[str, Tensor], output_names: Sequence[str], request_id: str = "") -> int:
    """The batch size of a request that fits the model; 1 where the model does not batch.

    `inputs` are arrays of their full shape, batch axis included; `output_names` what is asked for, empty for all.

    Raises:
        InferError: INVALID_ARG with what does not fit.
    """
    heads = []
    for name, array in inputs.items():
        try:
            datatype = datatype_of(array).value
        except ValueError:
            datatype = ""
        heads.append(TensorHead(name, datatype, array.shape))
    batch_size = check_heads(spec, heads, output_names, request_id)
    if batch_size < 1:
        raise invalid_argument(f"{named(request_id)}inference request batch-size must be > 0 for '{spec.name}'")
    return batch_size


def check_heads(spec: ModelSpec, heads: Sequence[TensorHead], output_names: Sequence[str], request_id: str = "") -> int:
    """As `check`, from names, datatypes and shapes as a caller wrote them, in order.

    Shapes may hold what no array can have (a batch of 0 or less, dimensions below -1): Triton finds those by their
    byte size, so whoever has the data must refuse them with `byte_size_mismatch`.
    """
    request = named(request_id)
    _check_names(spec, heads, output_names, request)
    expected = {tensor.name: tensor for tensor in spec.inputs}
    # Triton walks its hash map, which has the last added first unless names collide.
    newest_first = heads[::-1]
    batch_size = _batch_size(spec, newest_first, expected, request)
    for head in newest_first:
        _check_tensor(spec, head, expected[head.name], request)
    return batch_size


def splits(spec: ModelSpec) -> bool:
    """Whether requests over max_batch_size are cut into several and joined again, instead of refused."""
    return spec.max_batch_size > 0 and not spec.decoupled and not isinstance(spec.schedule, SequenceBatching)


def named(request_id: str) -> str:
    """How Triton begins what it says of a request."""
    return f"[request id: {request_id or '<id_unknown>'}] "


def byte_size_mismatch(spec: ModelSpec, name: str, expected: int, got: int, request_id: str = "") -> InferError:
    """The refusal of a tensor whose data does not have the size of its shape."""
    return invalid_argument(
        f"{named(request_id)}input byte size mismatch for input '{name}' for model '{spec.name}'. "
        f"Expected {expected}, got {got}"
    )


def _check_names(spec: ModelSpec, heads: Sequence[TensorHead], output_names: Sequence[str], request: str) -> None:
    given: dict[str, TensorHead] = {}
    for head in heads:
        if head.name in given:
            raise invalid_argument(f"{request}input '{head.name}' already exists in request")
        given[head.name] = head
    for name in output_names:
        if all(name != output.name for output in spec.outputs):
            raise invalid_argument(f"unexpected inference output '{name}' for model '{spec.name}'")
    required = [tensor.name for tensor in spec.inputs if not tensor.optional]
    missing = [name for name in required if name not in given]
    strangers = any(all(name != tensor.name for tensor in spec.inputs) for name in given)
    # Triton only counts, so that an optional input can stand in for one that is required; what is not known at all is
    # named further down.
    if len(required) <= len(given) <= len(spec.inputs) and (strangers or not missing):
        return
    most = len(spec.inputs)
    bounds = str(most) if len(required) == most else f"number of inputs between {len(required)} and {most}"
    noun = " inputs" if len(required) == most else ""
    raise invalid_argument(
        f"{request}expected {bounds}{noun} but got {len(given)} inputs for model '{spec.name}'. Got input(s) "
        f"[{_quoted(list(given)[::-1])}], but missing required input(s) {'[' if missing else ''}{_quoted(missing)}]. "
        "Please provide all required input(s)."
    )


def _batch_size(spec: ModelSpec, heads: Sequence[TensorHead], expected: Mapping[str, TensorSpec], request: str) -> int:
    batch_size = 0
    for head in heads:
        if head.name not in expected:
            raise invalid_argument(f"unexpected inference input '{head.name}' for model '{spec.name}'")
        if not spec.max_batch_size:
            continue
        if not head.shape:
            raise invalid_argument(
                f"{request}input '{head.name}' has no shape but model requires batch dimension for '{spec.name}'"
            )
        if batch_size == 0:
            batch_size = head.shape[0]
        elif head.shape[0] != batch_size:
            raise invalid_argument(
                f"{request}input '{head.name}' batch size does not match other inputs for '{spec.name}'"
            )
    if not spec.max_batch_size:
        return 1
    if batch_size > spec.max_batch_size and not splits(spec):
        raise invalid_argument(
            f"{request}inference request batch-size must be <= {spec.max_batch_size} for '{spec.name}'"
        )
    # A model all of whose inputs are left out has no axis to count.
    return batch_size if heads else 1


def _check_tensor(spec: ModelSpec, head: TensorHead, expected: TensorSpec, request: str) -> None:
    if head.datatype != expected.datatype:
        known = head.datatype in expected.datatype.__class__.__members__
        raise invalid_argument(
            f"{request}inference input '{head.name}' data-type is '{head.datatype if known else '<invalid>'}', but "
            f"model '{spec.name}' expects '{expected.datatype.value}'"
        )
    dims = head.shape[1:] if spec.max_batch_size else head.shape
    fits = len(dims) == len(expected.dims)
    for dim, wanted in zip(dims, expected.dims, strict=False) if fits else ():
        if dim == VARIABLE:
            raise invalid_argument(
                f"{request}All input dimensions should be specified for input '{head.name}' for model '{spec.name}', "
                f"got {_dims(head.shape)}"
            )
        if wanted not in (VARIABLE, dim):
            fits = False
            break
    if not fits:
        whole = (VARIABLE, *expected.dims) if spec.max_batch_size else expected.dims
        raise invalid_argument(
            f"{request}unexpected shape for input '{head.name}' for model '{spec.name}'. Expected {_dims(whole)}, got "
            f"{_dims(head.shape)}. {_BATCH_NOTE if spec.max_batch_size else ''}"
        )


def _dims(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _quoted(names: Sequence[str]) -> str:
    return ",".join(f"'{name}'" for name in names)
