"""One peer engine in a process of its own, timed turn by turn from outside.

    peer_engines.py ENGINE THREADS        ENGINE: torch, tf, ort, openvino

Reads lines from stdin and answers one line each, as engine_turns does for our engine:

    variants                    -> "ok VARIANT VARIANT ..."
    time B T VARIANT MS         -> "ok MEDIAN_MS CALLS"
    check B T VARIANT PREFIX    -> "ok"; PREFIX.output.npy and, with scores, PREFIX.scores.npy
    anything that fails         -> "error MESSAGE"

A variant is PRECISION[+s][.rN]/FORM: "+s" returns the scores, FORM is the way the engine is
asked to do it. Every form does the same work from float32 tensors to a float32 output with the
same weights and mask (workload.py); only TensorFlow's real layer adds relative positions.
bfloat16 forms of torch and TensorFlow return their scores in bfloat16, which favours them.
Each engine gets what its users would write at best: merged Q/K/V products, static shapes where
they help, no conversion to numpy inside the timed call.
"""

import functools
import gc
import importlib.util
import os
import sys
import time
import types

import numpy as np

import workload
from workload import HEAD_DIM, HEADS, WIDTH


class Torch:
    variants = (
        "f32+s/mha",
        "f32+s/compile",
        "f32+s/eager",
        "f32/sdpa",
        "bf16+s/compile",
        "bf16+s/eager",
        "bf16/sdpa",
    )

    def __init__(self, threads):
        import torch

        self.torch = torch
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        torch._dynamo.config.recompile_limit = 64
        w = workload.weights()
        names = ("query", "key", "value_new")
        self.qkv = torch.tensor(
            np.concatenate([w[n + "/kernel"].reshape(WIDTH, WIDTH).T for n in names])
        )
        self.qkv_bias = torch.tensor(np.concatenate([w[n + "/bias"].ravel() for n in names]))
        self.out = torch.tensor(w["attention_output_new/kernel"].reshape(WIDTH, WIDTH).T.copy())
        self.out_bias = torch.tensor(w["attention_output_new/bias"])

    def _mha(self):
        torch = self.torch
        layer = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).eval()
        layer.in_proj_weight.copy_(self.qkv)
        layer.in_proj_bias.copy_(self.qkv_bias)
        layer.out_proj.weight.copy_(self.out)
        layer.out_proj.bias.copy_(self.out_bias)
        return lambda x, mask: layer(
            x, x, x, key_padding_mask=mask[:, 0, 0], need_weights=True, average_attn_weights=False
        )

    def _own(self, dtype, scores):
        torch, linear = self.torch, self.torch.nn.functional.linear
        qkv, qkv_bias, out, out_bias = (
            t.to(dtype) for t in (self.qkv, self.qkv_bias, self.out, self.out_bias)
        )

        def layer(x, mask):
            batch, length, _ = x.shape
            x = x.to(dtype)
            q, k, v = (
                linear(x, qkv, qkv_bias)
                .view(batch, length, 3, HEADS, HEAD_DIM)
                .permute(2, 0, 3, 1, 4)
                .unbind(0)
            )
            if scores:
                p = torch.softmax(q @ k.transpose(-1, -2) * HEAD_DIM**-0.5 + mask, -1)
                a = p @ v
            else:
                p = None
                a = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            a = a.transpose(1, 2).reshape(batch, length, WIDTH)
            return linear(a, out, out_bias).float(), p

        return layer

    @functools.cache
    def _form(self, variant):
        precision, form = variant.split("/")
        if form == "mha":
            return self._mha()
        dtype = self.torch.bfloat16 if precision.startswith("bf16") else self.torch.float32
        layer = self._own(dtype, "+s" in precision)
        return self.torch.compile(layer, dynamic=False) if form == "compile" else layer

    def prepare(self, batch, length, x, variant):
        x = self.torch.tensor(x)
        mask = self.torch.tensor(workload.additive_mask(batch, length))
        if variant.startswith("bf16"):
            mask = mask.bfloat16()
        form = self._form(variant)

        def call():
            with self.torch.inference_mode():
                return form(x, mask)

        return call

    @staticmethod
    def numpy(value):
        return value.float().numpy()


