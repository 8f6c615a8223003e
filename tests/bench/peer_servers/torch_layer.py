"""The layer of workload.py as a torch user writes it for serving: float32, no mask, 2 threads.

Shared by every peer server, so that what differs between them is the serving. As a program it is
the bare call: `torch_layer.py THREADS` answers "time B T VARIANT MS" lines as engine_turns does
(VARIANT is f32 or f32+s).
"""

import os
import sys
import warnings

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# inputs are views of a request's bytes, which nobody writes to
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")

import numpy as np  # noqa: E402
import torch  # noqa: E402

import workload  # noqa: E402
from workload import HEAD_DIM, HEADS, WIDTH  # noqa: E402


class Layer:
    def __init__(self, threads=2):
        torch.set_num_threads(threads)
        w = workload.weights()
        names = ("query", "key", "value_new")
        self.qkv = torch.tensor(
            np.concatenate([w[n + "/kernel"].reshape(WIDTH, WIDTH).T for n in names])
        )
        self.qkv_bias = torch.tensor(np.concatenate([w[n + "/bias"].ravel() for n in names]))
        self.out = torch.tensor(w["attention_output_new/kernel"].reshape(WIDTH, WIDTH).T.copy())
        self.out_bias = torch.tensor(w["attention_output_new/bias"])

    @torch.inference_mode()
    def __call__(self, x, scores):
        """x: numpy or torch [B,T,C]. Returns torch tensors: the output, the scores or None."""
        linear = torch.nn.functional.linear
        batch, length, _ = x.shape
        q, k, v = (
            linear(torch.as_tensor(x), self.qkv, self.qkv_bias)
            .view(batch, length, 3, HEADS, HEAD_DIM)
            .permute(2, 0, 3, 1, 4)
            .unbind(0)
        )
        if scores:
            p = torch.softmax((q * HEAD_DIM**-0.5) @ k.transpose(-1, -2), -1)
            a = p @ v
        else:
            p = None
            a = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        y = linear(a.transpose(1, 2).reshape(batch, length, WIDTH), self.out, self.out_bias)
        return y, p


def main():
    from peer_engines import time_turn

    layer = Layer(int(sys.argv[1]))
    rows = workload.inputs()
    for line in sys.stdin:
        _, batch, length, variant, ms = line.split()
        x = workload.query(rows, int(batch), int(length))
        scores = "+s" in variant
        print("ok %.6f %d" % time_turn(lambda x=x, s=scores: layer(x, s), float(ms)), flush=True)


if __name__ == "__main__":
    main()
