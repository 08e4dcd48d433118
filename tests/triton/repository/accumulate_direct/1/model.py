"""A sequence's running sum."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.sums = {}

    def execute(self, requests):
        responses = []
        for request in requests:
            value, start, end, ready, sequence = (
                pb_utils.get_input_tensor_by_name(request, name).as_numpy()
                for name in ("IN", "START", "END", "READY", "CORRID")
            )
            key = int(sequence.reshape(-1)[0])
            if ready.reshape(-1)[0]:
                if start.reshape(-1)[0]:
                    self.sums[key] = 0
                self.sums[key] = self.sums.get(key, 0) + int(value.reshape(-1)[0])
            total = np.full(value.shape, self.sums.get(key, 0), np.int32)
            if end.reshape(-1)[0]:
                self.sums.pop(key, None)
            responses.append(
                pb_utils.InferenceResponse(
                    [pb_utils.Tensor("SUM", total), pb_utils.Tensor("SEQUENCE", np.full(value.shape, key, np.uint64))]
                )
            )
        return responses
