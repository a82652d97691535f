"""Makes the tiny models of test/fixtures/hf-extra and what Hugging Face transformers computes with them.

Usage: python tools/goldens/make-goldens.py [name ...]
Needs: torch, transformers, safetensors (versions are written into each golden.json).

Each model directory holds config.json and safetensors with random weights, and
  golden.json         {"torch", "transformers", "cases": [{"ids", "greedy", "min_margin"}]}
                      greedy: ids, then 16 times the most probable token
                      min_margin: smallest difference of the best two logits among those 16
  golden_logits.f32   float32 [positions of all cases, vocab_size], computed in float64 from the stored weights
"""

import json
import shutil
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM

FIXTURES = Path(__file__).resolve().parents[2] / "test" / "fixtures" / "hf-extra"
GREEDY_TOKENS = 16

SMALL = dict(
    vocab_size=131, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=128, bos_token_id=1, eos_token_id=2, pad_token_id=0,
)
DEEPSEEK = dict(
    **{**SMALL, "num_key_value_heads": 4, "num_hidden_layers": 3}, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=12,
    n_routed_experts=8, num_experts_per_tok=3, moe_intermediate_size=20, n_group=4, topk_group=2, first_k_dense_replace=1,
    attention_bias=True,
)
DEEPSEEK_YARN = dict(
    type="yarn", factor=8.0, original_max_position_embeddings=16, beta_fast=32, beta_slow=1, mscale=1.0,
    mscale_all_dim=0.707,
)
LLAMA3_ROPE = dict(
    rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=16,
)


LONGROPE = dict(
    rope_type="longrope", rope_theta=1e4, short_factor=[1.0, 1.1, 1.3, 1.7], long_factor=[1.2, 2.5, 5.0, 8.0],
)


def llama(**fields):
    return transformers.LlamaConfig(**{**SMALL, **fields})


def use_old_keys(**old):
    """An edit of config.json to the keys of transformers 4: rope_theta and rope_scaling at the top."""

    def edit(config):
        for key in ["rope_parameters", "layer_types", "_sliding_window_pattern"]:
            config.pop(key, None)
        config["torch_dtype"] = config.pop("dtype")
        config.update(old)

    return edit


# name -> (config, keyword arguments of make)
MODELS = {
    "llama-tied-bias": (llama(tie_word_embeddings=True, attention_bias=True, mlp_bias=True, head_dim=12), {}),
    "llama-linear": (llama(rope_parameters=dict(rope_type="linear", factor=4.0, rope_theta=1e4)), {}),
    "llama-yarn": (
        llama(rope_parameters=dict(
            rope_type="yarn", factor=4.0, rope_theta=1e4, original_max_position_embeddings=32)), {}),
    "llama-old-keys": (
        llama(rope_parameters=dict(LLAMA3_ROPE, rope_theta=5e5)),
        dict(edit=use_old_keys(rope_theta=5e5, rope_scaling=LLAMA3_ROPE)),
    ),
    "llama-bf16": (llama(), dict(dtype=torch.bfloat16)),
    "llama-f16": (llama(), dict(dtype=torch.float16)),
    "llama-sharded": (llama(), dict(max_shard_size="60KB")),
    "llama-odd": (
        llama(hidden_size=40, intermediate_size=37, num_attention_heads=5, num_key_value_heads=1, head_dim=10), {}),
    "qwen2-window": (
        transformers.Qwen2Config(**{**SMALL, "num_hidden_layers": 3, "intermediate_size": 40}, use_sliding_window=True, sliding_window=8,
                                 max_window_layers=1),
        dict(edit=use_old_keys(rope_theta=1e4)),
    ),
    "phi3-partial": (
        transformers.Phi3Config(**SMALL, sliding_window=12,
                                rope_parameters=dict(rope_type="default", rope_theta=1e4,
                                                     partial_rotary_factor=0.5)), {}),
    # All sequences are longer than the pretraining context, beyond which transformers takes the long factors.
    "phi3-longrope": (
        transformers.Phi3Config(**SMALL, original_max_position_embeddings=16, rope_parameters=LONGROPE),
        dict(lengths=[32, 20, 17])),
    "gemma3-old-keys": (
        transformers.Gemma3TextConfig(**{**SMALL, "num_hidden_layers": 3, "num_key_value_heads": 1}, head_dim=8,
                                      query_pre_attn_scalar=10, sliding_window=6, sliding_window_pattern=3),
        dict(edit=use_old_keys(rope_theta=1e6, rope_local_base_freq=1e4, sliding_window_pattern=3,
                               rope_scaling=dict(rope_type="linear", factor=8.0))),
    ),
    "deepseek-v2-groups": (
        transformers.DeepseekV2Config(**DEEPSEEK, q_lora_rank=None, topk_method="group_limited_greedy", n_shared_experts=2,
                                      routed_scaling_factor=4.0, mlp_bias=True),
        dict(dtype=torch.float16, edit=use_old_keys(rope_theta=1e4, rope_scaling=DEEPSEEK_YARN)),
    ),
    "deepseek-v3-halves": (
        transformers.DeepseekV3Config(**DEEPSEEK, q_lora_rank=24, n_shared_experts=1, norm_topk_prob=False,
                                      rope_interleave=False), {}),
}


