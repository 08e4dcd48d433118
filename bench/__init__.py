"""The benchmark: every figure beside its limit, measured in turn within one run. `python -m bench --help`."""
