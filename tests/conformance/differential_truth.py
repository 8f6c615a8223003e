"""The layer in float64, straight from the formulas of engine/README.md, and how far rounding may
lead away from it.

The bounds are in units of the type's rounding and statistical: errors of the terms of a sum add up
like the root of their squares, and logits of size M move a score by a share M of itself.
"""

import string

import numpy as np

UNIT = {"float32": 2.0**-24, "float64": 2.0**-53, "mixed_float16": 2.0**-11,
        "mixed_bfloat16": 2.0**-8}


class Truth:
    """scores and output in float64; score_bound and output_bound in units of rounding; live: no
    row is masked throughout, masks say 0 or 1, and all is finite, so the numbers are comparable."""

    def __init__(self, layer, weights, call):
        self.layer = layer
        self.finite = all(np.isfinite(np.asarray(a, np.float64)).all()
                          for a in call.inputs.values())
        wide = {n: np.nan_to_num(np.asarray(a, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
                for n, a in {**call.inputs, "value": call.value, "key": call.key}.items()}
        self.weights = {n: np.asarray(w, np.float64) for n, w in weights.items()}
        self.mask, self.live, self.logit = wide.get("attention_mask"), True, 0.0
        with np.errstate(all="ignore"):
            self._compute(wide)

    # -- projections

    def _project(self, name, x):
        bias = self.weights.get(name + "/bias", 0.0)
        return np.einsum("...c,cnh->...nh", x, self.weights[name + "/kernel"]) + bias

    def _letters(self):
        """Subscripts of projected queries, of keys and of scores."""
        rank = self.layer.rank + 1
        query = list(string.ascii_lowercase[:rank])
        key = list(query)
        for axis in self.layer.axes:
            key[axis] = query[axis].upper()
        key[-1] = query[-1]
        batch = [query[a] for a in range(rank - 1) if a not in self.layer.axes]
        attended = [query[a] for a in self.layer.axes] + [key[a] for a in self.layer.axes]
        return "".join(query), "".join(key), "".join(batch + attended)

    # -- scores of new heads

    def _logits(self, wide):
        query, key, scores = self._letters()
        q = self._project("query", wide["query"]) / np.sqrt(self.layer.arguments["key_dim"])
        k = self._project("key", wide["key"])
        logits = np.einsum(f"{query},{key}->{scores}", q, k)
        size = np.sqrt(np.einsum(f"{query},{key}->{scores}", q * q, k * k)) + np.abs(logits)
        if self.layer.positions:
            table = self.weights["relative_position_embeddings"]
            reach = (table.shape[-1] + 1) // 2
            steps = np.arange(logits.shape[-1])[None] - np.arange(logits.shape[-2])[:, None]
            bias = table[:, :, np.clip(steps + reach - 1, 0, 2 * reach - 2)]
            logits, size = logits + bias, size + np.abs(bias)
        self.logit = float(size.max(initial=0.0))
        return logits

    def _masked(self, logits):
        if self.mask is None:
            return logits
        attended = 2 * len(self.layer.axes)
        mask = self.mask
        while mask.ndim < logits.ndim:
            mask = np.expand_dims(mask, mask.ndim - attended)
        self.live = bool(((mask == 0) | (mask == 1)).all())
        rows = np.broadcast_to(mask, logits.shape)
        axes = tuple(range(logits.ndim - len(self.layer.axes), logits.ndim))
        self.live = self.live and bool((rows.max(axes, initial=0) == 1).all())
        # Exactly: what is masked has no weight. (Not so where a row is masked throughout.)
        return np.where(mask == 0, -1e9, 0.0) + logits

    def _softmax(self, logits):
        axes = tuple(range(logits.ndim - len(self.layer.axes), logits.ndim))
        weights = np.exp(logits - logits.max(axes, keepdims=True, initial=-1e300))
        return weights / weights.sum(axes, keepdims=True)

    # -- outputs

    def _combine(self, scores, name, value):
        """Outputs of one group of heads, and what rounding may do to them, in its units."""
        query, key, letters = self._letters()
        v = self._project("value_" + name, value)
        context = np.einsum(f"{letters},{key}->{query}", scores, v)
        spread = np.sqrt(np.einsum(f"{letters},{key}->{query}", scores * scores, v * v))
        kernel = self.weights[f"attention_output_{name}/kernel"]
        bias = self.weights.get(f"attention_output_{name}/bias", 0.0)
        output = np.tensordot(context, kernel, 2) + bias
        share = (2 + self.logit) * spread + np.abs(context)
        return output, np.sqrt(np.tensordot(share**2, kernel**2, 2)) + np.abs(output) + np.abs(bias)

    def _compute(self, wide):
        parts, given = [], wide.get("reuse_attention_scores")
        if self.layer.new:
            parts.append(("new", self._softmax(self._masked(self._logits(wide)))))
        if self.layer.reused:
            parts.append(("reuse", given[:, : self.layer.reused] if self.layer.new else given))
        outputs = [self._combine(scores, name, wide["value"]) for name, scores in parts]
        self.output = sum(output for output, _ in outputs)
        self.output_bound = float(sum(size for _, size in outputs).max(initial=0.0))
        self.scores = np.concatenate([p[1] for p in parts], 1) if len(parts) > 1 else parts[0][1]
        self.score_bound = 2 + self.logit
