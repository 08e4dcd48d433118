"""BLS: asks the model that it is told to, and says what came of it."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            tensor = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
            name = pb_utils.get_input_tensor_by_name(request, "MODEL").as_numpy()[0].decode()
            answer = pb_utils.InferenceRequest(
                model_name=name, requested_output_names=["OUT"], inputs=[pb_utils.Tensor("IN", tensor)]
            ).exec()
            if answer.has_error():
                output, error = np.zeros((0, 0), np.float32), answer.error().message()
            else:
                output, error = pb_utils.get_output_tensor_by_name(answer, "OUT").as_numpy(), ""
            responses.append(
                pb_utils.InferenceResponse(
                    [
                        pb_utils.Tensor("OUT", output),
                        pb_utils.Tensor("ERROR", np.array([error.encode()], np.object_)),
                    ]
                )
            )
        return responses
