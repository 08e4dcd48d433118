"""Triton's python backend, in process: models are `model.py` files with a class TritonPythonModel.

https://github.com/triton-inference-server/python_backend describes what such a model may do; it runs here unchanged.
"""

from nextact_server.repository.backends.python.backend import PythonBackend

__all__ = ["PythonBackend"]
