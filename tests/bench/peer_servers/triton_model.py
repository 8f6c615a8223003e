"""The model file of Triton's python backend; servers.py copies it into a model repository and
sets PEER_SERVERS to this directory."""

import os
import sys

import triton_python_backend_utils as pb
from torch.utils.dlpack import from_dlpack, to_dlpack

sys.path.insert(0, os.environ["PEER_SERVERS"])

from torch_layer import Layer  # noqa: E402


class TritonPythonModel:
    def initialize(self, _):
        self.layer = Layer()

    def execute(self, requests):
        answers = []
        for request in requests:
            # DLPack both ways: no copy, and the wheel's numpy bindings are older than numpy 2
            x = from_dlpack(pb.get_input_tensor_by_name(request, "query").to_dlpack())
            scores = "attention_scores" in request.requested_output_names()
            output, p = self.layer(x, scores)
            tensors = [pb.Tensor.from_dlpack("attention_output", to_dlpack(output))]
            if p is not None:
                tensors.append(pb.Tensor.from_dlpack("attention_scores", to_dlpack(p)))
            answers.append(pb.InferenceResponse(tensors))
        return answers