def randomize(model, generator):
    """Weights that keep activations near unit size and make every part of the model count."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() == 2:
            tied = model.config.tie_word_embeddings  # a large tied embedding would only repeat its input
            scale = parameter.shape[1] ** -0.5 if tied or "embed" not in name else 1.0
            parameter.data = noise * scale
        elif name.endswith("bias"):
            parameter.data = noise * 0.3
        else:
            parameter.data = parameter.data + noise * 0.2
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.2)


def save(model, directory, dtype, edit, max_shard_size):
    shutil.rmtree(directory, ignore_errors=True)
    model.to(dtype).save_pretrained(directory, max_shard_size=max_shard_size)
    (directory / "generation_config.json").unlink(missing_ok=True)
    path = directory / "config.json"
    config = json.loads(path.read_text())
    edit(config)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


@torch.no_grad()
def greedy(model, ids):
    tokens, margins = list(ids), []
    for _ in range(GREEDY_TOKENS):
        best = model(torch.tensor([tokens]), use_cache=False).logits[0, -1].topk(2)
        margins.append((best.values[0] - best.values[1]).item())
        tokens.append(best.indices[0].item())
    return tokens, min(margins)


@torch.no_grad()
def write_golden(directory, generator, lengths):
    # From the files just written, so that their keys and dtypes are what is computed with.
    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float64, attn_implementation="sdpa", experts_implementation="eager").eval()
    cases, logits = [], []
    for length in lengths:
        ids = torch.randint(3, model.config.vocab_size, [length], generator=generator).tolist()
        tokens, margin = greedy(model, ids)
        cases.append(dict(ids=ids, greedy=tokens, min_margin=margin))
        logits.append(model(torch.tensor([ids]), use_cache=False).logits[0])
    golden = dict(torch=torch.__version__, transformers=transformers.__version__, cases=cases)
    (directory / "golden.json").write_text(json.dumps(golden) + "\n")
    (directory / "golden_logits.f32").write_bytes(torch.cat(logits).float().numpy().tobytes())


def make(name, config, dtype=torch.float32, edit=lambda config: None, max_shard_size="5GB", lengths=(32, 7, 1)):
    generator = torch.Generator().manual_seed(sum(name.encode()))
    model = AutoModelForCausalLM.from_config(config)
    randomize(model, generator)
    directory = FIXTURES / name
    save(model, directory, dtype, edit, max_shard_size)
    write_golden(directory, generator, lengths)
    size = sum(file.stat().st_size for file in directory.iterdir())
    margins = [case["min_margin"] for case in json.loads((directory / "golden.json").read_text())["cases"]]
    print(f"{name}: {size / 1000:.0f} kB, smallest margin {min(margins):.1e}")


if __name__ == "__main__":
    for name in sys.argv[1:] or MODELS:
        config, options = MODELS[name]
        make(name, config, **options)
