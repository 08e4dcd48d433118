"""Fails in the way that it is told to."""

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            tensor = pb_utils.get_input_tensor_by_name(request, "IN")
            way = tensor.as_numpy()[0].decode()
            if way == "raise":
                raise ValueError("told to raise")
            if way == "error":
                error = pb_utils.TritonError("told to fail", pb_utils.TritonError.UNAVAILABLE)
                responses.append(pb_utils.InferenceResponse(output_tensors=[], error=error))
            elif way == "count":
                continue
            else:
                responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", tensor.as_numpy())]))
        return responses
