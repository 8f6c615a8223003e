"""mosec (a Rust front, a Python worker): mosec_server.py --port PORT

POST /binary: u32 T, u32 scores, raw float32; answers output and scores behind each other.
POST /json: as fastapi_server.
"""

import struct

import mosec
import numpy as np
import orjson

from torch_layer import WIDTH, Layer


class Binary(mosec.Worker):
    def __init__(self):
        super().__init__()
        self.layer = Layer()

    def deserialize(self, data):
        length, scores = struct.unpack_from("<II", data)
        return np.frombuffer(data, np.float32, offset=8).reshape(-1, length, WIDTH), scores

    def forward(self, data):
        return [t if t is None else t.numpy() for t in self.layer(*data)]

    def serialize(self, data):
        output, scores = data
        return output.tobytes() if scores is None else output.tobytes() + scores.tobytes()


class Json(Binary):
    def deserialize(self, data):
        try:
            body = orjson.loads(data)
            return np.array(body["query"], np.float32), body.get("scores")
        except (ValueError, KeyError) as error:
            raise mosec.ValidationError(str(error)) from error

    def serialize(self, data):
        answer = {"attention_output": data[0]}
        if data[1] is not None:
            answer["attention_scores"] = data[1]
        return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


if __name__ == "__main__":
    server = mosec.Server()
    server.register_runtime({"/binary": [mosec.Runtime(Binary)], "/json": [mosec.Runtime(Json)]})
    server.run()
