"""FastAPI + uvicorn (uvloop, httptools) + orjson, hand-written: fastapi_server.py PORT

POST /binary/T/SCORES: raw float32 in, output and scores behind each other out.
POST /json: {"query": nested list, "scores": bool}.
"""

import sys

import fastapi
import numpy as np
import orjson
import uvicorn

from torch_layer import WIDTH, Layer

app = fastapi.FastAPI()
layer = Layer()


@app.post("/binary/{length}/{scores}")
async def binary(length: int, scores: int, request: fastapi.Request):
    x = np.frombuffer(await request.body(), np.float32).reshape(-1, length, WIDTH)
    output, p = layer(x, scores)
    body = output.numpy().tobytes() + (b"" if p is None else p.numpy().tobytes())
    return fastapi.Response(body, media_type="application/octet-stream")


@app.post("/json")
async def json(request: fastapi.Request):
    try:
        body = orjson.loads(await request.body())
        x = np.array(body["query"], np.float32)
    except (ValueError, KeyError) as error:
        return fastapi.Response(
            orjson.dumps({"error": str(error)}), 400, media_type="application/json"
        )
    output, p = layer(x, body.get("scores"))
    answer = {"attention_output": output.numpy()}
    if p is not None:
        answer["attention_scores"] = p.numpy()
    return fastapi.Response(
        orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json"
    )


if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="error",
        loop="uvloop",
        http="httptools",
        access_log=False,
    )