class TensorFlow:
    variants = ("f32+s/layer", "f32+s.r6/layer", "f32+s.r12/layer", "bf16+s/layer")

    def __init__(self, threads):
        os.environ["TF_USE_LEGACY_KERAS"] = "1"
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
        import tensorflow as tf
        import tf_keras

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        self.tf, self.keras = tf, tf_keras
        self.module = self._reuse_attention()

    def _reuse_attention(self):
        """The one file of the Model Garden, without the package's hundred dependencies."""
        package = importlib.util.find_spec("official").submodule_search_locations[0]
        utils = types.ModuleType("official.modeling.tf_utils")
        utils.clone_initializer = lambda i: (
            i.__class__.from_config(i.get_config())
            if isinstance(i, self.keras.initializers.Initializer)
            else i
        )
        modeling = types.ModuleType("official.modeling")
        modeling.tf_utils = utils
        sys.modules.update({"official.modeling": modeling, "official.modeling.tf_utils": utils})
        path = os.path.join(package, "nlp", "modeling", "layers", "reuse_attention.py")
        spec = importlib.util.spec_from_file_location("reuse_attention", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    @functools.cache
    def _layer(self, precision, reused):
        policy = "mixed_bfloat16" if precision == "bf16" else "float32"
        self.keras.mixed_precision.set_global_policy(policy)
        layer = self.module.ReuseMultiHeadAttention(
            num_heads=HEADS,
            key_dim=HEAD_DIM,
            reuse_attention=reused,
            use_relative_pe=True,
            pe_max_seq_length=workload.POSITIONS,
        )
        x = self.tf.zeros((1, 2, WIDTH))
        layer(x, x, reuse_attention_scores=self.tf.zeros((1, HEADS, 2, 2)))
        weights = workload.weights_reusing(reused)
        order = (
            "relative_position_embeddings",
            "query/kernel",
            "query/bias",
            "key/kernel",
            "key/bias",
            "value_reuse/kernel",
            "value_reuse/bias",
            "value_new/kernel",
            "value_new/bias",
            "attention_output_reuse/kernel",
            "attention_output_reuse/bias",
            "attention_output_new/kernel",
            "attention_output_new/bias",
        )
        layer.set_weights([weights[name] for name in order if name in weights])
        return layer

    def prepare(self, batch, length, x, variant):
        tf = self.tf
        head = variant.split("/")[0]
        reused = int(head.split(".r")[1]) if ".r" in head else 0
        layer = self._layer(head.split("+")[0], reused)
        x = tf.constant(x)
        mask = tf.constant(workload.additive_mask(batch, length)[:, 0] == 0)
        given = tf.fill((batch, HEADS, length, length), 1.0 / length) if reused else None

        # Tensors are arguments, not constants: a constant would be folded into the graph.
        @tf.function(autograph=False)
        def run(x, mask, given):
            output, scores = layer(
                x,
                x,
                attention_mask=mask,
                return_attention_scores=True,
                reuse_attention_scores=given,
                training=False,
            )
            return tf.cast(output, tf.float32), scores

        function = run.get_concrete_function(x, mask, given)
        arguments = [t for t in (x, mask, given) if t is not None]
        return lambda: function(*arguments)

    @staticmethod
    def numpy(value):
        return value.numpy().astype(np.float32)


class Ort:
    variants = ("f32+s/attention", "f32+s/matmul", "f32/attention", "f32/mha", "f32/mha-nomask")

    def __init__(self, threads):
        import onnx
        import onnxruntime

        self.onnx, self.ort, self.threads = onnx, onnxruntime, threads

    def _nodes(self, form, scores):
        node = self.onnx.helper.make_node
        nodes = []
        for name in "qkv":
            nodes += [
                node("MatMul", ["x", "w" + name], [name + "0"]),
                node("Add", [name + "0", "b" + name], [name]),
            ]
        if form == "attention":
            outs = ["a", "", "", "scores"] if scores else ["a"]
            nodes.append(
                node(
                    "Attention",
                    ["q", "k", "v", "mask"],
                    outs,
                    q_num_heads=HEADS,
                    kv_num_heads=HEADS,
                    **({"qk_matmul_output_mode": 3} if scores else {}),
                )
            )
        elif form.startswith("mha"):
            ins = ["q", "k", "v"] + ([] if form == "mha-nomask" else ["", "", "mask"])
            nodes.append(
                node("MultiHeadAttention", ins, ["a"], domain="com.microsoft", num_heads=HEADS)
            )
        else:
            for name, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
                nodes += [
                    node("Reshape", [name, "split"], [name + "1"]),
                    node("Transpose", [name + "1"], [name + "2"], perm=perm),
                ]
            nodes += [
                node("MatMul", ["q2", "k2"], ["l0"]),
                node("Mul", ["l0", "scale"], ["l1"]),
                node("Add", ["l1", "mask"], ["l2"]),
                node("Softmax", ["l2"], ["scores"]),
                node("MatMul", ["scores", "v2"], ["a0"]),
                node("Transpose", ["a0"], ["a1"], perm=[0, 2, 1, 3]),
                node("Reshape", ["a1", "join"], ["a"]),
            ]
        return nodes + [node("MatMul", ["a", "wo"], ["o"]), node("Add", ["o", "bo"], ["output"])]

    def _model(self, batch, length, form, scores):
        helper, floats = self.onnx.helper, self.onnx.TensorProto.FLOAT
        tensor = self.onnx.numpy_helper.from_array
        w = workload.weights()
        constants = {
            "scale": np.float32(HEAD_DIM**-0.5),
            "split": np.array([batch, length, HEADS, HEAD_DIM]),
            "join": np.array([batch, length, WIDTH]),
            "wo": w["attention_output_new/kernel"].reshape(WIDTH, WIDTH),
            "bo": w["attention_output_new/bias"],
        }
        for letter, name in zip("qkv", ("query", "key", "value_new")):
            constants["w" + letter] = w[name + "/kernel"].reshape(WIDTH, WIDTH)
            constants["b" + letter] = w[name + "/bias"].ravel()
        info = helper.make_tensor_value_info
        # Attention and MHA want their mask dense over the queries
        rows = 1 if form == "matmul" else length
        ins = [info("x", floats, [batch, length, WIDTH])]
        if form != "mha-nomask":
            ins.append(info("mask", floats, [batch, 1, rows, length]))
        outs = [info("output", floats, [batch, length, WIDTH])]
        if scores:
            outs.append(info("scores", floats, [batch, HEADS, length, length]))
        graph = helper.make_graph(
            self._nodes(form, scores),
            "layer",
            ins,
            outs,
            [tensor(np.asarray(v), n) for n, v in constants.items()],
        )
        opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10), rows

    def prepare(self, batch, length, x, variant):
        head, form = variant.split("/")
        model, rows = self._model(batch, length, form, "+s" in head)
        options = self.ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = self.ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        mask = workload.additive_mask(batch, length).repeat(rows, axis=2)
        feed = {
            "x": self.ort.OrtValue.ortvalue_from_numpy(x),
            "mask": self.ort.OrtValue.ortvalue_from_numpy(mask),
        }
        names = [o.name for o in session.get_outputs()]
        if form == "mha-nomask":
            del feed["mask"]

        def call():
            result = session.run_with_ort_values(names, feed)
            return result[0], result[1] if len(result) > 1 else None

        return call

    @staticmethod
    def numpy(value):
        return value.numpy()


