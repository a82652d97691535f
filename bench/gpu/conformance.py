"""Holds the CUDA kernels to references in float64.

Outputs are poisoned with NaN, blocks are shuffled, unused entries of block tables are far out of range, and the cache holds
NaN wherever nothing was written: behind the end of every sequence too. Prints one line a case; the exit code says whether
all are right.

    python3 bench/gpu/conformance.py build/Release/pagoda_backend_cuda.so [index of the device]"""

import sys
import numpy as np
import pagoda
from pagoda import BF16, F16, F32, INT8, Device, Layout

# ||out - expected|| / ||expected||: f32 arithmetic, or one operand rounded to bf16 or to 8 bits.
EXACT, ROUNDED = 1e-5, 1e-2


def relativeError(actual, expected):
    return float(np.linalg.norm(actual.astype(np.float64) - expected) / max(np.linalg.norm(expected), 1e-30))


def roundToBf16(x):
    bits = np.asarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def softmax(scores, sink=None):
    most = scores.max() if sink is None else max(scores.max(), sink)
    weights = np.exp(scores - most)
    return weights / (weights.sum() + (0 if sink is None else np.exp(sink - most)))


def attentionReference(query, key, value, layout, heads, kvHeads, scale, window=0, softcap=0.0, sinks=None):
    """query [T, heads, dim]; key and value [sum of seqLens, kvHeads, dim]."""
    out = np.zeros((query.shape[0], heads, value.shape[2]))
    token, first = 0, 0
    for length, total in zip(layout.queryLens, layout.seqLens):
        for position in range(total - length, total):
            begin = max(0, position - window + 1) if window else 0
            seen = slice(first + begin, first + position + 1)
            for head in range(heads):
                kv = head // (heads // kvHeads)
                scores = key[seen, kv] @ query[token, head] * scale
                if softcap:
                    scores = softcap * np.tanh(scores / softcap)
                out[token, head] = softmax(scores, None if sinks is None else sinks[head]) @ value[seen, kv]
            token += 1
        first += total
    return out


def attentionCase(device, rng, requests, heads, kvHeads, dim, dtype, blockSize=16, window=0, softcap=0.0, sinks=False):
    layout = Layout(rng, requests, blockSize)
    tokens, slots = int(layout.queryLens.sum()), len(layout.slots)
    query, key, value = (rng.standard_normal((n, width)).astype(np.float32)
                         for n, width in ((tokens, heads * dim), (slots, kvHeads * dim), (slots, kvHeads * dim)))
    sink = rng.standard_normal(heads).astype(np.float32) if sinks else None
    cache = device.cache(layout.numBlocks, blockSize, kvHeads, dim, dtype)
    device.run("cacheWrite", pagoda.CacheWrite(device.tensor(key), device.tensor(value), cache,
                                               device.upload(layout.slots)))
    out = device.output(tokens, heads * dim)
    absent = pagoda.Weight()
    device.run("attention", pagoda.Attention(
        out, device.tensor(query), cache, device.batch(layout), heads, dim**-0.5, window, softcap,
        device.weight(sink, kind=pagoda.VECTOR) if sinks else absent))
    expected = attentionReference(query.reshape(tokens, heads, dim), key.reshape(slots, kvHeads, dim),
                                  value.reshape(slots, kvHeads, dim), layout, heads, kvHeads, dim**-0.5, window,
                                  softcap, sink)
    return relativeError(device.download(out), expected.reshape(tokens, -1)), EXACT if dtype == F32 else ROUNDED


def headsTransposed(keyUp, heads, latent, nope):
    """W_UK of each head as the expanded form wants it."""
    return keyUp.reshape(heads, latent, nope).transpose(0, 2, 1).reshape(heads * nope, latent)


