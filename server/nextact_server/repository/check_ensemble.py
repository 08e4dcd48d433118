"""Checks of an ensemble's steps, in Triton's words, without a look at the models they name."""

from nextact_server.repository.config import ModelConfig

__all__ = ["check_steps", "member_names"]


def member_names(config: ModelConfig) -> tuple[str, ...]:
    """The models that an ensemble names, each once, in order; nothing for other models."""
    return tuple(dict.fromkeys(step.model_name for step in config.ensemble_scheduling.step))


def check_steps(config: ModelConfig) -> str:
    """What is wrong with the steps of an ensemble, without a look at their models; '' where nothing is."""
    name = config.name
    if config.instance_group:
        return f"instance group should not be specified for ensemble '{name}'"
    steps = config.ensemble_scheduling.step
    if not steps:
        return f"must specify 'step' for ensemble '{name}'"
    produced = {tensor.name for tensor in config.input}
    written: set[str] = set()
    read: set[str] = set()
    for number, step in enumerate(steps):
        where = f"in step {number} of ensemble '{name}'"
        if not step.model_name:
            return f"must specify 'model_name' {where}"
        if not step.input_map:
            return f"must specify 'input_map' {where}"
        if not step.output_map:
            return f"must specify 'output_map' {where}"
        read.update(step.input_map.values())
        for tensor in step.output_map.values():
            if tensor in written or tensor in produced:
                return (
                    f"ensemble tensor '{tensor}' can appear in an output map only once for ensemble '{name}' step "
                    f"{number}"
                )
            written.add(tensor)
    return _use(config, read, written) or _order(config)


def _use(config: ModelConfig, read: set[str], written: set[str]) -> str:
    name = config.name
    inputs = [tensor.name for tensor in config.input]
    outputs = [tensor.name for tensor in config.output]
    for tensor in inputs:
        if tensor not in read:
            return f"ensemble input '{tensor}' for ensemble {name}' is not used"
    for tensor in outputs:
        if tensor not in written:
            return f"ensemble output '{tensor}' for ensemble {name}' is not used"
    for tensor in sorted(written - read - set(outputs)):
        return f"ensemble tensor '{tensor}' is unused in ensemble '{name}'"
    for tensor in sorted(read - written - set(inputs)):
        return f"ensemble tensor '{tensor}' is read in ensemble '{name}', and no step writes it"
    return ""


def _order(config: ModelConfig) -> str:
    """Steps may stand in any order, but none may wait for itself. Triton takes such an ensemble, and never answers."""
    there = {tensor.name for tensor in config.input}
    waiting = list(config.ensemble_scheduling.step)
    while waiting:
        ready = [step for step in waiting if there.issuperset(step.input_map.values())]
        if not ready:
            models = ", ".join(step.model_name for step in waiting)
            return f"the steps of ensemble '{config.name}' wait for one another: {models}"
        for step in ready:
            there.update(step.output_map.values())
        waiting = [step for step in waiting if step not in ready]
    return ""