class OpenVino:
    variants = ("f32+s/matmul", "f32/matmul", "f32/sdpa", "bf16+s/matmul", "bf16/sdpa")

    def __init__(self, threads):
        import openvino

        self.ov, self.threads = openvino, threads
        self.core = openvino.Core()

    def _model(self, batch, length, form, scores, rows):
        ops, ov = self.ov.opset13, self.ov
        w = workload.weights()
        x = ops.parameter([batch, length, WIDTH], np.float32, name="x")
        mask = ops.parameter([batch, 1, rows, length], np.float32, name="mask")

        def heads(name):
            y = ops.add(
                ops.matmul(
                    x, ops.constant(w[name + "/kernel"].reshape(WIDTH, WIDTH)), False, False
                ),
                ops.constant(w[name + "/bias"].reshape(1, 1, WIDTH)),
            )
            y = ops.reshape(y, np.array([batch, length, HEADS, HEAD_DIM]), False)
            return ops.transpose(y, np.array([0, 2, 1, 3]))

        q, k, v = heads("query"), heads("key"), heads("value_new")
        results = []
        if form == "sdpa":
            a = ops.scaled_dot_product_attention(q, k, v, mask)
        else:
            logits = ops.multiply(
                ops.matmul(q, k, False, True), ops.constant(np.float32(HEAD_DIM**-0.5))
            )
            p = ops.softmax(ops.add(logits, mask), -1)
            a = ops.matmul(p, v, False, False)
            results = [ops.result(p)] if scores else []
        a = ops.reshape(
            ops.transpose(a, np.array([0, 2, 1, 3])), np.array([batch, length, WIDTH]), False
        )
        y = ops.add(
            ops.matmul(
                a,
                ops.constant(w["attention_output_new/kernel"].reshape(WIDTH, WIDTH)),
                False,
                False,
            ),
            ops.constant(w["attention_output_new/bias"].reshape(1, 1, WIDTH)),
        )
        return ov.Model([ops.result(y)] + results, [x, mask], "layer")

    def prepare(self, batch, length, x, variant):
        head, form = variant.split("/")
        # its bfloat16 SDPA answers NaN for a key-only mask at B=1: give it the dense one
        rows = length if variant.startswith("bf16/sdpa") else 1
        model = self._model(batch, length, form, "+s" in head, rows)
        compiled = self.core.compile_model(
            model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": head.split("+")[0],
                "INFERENCE_NUM_THREADS": self.threads,
                "NUM_STREAMS": 1,
                "PERFORMANCE_HINT": "LATENCY",
            },
        )
        mask = workload.additive_mask(batch, length).repeat(rows, axis=2)
        request = compiled.create_infer_request()
        request.set_input_tensor(0, self.ov.Tensor(x, shared_memory=True))
        request.set_input_tensor(1, self.ov.Tensor(mask, shared_memory=True))
        outputs = len(compiled.outputs)
        kept = (x, mask)

        def call():
            request.infer()
            return (
                request.get_output_tensor(0),
                request.get_output_tensor(1) if outputs > 1 else None,
                kept,
            )[:2]

        return call

    @staticmethod
    def numpy(value):
        return value.data