def mlaCase(device, rng, requests, heads, latent, rope, nope, valueDim, dtype, blockSize=64, expandFrom=0):
    layout = Layout(rng, requests, blockSize)
    tokens, slots = int(layout.queryLens.sum()), len(layout.slots)
    query, queryRope, latents, ropeKey = (
        rng.standard_normal(shape).astype(np.float32)
        for shape in ((tokens, heads * nope), (tokens, heads * rope), (slots, latent), (slots, rope)))
    keyUp = rng.standard_normal((heads * latent, nope)).astype(np.float32) * latent**-0.5
    valueUp = rng.standard_normal((heads * valueDim, latent)).astype(np.float32) * latent**-0.5
    cache = device.cache(layout.numBlocks, blockSize, 1, latent + rope, dtype, latent)
    device.run("latentWrite", pagoda.LatentWrite(device.tensor(latents), device.tensor(ropeKey), cache,
                                                 device.upload(layout.slots)))
    out = device.output(tokens, heads * valueDim)
    scale = (nope + rope) ** -0.5
    device.run("mlaAttention", pagoda.MlaAttention(
        out, device.tensor(query), device.tensor(queryRope), cache, device.batch(layout),
        device.weight(keyUp, dtype=F32), device.weight(valueUp, dtype=F32),
        device.weight(headsTransposed(keyUp, heads, latent, nope), dtype=F32), heads, scale, expandFrom))
    key = np.concatenate([np.einsum("sl,hln->shn", latents.astype(np.float64), keyUp.reshape(heads, latent, nope)),
                          np.repeat(ropeKey[:, None], heads, 1)], axis=2)
    value = np.einsum("sl,hvl->shv", latents.astype(np.float64), valueUp.reshape(heads, valueDim, latent))
    whole = np.concatenate([query.reshape(tokens, heads, nope), queryRope.reshape(tokens, heads, rope)], axis=2)
    expected = attentionReference(whole, key, value, layout, heads, heads, scale)
    return relativeError(device.download(out), expected.reshape(tokens, -1)), EXACT if dtype == F32 else ROUNDED


def gatherCase(device, rng, requests, kvHeads, dim, blockSize=16):
    layout = Layout(rng, [(tokens + before, 0) for tokens, before in requests], blockSize)
    slots = len(layout.slots)
    key, value = (rng.standard_normal((slots, kvHeads * dim)).astype(np.float32) for _ in range(2))
    cache = device.cache(layout.numBlocks, blockSize, kvHeads, dim, BF16)
    device.run("cacheWrite", pagoda.CacheWrite(device.tensor(key), device.tensor(value), cache,
                                               device.upload(layout.slots)))
    out = device.output(slots, 2 * kvHeads * dim)
    device.run("gatherKv", pagoda.GatherKv(out, cache, device.batch(layout), 0))
    return relativeError(device.download(out), roundToBf16(np.concatenate([key, value], axis=1))), 0.0


def linearCase(device, rng, rows, inputs, outputs, dtype):
    x = rng.standard_normal((rows, inputs)).astype(np.float32)
    weight = rng.standard_normal((outputs, inputs)).astype(np.float32) * np.float32(inputs**-0.5)
    bias = rng.standard_normal(outputs).astype(np.float32)
    out = device.output(rows, outputs)
    device.run("linear", pagoda.Linear(out, device.tensor(x), device.weight(weight, dtype),
                                       device.weight(bias, kind=pagoda.VECTOR)))
    stored = {F32: weight, BF16: roundToBf16(weight), F16: weight.astype(np.float16)}.get(dtype, weight)
    expected = x.astype(np.float64) @ stored.T.astype(np.float64) + bias
    return relativeError(device.download(out), expected), EXACT if dtype == F32 else ROUNDED


def invarianceCase(device, rng, inputs, outputs, dtype):
    """The bits of a row do not depend on how many rows it is computed with."""
    x = rng.standard_normal((300, inputs)).astype(np.float32)
    weight = device.weight(rng.standard_normal((outputs, inputs)).astype(np.float32), dtype)
    results = []
    for rows in (1, 16, 17, 64, 65, 300):
        out = device.output(rows, outputs)
        device.run("linear", pagoda.Linear(out, device.tensor(x[:rows]), weight, pagoda.Weight()))
        results.append(device.download(out))
    different = sum(not np.array_equal(result, results[-1][: len(result)]) for result in results)
    return float(different), 0.0


def chunksCase(device, rng, tokens, heads, kvHeads, dim, dtype):
    """The bits of a token do not depend on whether it is computed alone, in a chunk or in one prefill."""
    whole = Layout(rng, [(tokens, 0)], 16)
    query = rng.standard_normal((tokens, heads * dim)).astype(np.float32)
    key, value = (rng.standard_normal((tokens, kvHeads * dim)).astype(np.float32) for _ in range(2))
    cache = device.cache(whole.numBlocks, 16, kvHeads, dim, dtype)
    device.run("cacheWrite", pagoda.CacheWrite(device.tensor(key), device.tensor(value), cache,
                                               device.upload(whole.slots)))

    def attend(first, end):
        whole.queryLens, whole.seqLens = np.array([end - first]), np.array([end])
        out = device.output(end - first, heads * dim)
        device.run("attention", pagoda.Attention(out, device.tensor(query[first:end]), cache, device.batch(whole),
                                                 heads, dim**-0.5, 0, 0.0, pagoda.Weight()))
        return device.download(out)

    expected = attend(0, tokens)
    starts = [0, 1, 3, 40, tokens - 30, tokens - 1, tokens]
    parts = [attend(first, end) for first, end in zip(starts, starts[1:])]
    return float(np.sum(np.concatenate(parts) != expected)), 0.0


