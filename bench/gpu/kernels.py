"""Times the CUDA kernels beside PyTorch's in one process, on random data. Needs a GPU.

    python3 bench/gpu/kernels.py build/Release/pagoda_backend_cuda.so

Times are medians of CUDA events. Weights, caches and inputs are rotated through more memory than the L2 cache holds. Ratios
are PyTorch's time by ours: above 1 we are faster. The first lines are the ceilings of this GPU: a copy, and a matrix product."""

import sys
import numpy as np
import pagoda
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

REPEATS, WARM_UP = 30, 5
L2_BYTES = 200 << 20  # some more than any L2 cache


def median(run):
    """Milliseconds of run(i), which queues work on the current stream."""
    for i in range(WARM_UP):
        run(i)
    times = []
    for i in range(REPEATS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run(i)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return float(np.median(times))


def view(x):
    """A torch matrix as a tensor of ours."""
    return pagoda.Tensor(x.data_ptr(), x.shape[0], x.shape[1], x.stride(0), pagoda.F32)


def line(name, ours, peers, flops=0.0, moved=0.0):
    figures = [f"{name:44s} {1000 * ours:9.1f} us"]
    if flops:
        figures.append(f"{flops / ours / 1e9:7.1f} TFLOPS")
    if moved:
        figures.append(f"{moved / ours / 1e6:7.0f} GB/s")
    figures += [f"{peer} {1000 * time:.1f} us (x{time / ours:.2f})" for peer, time in peers.items()]
    print("  ".join(figures), flush=True)


def ceilings():
    source = torch.randn(1 << 29, device="cuda")
    target = torch.empty_like(source)
    time = median(lambda i: target.copy_(source))
    print(f"copy {2 * source.nbytes / time / 1e6:.0f} GB/s read and written")
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    print(f"torch.matmul 8192^3 bf16 {2 * 8192**3 / median(lambda i: a @ b) / 1e9:.0f} TFLOPS")


def timeLinear(device, rng, rows, inputs, outputs, dtype=pagoda.BF16):
    copies = max(1, L2_BYTES // (2 * inputs * outputs))
    matrix = rng.standard_normal((outputs, inputs), np.float32) * np.float32(inputs**-0.5)
    weights = [device.weight(matrix, dtype) for _ in range(copies)]
    peers = [torch.randn(outputs, inputs, device="cuda", dtype=torch.bfloat16) for _ in range(copies)]
    x, out = torch.randn(rows, inputs, device="cuda"), torch.empty(rows, outputs, device="cuda")
    halves = x.bfloat16()
    none = pagoda.Weight()
    ours = median(lambda i: device.run("linear", pagoda.Linear(view(out), view(x), weights[i % copies], none)))
    peer = median(lambda i: halves @ peers[i % copies].T)
    line(f"linear [{rows}, {inputs}] x {outputs}, dtype {dtype}", ours, {"torch.matmul bf16": peer},
         2.0 * rows * inputs * outputs, 2.0 * inputs * outputs)
    device.free()


def prepareAttention(device, rng, requests, heads, kvHeads, dim, blockSize, dtype=pagoda.BF16):
    layout = pagoda.Layout(rng, requests, blockSize)
    slots, tokens = len(layout.slots), int(layout.queryLens.sum())
    key, value = (torch.randn(slots, kvHeads * dim, device="cuda") for _ in range(2))
    cache = device.cache(layout.numBlocks, blockSize, kvHeads, dim, dtype)
    device.run("cacheWrite", pagoda.CacheWrite(view(key), view(value), cache, device.upload(layout.slots)))
    query, out = (torch.randn(tokens, heads * dim, device="cuda") for _ in range(2))
    op = pagoda.Attention(view(out), view(query), cache, device.batch(layout), heads, dim**-0.5, 0, 0.0,
                          pagoda.Weight())
    return op, (query, out, key, value)


def timeSdpa(backend, query, key, value, causal):
    try:
        with sdpa_kernel(backend):
            return median(lambda i: torch.nn.functional.scaled_dot_product_attention(
                query, key, value, is_causal=causal, enable_gqa=True))
    except RuntimeError:
        return float("nan")  # not on this machine


def timePrefill(device, rng, tokens, heads, kvHeads, dim, dtype=pagoda.BF16):
    op, kept = prepareAttention(device, rng, [(tokens, 0)], heads, kvHeads, dim, 16, dtype)
    ours = median(lambda i: device.run("attention", op))
    query, key, value = (torch.randn(1, h, tokens, dim, device="cuda", dtype=torch.bfloat16)
                         for h in (heads, kvHeads, kvHeads))
    peers = {"cuDNN": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}
    times = {name: timeSdpa(backend, query, key, value, True) for name, backend in peers.items()}
    line(f"prefill {tokens} causal, {heads}/{kvHeads} heads of {dim}, cache {dtype}", ours, times, 2.0 * tokens**2 * heads * dim)
    device.free()


def timeDecode(device, rng, requests, context, heads, kvHeads, dim, dtype=pagoda.BF16, blockSize=16):
    op, kept = prepareAttention(device, rng, [(1, context - 1)] * requests, heads, kvHeads, dim, blockSize, dtype)
    ours = median(lambda i: device.run("attention", op))
    query = torch.randn(requests, heads, 1, dim, device="cuda", dtype=torch.bfloat16)
    key, value = (torch.randn(requests, kvHeads, context, dim, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    times = {"flash, contiguous": timeSdpa(SDPBackend.FLASH_ATTENTION, query, key, value, False)}
    moved = (2.0 if dtype == pagoda.INT8 else 4.0) * requests * context * kvHeads * dim
    line(f"decode {requests} x {context}, {heads}/{kvHeads} heads of {dim}, cache {dtype}", ours, times, moved=moved)
    device.free()


LATENT, ROPE, NOPE, VALUE = 512, 64, 128, 128  # DeepSeek's columns


def prepareMla(device, rng, layout, heads, blockSize=64):
    """Multi-head latent attention, up-projections included, with random matrices."""
    slots, tokens = len(layout.slots), int(layout.queryLens.sum())
    latents, ropeKey = torch.randn(slots, LATENT, device="cuda"), torch.randn(slots, ROPE, device="cuda")
    cache = device.cache(layout.numBlocks, blockSize, 1, LATENT + ROPE, pagoda.BF16, LATENT)
    device.run("latentWrite", pagoda.LatentWrite(view(latents), view(ropeKey), cache, device.upload(layout.slots)))
    query, queryRope, out = (torch.randn(tokens, heads * width, device="cuda") for width in (NOPE, ROPE, VALUE))
    keyUp, valueUp, keyExpand = (
        device.weight(rng.standard_normal(shape, np.float32) * np.float32(LATENT**-0.5))
        for shape in ((heads * LATENT, NOPE), (heads * VALUE, LATENT), (heads * NOPE, LATENT)))
    op = pagoda.MlaAttention(view(out), view(query), view(queryRope), cache, device.batch(layout), keyUp, valueUp,
                             keyExpand, heads, (NOPE + ROPE) ** -0.5, 0)
    return op, (query, queryRope, out, latents, ropeKey)


def timeMlaPrefill(device, rng, tokens, context, heads):
    """The expanded form beside the absorbed one, and beside SDPA with keys and values that torch makes of the latents."""
    layout = pagoda.Layout(rng, [(tokens, context - tokens)], 64)
    op, kept = prepareMla(device, rng, layout, heads)
    absorbed = median(lambda i: device.run("mlaAttention", op))
    op.expandFrom = 2
    ours = median(lambda i: device.run("mlaAttention", op))
    latents = torch.randn(context, LATENT, device="cuda", dtype=torch.bfloat16)
    up = torch.randn(LATENT, heads * (NOPE + VALUE), device="cuda", dtype=torch.bfloat16)
    query = torch.randn(1, heads, tokens, NOPE + ROPE, device="cuda", dtype=torch.bfloat16)
    ropeKey = torch.randn(context, 1, ROPE, device="cuda", dtype=torch.bfloat16).expand(context, heads, ROPE)

    def expandAndAttend(i):
        both = (latents @ up).view(context, heads, NOPE + VALUE)
        key = torch.cat([both[:, :, :NOPE], ropeKey], dim=2).transpose(0, 1)[None]
        torch.nn.functional.scaled_dot_product_attention(query, key, both[:, :, NOPE:].transpose(0, 1)[None],
                                                         is_causal=tokens == context)

    flops = 2.0 * heads * ((NOPE + VALUE) * LATENT * context
                           + (NOPE + ROPE + VALUE) * tokens * (context - tokens / 2))
    line(f"mlaAttention, {tokens} of {context} tokens, {heads} heads", ours,
         {"absorbed": absorbed, "torch, expanded": median(expandAndAttend)}, flops)
    device.free()


def timeMla(device, rng, requests, context, heads, blockSize=64):
    """Decode, against gathering the rows first."""
    latent, rope = LATENT, ROPE
    layout = pagoda.Layout(rng, [(1, context - 1)] * requests, blockSize)
    slots = len(layout.slots)
    op, kept = prepareMla(device, rng, layout, heads, blockSize)
    cache = op.cache
    ours = median(lambda i: device.run("mlaAttention", op))
    gathered = torch.empty(slots, latent + rope, device="cuda")
    layout.queryLens = layout.seqLens
    gather = pagoda.GatherKv(view(gathered), cache, device.batch(layout), 0)
    rows = torch.randn(requests, context, latent + rope, device="cuda", dtype=torch.bfloat16)
    absorbed = torch.randn(requests, heads, latent + rope, device="cuda", dtype=torch.bfloat16)

    def attendGathered(i):
        device.run("gatherKv", gather)
        scores = torch.bmm(absorbed, rows.transpose(1, 2))
        return torch.bmm(torch.softmax(scores, dim=2), rows[:, :, :latent])

    flops = 2.0 * requests * context * heads * (2 * latent + rope)
    line(f"mlaAttention {requests} x {context}, {heads} heads", ours,
         {"gatherKv, then torch": median(attendGathered)}, flops, 2.0 * slots * (latent + rope))
    device.free()


def main(library):
    stream = torch.cuda.current_stream().cuda_stream
    device = pagoda.Device(library, stream)
    rng = np.random.default_rng(0)
    print(torch.cuda.get_device_name())
    ceilings()
    for rows in (1, 8, 16, 64, 256, 2048):
        timeLinear(device, rng, rows, 4096, 4096)
    timeLinear(device, rng, 1, 4096, 14336)
    timeLinear(device, rng, 8192, 8192, 8192)
    for dtype in (pagoda.F16, pagoda.Q8_0, pagoda.Q4_K):
        for rows in (1, 2048):
            timeLinear(device, rng, rows, 4096, 4096, dtype)
    for tokens in (2048, 16384):
        for dim in (64, 128, 256):
            timePrefill(device, rng, tokens, 32, 8, dim)
    for requests, context in ((1, 16384), (32, 4096), (128, 2048)):
        timeDecode(device, rng, requests, context, 32, 8, 128)
    timePrefill(device, rng, 2048, 32, 8, 128, pagoda.INT8)
    timeDecode(device, rng, 32, 4096, 32, 8, 128, pagoda.INT8)
    for requests, heads in ((32, 16), (32, 64), (32, 128), (128, 64), (128, 128)):
        timeMla(device, rng, requests, 4096, heads)
    for tokens, context, heads in ((4096, 4096, 128), (512, 16384, 128), (4096, 4096, 16)):
        timeMlaPrefill(device, rng, tokens, context, heads)
    device.close()


if __name__ == "__main__":
    main(sys.argv[1])