ENGINES = {"torch": Torch, "tf": TensorFlow, "ort": Ort, "openvino": OpenVino}


def time_turn(call, ms):
    """Warm-up of a quarter of the time (two calls at least), then ms and three calls at least."""
    clock = time.perf_counter
    warm_end, calls = clock() + ms * 0.25e-3, 0
    while calls < 2 or clock() < warm_end:
        call()
        calls += 1
    samples, start = [], clock()
    end = start + ms * 1e-3
    while len(samples) < 3 or start < end:
        call()
        done = clock()
        samples.append(done - start)
        start = done
    samples.sort()
    return samples[len(samples) // 2] * 1e3, len(samples)


def main():
    # Libraries print to stdout as they please; answers go where only we write.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    name, threads = sys.argv[1], int(sys.argv[2])
    engine = ENGINES[name](threads)
    rows = workload.inputs()
    prepared = {}

    def prepare(batch, length, variant):
        key = (batch, length)
        if key not in prepared:  # one case at a time: what the last one needed can go
            prepared.clear()
            gc.collect()
            prepared[key] = {}
        if variant not in prepared[key]:
            x = workload.query(rows, batch, length)
            prepared[key][variant] = engine.prepare(batch, length, x, variant)
        return prepared[key][variant]

    for line in sys.stdin:
        words = line.split()
        try:
            if words[0] == "variants":
                answers.write("ok " + " ".join(engine.variants) + "\n")
                continue
            call = prepare(int(words[1]), int(words[2]), words[3])
            if words[0] == "time":
                answers.write("ok %.6f %d\n" % time_turn(call, float(words[4])))
            elif words[0] == "check":
                output, scores = call()
                np.save(words[4] + ".output.npy", engine.numpy(output))
                if scores is not None:
                    np.save(words[4] + ".scores.npy", engine.numpy(scores))
                answers.write("ok\n")
            else:
                answers.write("error %s is no command\n" % words[0])
        except Exception as error:  # the run goes on without this variant; the reason is shown
            text = " ".join(str(error).split())[:300]
            answers.write(f"error {type(error).__name__}: {text}\n")


if __name__ == "__main__":
    main()