def latentChunksCase(device, rng, tokens, last, heads, width=32, expandFrom=0, blockSize=16):
    """The same of latent attention of DeepSeek's size and the last tokens of a request, `width` columns a head."""
    latent, rope, nope, valueDim = 512, 64, width, width
    whole = Layout(rng, [(tokens, 0)], blockSize)
    query, queryRope, latents, ropeKey = (
        rng.standard_normal((tokens, width)).astype(np.float32) for width in (heads * nope, heads * rope, latent, rope))
    keyUp, valueUp = (rng.standard_normal(shape).astype(np.float32) * latent**-0.5
                      for shape in ((heads * latent, nope), (heads * valueDim, latent)))
    weights = [device.weight(matrix, dtype=F32) for matrix in
               (keyUp, valueUp, headsTransposed(keyUp, heads, latent, nope))]
    cache = device.cache(whole.numBlocks, blockSize, 1, latent + rope, BF16, latent)
    device.run("latentWrite", pagoda.LatentWrite(device.tensor(latents), device.tensor(ropeKey), cache,
                                                 device.upload(whole.slots)))

    def attend(first, end):
        whole.queryLens, whole.seqLens = np.array([end - first]), np.array([end])
        out = device.output(end - first, heads * valueDim)
        device.run("mlaAttention", pagoda.MlaAttention(
            out, device.tensor(query[first:end]), device.tensor(queryRope[first:end]), cache, device.batch(whole),
            *weights, heads, (nope + rope) ** -0.5, expandFrom))
        return device.download(out)

    first = tokens - last
    expected = attend(first, tokens)
    starts = [first, first + 3, tokens - 9, tokens - 2, tokens]
    if expandFrom == 0:
        starts += [first + 1, tokens - 1]
    starts.sort()
    parts = [attend(begin, end) for begin, end in zip(starts, starts[1:])]
    return float(np.sum(np.concatenate(parts) != expected)), 0.0


def expertsCase(device, rng, rows, inputs, width, experts, topK, dtype):
    x = rng.standard_normal((rows, inputs)).astype(np.float32)
    logits = rng.standard_normal((rows, experts)).astype(np.float32)
    gate, up = (rng.standard_normal((experts * width, inputs)).astype(np.float32) * inputs**-0.5 for _ in range(2))
    down = rng.standard_normal((experts * inputs, width)).astype(np.float32) * width**-0.5
    route, out = device.output(rows, 2 * topK), device.output(rows, inputs)
    device.run("route", pagoda.Route(route, device.tensor(logits), pagoda.Weight(), topK, 0, 1, 1.0, 1, 1, 0))
    none = pagoda.Weight()
    device.run("experts", pagoda.Experts(
        out, device.tensor(x), route, device.weight(gate, dtype), device.weight(up, dtype), device.weight(down, dtype),
        none, none, none, experts, pagoda.SILU))
    expected = np.zeros((rows, inputs))
    for row in range(rows):
        chosen = np.argsort(-logits[row], kind="stable")[:topK]
        weights = np.exp(logits[row, chosen].astype(np.float64) - logits[row, chosen].max())
        for expert, share in zip(chosen, weights / weights.sum()):
            rowsOf = slice(expert * width, (expert + 1) * width)
            g, u = gate[rowsOf].astype(np.float64) @ x[row], up[rowsOf].astype(np.float64) @ x[row]
            expected[row] += share * (down[expert * inputs : (expert + 1) * inputs] @ (g / (1 + np.exp(-g)) * u))
    return relativeError(device.download(out), expected), EXACT if dtype == F32 else 2 * ROUNDED


def rmsNormCase(device, rng, rows, width):
    x, weight = rng.standard_normal((rows, width)).astype(np.float32), rng.standard_normal(width).astype(np.float32)
    out = device.output(rows, width)
    device.run("rmsNorm", pagoda.RmsNorm(out, device.tensor(x), device.weight(weight, kind=pagoda.VECTOR), width,
                                         1e-5, 0.0))
    wide = x.astype(np.float64)
    expected = wide / np.sqrt((wide**2).mean(axis=1, keepdims=True) + 1e-5) * weight
    return relativeError(device.download(out), expected), EXACT


