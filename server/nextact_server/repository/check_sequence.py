"""Checks of `sequence_batching`: controls and states, in Triton's words."""

from nextact_server.repository.config import ModelConfig

__all__ = ["CORRELATION_TYPES", "check_sequence", "check_states"]

CORRELATION_TYPES = ("TYPE_UINT64", "TYPE_INT64", "TYPE_UINT32", "TYPE_INT32", "TYPE_STRING")
_VALUES = ("int32_false_true", "fp32_false_true", "bool_false_true")
_ANY = "'int32_false_true', 'fp32_false_true' or 'bool_false_true'"


def check_sequence(config: ModelConfig) -> str:
    """What is wrong with a model's slots and control inputs; '' where nothing is."""
    name = config.name
    if not 0 <= config.sequence_batching.direct.minimum_slot_utilization <= 1:
        return f"sequence batching minimum slot utilization must be in range (0.0, 1.0] for {name}"
    tensors: set[str] = set()
    kinds: set[str] = set()
    for tensor in config.sequence_batching.control_input:
        if not tensor.name:
            return f"sequence batching control tensor must have a name for {name}"
        if tensor.name in tensors or len(tensor.control) > 1:
            return (
                f"sequence batching control tensor '{tensor.name}' is specified for multiple control kinds for {name}"
            )
        tensors.add(tensor.name)
        for control in tensor.control:
            kind = type(control).Kind.Name(control.kind)
            if kind in kinds:
                return f"sequence batching specifies multiple {kind} tensors for {name}"
            kinds.add(kind)
            problem = _control(control, kind, name)
            if problem:
                return problem
    return ""


def _control(control: ModelConfig, kind: str, name: str) -> str:
    given = [field for field in _VALUES if len(getattr(control, field))]
    if kind == "CONTROL_SEQUENCE_CORRID":
        if given:
            return f"sequence batching must not specify either {_ANY} for {kind} for {name}"
        type_name = control.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[control.data_type].name
        if type_name not in CORRELATION_TYPES:
            *first, last = CORRELATION_TYPES
            allowed = f"{', '.join(first)} and {last}"
            return f"unexpected data type for control {kind} for {name}. Allowed data types are {allowed}"
        return ""
    if not given:
        return f"sequence batching must specify either {_ANY} for {kind} for {name}"
    if len(given) > 1:
        return f"sequence batching specifies more than one from {_ANY.replace(' or ', ' and ')} for {kind} for {name}"
    if len(getattr(control, given[0])) != 2:
        return f"sequence batching control '{given[0]}' must have exactly 2 entries for {kind} for {name}"
    return ""


def check_states(config: ModelConfig) -> str:
    """What is wrong with a model's implicit states; '' where nothing is.

    Triton passes a state without names, type or dims, whose sequences then fail; here it is refused at once.
    """
    name = config.name
    controls = {tensor.name for tensor in config.sequence_batching.control_input}
    inputs: set[str] = set()
    for state in config.sequence_batching.state:
        if not state.input_name or not state.output_name:
            return f"sequence batching state must specify 'input_name' and 'output_name' for {name}"
        if state.input_name in inputs or state.input_name in controls:
            return f"sequence batching state input '{state.input_name}' is specified more than once for {name}"
        inputs.add(state.input_name)
        if not state.data_type:
            return f"sequence batching state '{state.input_name}' must specify 'data_type' for {name}"
        if any(dim < 1 and dim != -1 for dim in state.dims):
            return (
                f"sequence batching state '{state.input_name}' dimension must be integer >= 1, or -1 to indicate a "
                f"variable-size dimension for {name}"
            )
        problem = _initial_state(state)
        if problem:
            return problem
    return ""


def _initial_state(state: ModelConfig) -> str:
    if len(state.initial_state) > 1:
        return (
            f"initial_state field for state input '{state.input_name}' must contain exactly one or zero element. Found "
            f"'{len(state.initial_state)}' elements."
        )
    for initial in state.initial_state:
        if not initial.name:
            return f"Field 'name' must be set when using initial_state for state input '{state.input_name}'."
        if initial.data_type != state.data_type:
            return (
                f"The data type used for 'initial_state' field of state '{state.input_name}' does not match the state "
                "data type."
            )
        if len(initial.dims) != len(state.dims) or any(
            dim < 1 or wanted not in (-1, dim) for dim, wanted in zip(initial.dims, state.dims, strict=True)
        ):
            return (
                f"The dims used for 'initial_state' field of state '{state.input_name}' do not fit the state dims: "
                f"{list(initial.dims)}, and the state has {list(state.dims)}"
            )
        if initial.WhichOneof("state_data") is None:
            return f"initial_state setting expects state '{state.input_name}' to have state_data set"
    return ""
