"""Makes the quantised directories of test/fixtures/quantized and what transformers computes with their numbers.

Usage: python tools/goldens/make-quantized-goldens.py [name ...]
Needs: torch, transformers, safetensors (versions are written into each golden.json).

Each directory is a tiny Llama whose linears are random codes, scales and zero points, packed here as the published
definitions say (docs/quantized-models.md names them); nothing of Pagoda is used. `mxfp4` is a tiny gpt-oss with random codes
and exponents, which transformers itself unpacks. Beside it
  golden.json         {"torch", "transformers", "ids"}
  golden_logits.f32   float32 [ids, vocab_size], computed in float64 from scale * (code - zero)
"""

import json
import shutil
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

FIXTURES = Path(__file__).resolve().parents[2] / "test" / "fixtures" / "quantized"
IDS = [1, 17, 30, 4, 22, 9, 9, 26]
GROUP_SIZE = 32

CONFIG = dict(
    vocab_size=32, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=1, head_dim=16, max_position_embeddings=64, tie_word_embeddings=True,
    bos_token_id=1, eos_token_id=2, pad_token_id=0,
)

GPT_OSS = dict(
    num_hidden_layers=2, num_local_experts=4, num_experts_per_tok=2, intermediate_size=32, sliding_window=4,
    tie_word_embeddings=False, rope_parameters=dict(rope_type="default", rope_theta=1e4),
)

LINEARS = [f"self_attn.{name}_proj" for name in "qkvo"] + [f"mlp.{name}_proj" for name in ["gate", "up", "down"]]


# ---- codes and what they stand for


