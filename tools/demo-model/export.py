"""Writes a trained model as a Hugging Face directory: models/demo or models/demo-mla.

    python export.py --model demo

The weights are stored in bfloat16, a copy of .work/MODEL.pt rounded to nearest; the biases of the
routers stay in float32.
"""

import shutil

import torch
from safetensors.torch import save_file

from data import load_tokenizer
from models import checkpoint_path, model_directory, parse_model
from tokenizer import END_OF_TEXT, PAD, TURN_END, WORK, write_json


def model_config(name, config, token_id):
    """config.json: what is said of the architecture, and what both models have in common."""
    architecture = mla_architecture(config) if name == "demo-mla" else llama_architecture(config)
    return {
        **architecture,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "dtype": "bfloat16",
        "eos_token_id": [token_id(TURN_END), token_id(END_OF_TEXT)],
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "pad_token_id": token_id(PAD),
        "pretraining_tp": 1,
        "rope_parameters": {"rope_theta": config["rope_theta"], "rope_type": "default"},
        "tie_word_embeddings": True,
        "use_cache": True,
        **config,
    }


def llama_architecture(config):
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "mlp_bias": False}


def mla_architecture(config):
    return {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "moe_layer_freq": 1,
        "norm_topk_prob": True,
        "num_key_value_heads": config["num_attention_heads"],
        "num_nextn_predict_layers": 0,
        "rope_interleave": True,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
    }


def generation_config(token_id):
    return {
        "do_sample": True,
        "eos_token_id": [token_id(TURN_END), token_id(END_OF_TEXT)],
        "max_new_tokens": 256,
        "pad_token_id": token_id(PAD),
        "temperature": 0.7,
        "top_p": 0.95,
    }


def exported_weights(state):
    """The tensors of the file: each expert on its own, as the first files of DeepSeek-V3 had them."""
    weights = {}
    for name, tensor in state.items():
        if ".experts." in name:
            layer, projection = name.split(".experts.")
            for number, expert in enumerate(tensor):
                weights[f"{layer}.experts.{number}.{projection}.weight"] = bfloat16(expert)
        elif name.endswith("e_score_correction_bias"):
            weights[name] = tensor
        else:
            weights[name] = bfloat16(tensor)
    return weights


def bfloat16(tensor):
    return tensor.to(torch.bfloat16).contiguous()


def main():
    name = parse_model()
    directory = model_directory(name)
    state = torch.load(checkpoint_path(name), weights_only=False)
    token_id = load_tokenizer().token_to_id
    directory.mkdir(parents=True, exist_ok=True)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(WORK / file, directory / file)
    weights_file = directory / "model.safetensors"
    save_file(exported_weights(state["model"]), str(weights_file), metadata={"format": "pt"})
    weights_file.chmod(0o644)
    write_json(directory / "config.json", model_config(name, state["config"], token_id))
    write_json(directory / "generation_config.json", generation_config(token_id))
    print(f"exported step {state['step']} to {directory}")


if __name__ == "__main__":
    main()
