"""The second demo model: a small DeepSeek-V3 decoder in plain torch.

Attention keeps one latent vector a token for all heads, and most layers have a mixture of experts.
DeepSeek-V3 Technical Report, https://arxiv.org/abs/2412.19437, section 2.1. Parameter names are those
of Hugging Face's DeepseekV3ForCausalLM; only the experts of a layer are stacked and exported one by
one.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from model import MLP, RMSNorm, init_weights


@dataclass
class MlaConfig:
    vocab_size: int = 1536
    hidden_size: int = 256
    num_hidden_layers: int = 6
    num_attention_heads: int = 6
    q_lora_rank: int = 96
    kv_lora_rank: int = 64
    qk_nope_head_dim: int = 32
    qk_rope_head_dim: int = 16
    v_head_dim: int = 32
    intermediate_size: int = 256
    moe_intermediate_size: int = 64
    first_k_dense_replace: int = 1
    n_routed_experts: int = 8
    n_shared_experts: int = 1
    num_experts_per_tok: int = 2
    n_group: int = 4
    topk_group: int = 2
    routed_scaling_factor: float = 2.0
    max_position_embeddings: int = 1024
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6


def rope_tables(config):
    """Cosine and sine of every position and pair, [positions, qk_rope_head_dim / 2]."""
    half = config.qk_rope_head_dim // 2
    frequency = config.rope_theta ** (-torch.arange(half, dtype=torch.float32) / half)
    angle = torch.outer(torch.arange(config.max_position_embeddings).float(), frequency)
    return angle.cos(), angle.sin()


def rotate(x, cos, sin):
    """Rotates the pairs (x0, x1), (x2, x3), ...; they come out as all first and all second halves."""
    first, second = x[..., 0::2], x[..., 1::2]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


class LatentAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        hidden, heads = config.hidden_size, config.num_attention_heads
        nope, rope, v = config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim
        self.q_a_proj = nn.Linear(hidden, config.q_lora_rank, bias=False)
        self.q_a_layernorm = RMSNorm(config.q_lora_rank, config.rms_norm_eps)
        self.q_b_proj = nn.Linear(config.q_lora_rank, heads * (nope + rope), bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(hidden, config.kv_lora_rank + rope, bias=False)
        self.kv_a_layernorm = RMSNorm(config.kv_lora_rank, config.rms_norm_eps)
        self.kv_b_proj = nn.Linear(config.kv_lora_rank, heads * (nope + v), bias=False)
        self.o_proj = nn.Linear(heads * v, hidden, bias=False)

    def forward(self, x, cos, sin):
        q, k, v = self.queries(x, cos, sin), *self.keys_and_values(x, cos, sin)
        # The fused kernel wants values as wide as keys: columns of zeros, dropped again.
        v_size, padding = v.shape[-1], k.shape[-1] - v.shape[-1]
        out = F.scaled_dot_product_attention(q, k, F.pad(v, (0, padding)), is_causal=True)
        return self.o_proj(out[..., :v_size].transpose(1, 2).flatten(2))

    def queries(self, x, cos, sin):
        nope, rope = self.config.qk_nope_head_dim, self.config.qk_rope_head_dim
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x)))
        q = q.unflatten(-1, (-1, nope + rope)).transpose(1, 2)
        return torch.cat([q[..., :nope], rotate(q[..., nope:], cos, sin)], dim=-1)

    def keys_and_values(self, x, cos, sin):
        config = self.config
        nope, v_size = config.qk_nope_head_dim, config.v_head_dim
        latent, shared_k = self.kv_a_proj_with_mqa(x).split(
            [config.kv_lora_rank, config.qk_rope_head_dim], dim=-1
        )
        kv = self.kv_b_proj(self.kv_a_layernorm(latent)).unflatten(-1, (-1, nope + v_size))
        k, v = kv.transpose(1, 2).split([nope, v_size], dim=-1)
        shared_k = rotate(shared_k, cos, sin).unsqueeze(1).expand(-1, k.shape[1], -1, -1)
        return torch.cat([k, shared_k], dim=-1), v


class Router(nn.Module):
    """Weights of the experts for every token, [tokens, experts], zero for those that are not used."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        experts = config.n_routed_experts
        self.weight = nn.Parameter(torch.empty(experts, config.hidden_size))
        nn.init.normal_(self.weight, std=config.hidden_size**-0.5)
        self.register_buffer("e_score_correction_bias", torch.zeros(experts))
        self.register_buffer("load", torch.zeros(experts), persistent=False)

    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            scores = F.linear(x.float(), self.weight.float()).sigmoid()
        with torch.no_grad():
            chosen = self.choose(scores + self.e_score_correction_bias)
            self.load.copy_(chosen.sum(0))
        weights = scores * chosen
        return weights * (self.config.routed_scaling_factor / weights.sum(-1, keepdim=True))

    def choose(self, scores):
        """The best experts of the best groups; a group is worth its best two: [tokens, experts]."""
        config = self.config
        groups = scores.unflatten(-1, (config.n_group, -1))
        worth = groups.topk(2, dim=-1).values.sum(-1)
        best = worth.topk(config.topk_group, dim=-1).indices
        open_groups = torch.zeros_like(worth).scatter(1, best, 1.0).bool()
        scores = groups.masked_fill(~open_groups.unsqueeze(-1), float("-inf")).flatten(1)
        best = scores.topk(config.num_experts_per_tok, dim=-1).indices
        return torch.zeros_like(scores).scatter(1, best, 1.0)

    @torch.no_grad()
    def balance(self, rate):
        """Raises the bias of experts with less than their share of the last batch, lowers the others'.

        Only differences between biases matter, so the smallest stays zero.
        """
        bias = self.e_score_correction_bias
        bias += rate * torch.sign(self.load.mean() - self.load)
        bias -= bias.min()