MIXED = [(9, 0), (1, 70), (0, 0), (5, 33), (1, 0), (0, 20), (130, 5)]
DECODE = [(1, 1100), (1, 30), (1, 0), (2, 511)]


def cases():
    yield "rmsNorm", rmsNormCase, dict(rows=5, width=4096)
    for dtype in (F32, F16, BF16, pagoda.Q8_0):
        for rows in (1, 7, 16, 17, 70, 200):
            yield "linear", linearCase, dict(rows=rows, inputs=1056, outputs=264, dtype=dtype)
    yield "linear, odd", linearCase, dict(rows=33, inputs=1030, outputs=77, dtype=BF16)
    for dtype in (F32, BF16, pagoda.Q8_0):
        for inputs in (800, 2080):
            yield "rows of linear", invarianceCase, dict(inputs=inputs, outputs=130, dtype=dtype)
    for dim, dtype in ((64, BF16), (128, BF16), (80, BF16), (256, BF16), (60, BF16), (128, INT8), (64, F32)):
        yield "chunks of attention", chunksCase, dict(tokens=1100, heads=4, kvHeads=1, dim=dim, dtype=dtype)
    for dtype in (F32, BF16, INT8):
        for heads, kvHeads, dim in ((8, 2, 128), (3, 1, 64), (9, 9, 80), (1, 1, 256)):
            for name, requests in (("mixed", MIXED), ("decode", DECODE)):
                yield f"attention, {name}", attentionCase, dict(requests=requests, heads=heads, kvHeads=kvHeads,
                                                                dim=dim, dtype=dtype)
    yield "chunks of mlaAttention", latentChunksCase, dict(tokens=1100, last=40, heads=3)
    yield "chunks of mlaAttention, expanded", latentChunksCase, dict(tokens=1100, last=140, heads=2, width=128,
                                                                     expandFrom=2)
    for dim in (64, 128):
        for blockSize in (3, 8, 64):
            yield "attention, window", attentionCase, dict(requests=MIXED, heads=4, kvHeads=2, dim=dim, dtype=BF16,
                                                           window=40, sinks=True, blockSize=blockSize)
        yield "attention, softcap", attentionCase, dict(requests=DECODE, heads=4, kvHeads=1, dim=dim, dtype=BF16,
                                                        softcap=5.0, blockSize=256)
    for heads in (1, 3, 16, 63):
        yield "mlaAttention", mlaCase, dict(requests=[(3, 70), (1, 0), (0, 0)], heads=heads, latent=64, rope=16,
                                            nope=32, valueDim=32, dtype=BF16)
    for heads, blockSize, requests in ((16, 64, [(1, 90), (4, 0)]), (128, 8, [(1, 1060), (2, 30)]), (70, 12, [(3, 9)])):
        yield "mlaAttention, DeepSeek", mlaCase, dict(requests=requests, heads=heads, latent=512, rope=64, nope=128,
                                                      valueDim=128, dtype=BF16, blockSize=blockSize)
    yield "mlaAttention, DeepSeek", mlaCase, dict(requests=[(1, 700), (4, 0)], heads=16, latent=512, rope=64, nope=128,
                                                  valueDim=128, dtype=INT8, blockSize=12)
    for heads, width, blockSize in ((3, 128, 64), (16, 64, 8)):
        yield "mlaAttention, expanded", mlaCase, dict(requests=[(1, 90), (140, 1000), (0, 0), (2, 5), (30, 0)],
                                                      heads=heads, latent=512, rope=64, nope=width, valueDim=width,
                                                      dtype=BF16, blockSize=blockSize, expandFrom=16)
    yield "gatherKv", gatherCase, dict(requests=MIXED, kvHeads=2, dim=64)
    for dtype in (F32, BF16):
        for rows in (1, 9, 200):
            yield "experts", expertsCase, dict(rows=rows, inputs=128, width=96, experts=8, topK=2, dtype=dtype)


def main(library, index=0):
    device = Device(library, index=int(index))
    failures = 0
    for number, (name, run, options) in enumerate(cases()):
        error, allowed = run(device, np.random.default_rng(number), **options)
        device.free()
        passed = error <= allowed  # NaN never is
        failures += not passed
        details = ", ".join(f"{key} {value}" for key, value in options.items() if key != "requests")
        print(f"{'ok  ' if passed else 'FAIL'} {name}, {details}: {error:.1e}", flush=True)
    device.close()
    print(f"{number + 1 - failures} passed, {failures} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
