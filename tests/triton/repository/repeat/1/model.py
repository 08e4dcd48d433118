"""Decoupled: one response for each number that it gets, sent from a thread after execute returned."""

import threading

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.threads = []

    def execute(self, requests):
        for request in requests:
            numbers = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy().copy()
            thread = threading.Thread(target=self.answer, args=(request.get_response_sender(), numbers))
            self.threads.append(thread)
            thread.start()

    def answer(self, sender, numbers):
        for index, number in enumerate(numbers):
            outputs = [
                pb_utils.Tensor("OUT", np.array([number], np.int32)),
                pb_utils.Tensor("INDEX", np.array([index], np.uint32)),
            ]
            if number < 0:
                error = pb_utils.TritonError(f"{number} is negative")
                sender.send(pb_utils.InferenceResponse(output_tensors=[], error=error))
            else:
                sender.send(pb_utils.InferenceResponse(outputs))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def finalize(self):
        for thread in self.threads:
            thread.join()