class Experts(nn.Module):
    """All experts of a layer as one wide MLP whose inner columns have the weight of their expert.

    At this size that is faster than gathering the tokens of each expert, and the result is the same.
    """

    def __init__(self, config):
        super().__init__()
        experts, hidden = config.n_routed_experts, config.hidden_size
        inner = config.moe_intermediate_size
        self.gate_proj = nn.Parameter(torch.randn(experts, inner, hidden) * hidden**-0.5)
        self.up_proj = nn.Parameter(torch.randn(experts, inner, hidden) * hidden**-0.5)
        self.down_proj = nn.Parameter(torch.randn(experts, hidden, inner) * inner**-0.5)

    def forward(self, x, weights):
        inner = F.silu(F.linear(x, self.gate_proj.flatten(0, 1)))
        inner = inner * F.linear(x, self.up_proj.flatten(0, 1))
        inner = inner.unflatten(-1, self.gate_proj.shape[:2]) * weights.unsqueeze(-1).to(inner.dtype)
        return F.linear(inner.flatten(1), self.down_proj.transpose(0, 1).flatten(1))


class MixtureOfExperts(nn.Module):
    def __init__(self, config):
        super().__init__()
        shared_size = config.n_shared_experts * config.moe_intermediate_size
        self.gate = Router(config)
        self.experts = Experts(config)
        self.shared_experts = MLP(config.hidden_size, shared_size)

    def forward(self, x):
        tokens = x.flatten(0, 1)
        routed = self.experts(tokens, self.gate(tokens))
        return routed.view_as(x) + self.shared_experts(x)


class Layer(nn.Module):
    def __init__(self, config, index):
        super().__init__()
        is_dense = index < config.first_k_dense_replace
        self.self_attn = LatentAttention(config)
        self.mlp = (
            MLP(config.hidden_size, config.intermediate_size)
            if is_dense
            else MixtureOfExperts(config)
        )
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        layers = range(config.num_hidden_layers)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, index) for index in layers)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class MlaModel(nn.Module):
    """Token ids in, logits out; the output matrix is the embedding (tied)."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        cos, sin = rope_tables(config)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.apply(init_weights)
        residual_scale = (2 * config.num_hidden_layers) ** -0.5
        for name, parameter in self.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                parameter.data.mul_(residual_scale)

    def forward(self, ids):
        length = ids.shape[1]
        cos, sin = self.cos[:length], self.sin[:length]
        x = self.model.embed_tokens(ids)
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        return F.linear(self.model.norm(x), self.model.embed_tokens.weight)

    def routers(self):
        return [module for module in self.modules() if isinstance(module, Router)]

    def loads(self):
        """Tokens of the last batch for each expert, one tensor a layer."""
        return [router.load for router in self.routers()]

    def balance(self, rate):
        for router in self.routers():
            router.balance(rate)

    def report(self):
        """The busiest and the idlest expert of the last batch, 1 being an even share."""
        shares = torch.stack([load / load.mean() for load in self.loads()])
        return f"load {shares.min():.2f} to {shares.max():.2f}"