def random_linear(rows, cols, recipe, generator):
    """codes [rows, cols], scales and zeros [rows, groups], groups [cols]; the zero points include 0."""
    levels = 2 ** recipe["bits"]
    size = cols if recipe.get("whole_rows") else GROUP_SIZE
    shape = (rows, cols // size)
    codes = torch.randint(levels, (rows, cols), generator=generator)
    scales = ((torch.rand(shape, generator=generator) + 0.5) * 4 / levels / cols**0.5).half()
    zeros = torch.full(shape, levels // 2)
    if not recipe["symmetric"]:
        zeros = torch.randint(levels // 4, 3 * levels // 4, shape, generator=generator)
        zeros[torch.rand(shape, generator=generator) < 0.1] = 0
    groups = torch.arange(cols) // size
    if recipe["order"]:
        groups = groups[torch.randperm(cols, generator=generator)]
    return codes, scales, zeros, groups


def dequantize(codes, scales, zeros, groups):
    return scales.double()[:, groups] * (codes - zeros[:, groups])


# ---- layouts


def pack(values, bits, order=None):
    """Along the last dimension: element `order[i]` of each 32 / bits becomes the i-th lowest bits of a word."""
    count = 32 // bits
    order = order or range(count)
    words = torch.zeros(values.shape[:-1] + (values.shape[-1] // count,), dtype=torch.int64)
    for i, element in enumerate(order):
        words |= values[..., element::count] << (bits * i)
    return as_int32(words)


def as_int32(words):
    words = words & 0xFFFFFFFF
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def store_gptq(codes, scales, zeros, groups, recipe):
    """Words of inputs, one below the other; version 1 takes one from each zero point by a subtraction of whole words."""
    bits = recipe["bits"]
    qzeros = pack(zeros.T, bits)
    if recipe["v1"]:
        qzeros = as_int32(qzeros.long() - {4: 0x11111111, 8: 0x01010101}[bits])
    return dict(qweight=pack(codes, bits).T, qzeros=qzeros, scales=scales.T, g_idx=groups.to(torch.int32))


def store_awq(codes, scales, zeros, groups, recipe):
    """Words of eight outputs in an order of their own."""
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    return dict(qweight=pack(codes.T, 4, order), qzeros=pack(zeros.T, 4, order), scales=scales.T)


def store_packed(codes, scales, zeros, groups, recipe):
    """Words of inputs, zero points of outputs; signed numbers are stored with the middle added."""
    bits = recipe["bits"]
    tensors = dict(weight_packed=pack(codes, bits), weight_scale=scales, weight_shape=torch.tensor(codes.shape))
    if not recipe["symmetric"]:
        tensors["weight_zero_point"] = pack(zeros.T, bits).T
    return with_order(tensors, groups, recipe)


def store_bytes(codes, scales, zeros, groups, recipe):
    """Signed bytes, less the middle."""
    tensors = dict(weight=(codes - 128).to(torch.int8), weight_scale=scales)
    if not recipe["symmetric"]:
        tensors["weight_zero_point"] = (zeros - 128).to(torch.int8)
    return with_order(tensors, groups, recipe)


def with_order(tensors, groups, recipe):
    return {**tensors, "weight_g_idx": groups.to(torch.int32)} if recipe["order"] else tensors


# ---- recipes


def gptq(bits=4, symmetric=True, format="gptq", order=False, stored_middle=None):
    config = dict(quant_method="gptq", bits=bits, group_size=GROUP_SIZE, sym=symmetric, desc_act=order,
                  checkpoint_format=format)
    return dict(config=config, bits=bits, symmetric=symmetric, order=order, store=store_gptq,
                v1=format == "gptq" and stored_middle is None)


def awq(symmetric=False):
    config = dict(quant_method="awq", bits=4, group_size=GROUP_SIZE, version="gemm", zero_point=not symmetric)
    return dict(config=config, bits=4, symmetric=symmetric, order=False, store=store_awq)


def compressed(format="pack-quantized", bits=4, symmetric=True, order=None, strategy="group"):
    weights = dict(num_bits=bits, type="int", symmetric=symmetric, strategy=strategy, actorder=order,
                   group_size=GROUP_SIZE if strategy == "group" else None)
    groups = dict(group_0=dict(targets=["Linear"], weights=weights, input_activations=None))
    config = dict(quant_method="compressed-tensors", format=format, ignore=["lm_head"], config_groups=groups)
    store = store_packed if format == "pack-quantized" else store_bytes
    return dict(config=config, bits=bits, symmetric=symmetric, order=order == "group", store=store,
                whole_rows=strategy == "channel")


RECIPES = {
    "gptq-symmetric": gptq(),
    "gptq-asymmetric": gptq(symmetric=False),
    "gptq-stored-as-v2": gptq(stored_middle=8),
    "gptq-v2-asymmetric": gptq(symmetric=False, format="gptq_v2"),
    "gptq-act-order": gptq(symmetric=False, order=True),
    "gptq-8-bits-asymmetric": gptq(bits=8, symmetric=False),
    "awq": awq(),
    "awq-symmetric": awq(symmetric=True),
    "packed-asymmetric": compressed(symmetric=False),
    "packed-act-order": compressed(order="group"),
    "packed-8-bits-asymmetric": compressed(bits=8, symmetric=False),
    "bytes-symmetric": compressed("int-quantized", bits=8, strategy="channel"),
    "bytes-asymmetric": compressed("int-quantized", bits=8, symmetric=False),
}


# ---- directories


@torch.no_grad()
def make(name, recipe, seed):
    generator = torch.Generator().manual_seed(seed)
    config = transformers.LlamaConfig(**CONFIG)
    model = transformers.LlamaForCausalLM(config).double()
    tensors = {}
    for key, parameter in model.named_parameters():
        module = key.removesuffix(".weight")
        if module.split(".", 3)[-1] in LINEARS:
            parts = random_linear(*parameter.shape, recipe, generator)
            parameter.copy_(dequantize(*parts))
            stored = recipe["store"](*parts, recipe)
            tensors |= {f"{module}.{part}": tensor.contiguous() for part, tensor in stored.items()}
            continue
        noise = torch.randn(parameter.shape, generator=generator)
        stored = (noise if parameter.dim() == 2 else 1 + 0.2 * noise).half()
        parameter.copy_(stored.double())
        tensors[key] = stored
    write(FIXTURES / name, config.to_dict() | {"quantization_config": recipe["config"]}, tensors, model)


@torch.no_grad()
def make_mxfp4(name, seed):
    generator = torch.Generator().manual_seed(seed)
    config = transformers.GptOssConfig(**{**CONFIG, **GPT_OSS})
    model = transformers.GptOssForCausalLM(config).double()
    model.set_experts_implementation("eager")  # others know no float64
    tensors = {}
    for key, parameter in model.named_parameters():
        if key.endswith(("experts.gate_up_proj", "experts.down_proj")):
            experts, inputs, outputs = parameter.shape
            blocks = torch.randint(256, (experts, outputs, inputs // 32, 16), generator=generator, dtype=torch.uint8)
            scales = torch.randint(121, 124, (experts, outputs, inputs // 32), generator=generator, dtype=torch.uint8)
            parameter.copy_(convert_moe_packed_tensors(blocks, scales, dtype=torch.float64))
            tensors |= {f"{key}_blocks": blocks, f"{key}_scales": scales}
            continue
        noise = torch.randn(parameter.shape, generator=generator)
        scale = parameter.shape[-1] ** -0.5 if key.endswith("proj.weight") else 1.0
        stored = (1 + 0.2 * noise if "norm" in key else noise * scale).bfloat16()
        parameter.copy_(stored.double())
        tensors[key] = stored
    quantization = dict(quant_method="mxfp4", modules_to_not_convert=["model.layers.*.self_attn", "lm_head"])
    write(FIXTURES / name, config.to_dict() | {"quantization_config": quantization}, tensors, model)


def write(directory, config, tensors, model):
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    config["architectures"] = [type(model).__name__]
    write_json(directory / "config.json", config)
    save_file(tensors, directory / "model.safetensors")
    logits = model(torch.tensor([IDS]), use_cache=False).logits[0]
    (directory / "golden_logits.f32").write_bytes(logits.float().numpy().tobytes())
    versions = dict(torch=torch.__version__, transformers=transformers.__version__)
    write_json(directory / "golden.json", {**versions, "ids": IDS})


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def main():
    names = sys.argv[1:] or [*RECIPES, "mxfp4"]
    for name in names:
        if name == "mxfp4":
            make_mxfp4(name, seed=len(RECIPES))
        else:
            make(name, RECIPES[name], seed=list(RECIPES).index(name))
        print(name)


if __name__ == "__main__":
    main()
