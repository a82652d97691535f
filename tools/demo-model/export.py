"""Writes the trained model as a Hugging Face directory: models/demo.

    python export.py

The weights are stored in bfloat16, a copy of .work/checkpoint.pt rounded to nearest.
"""

import shutil

import torch
from safetensors.torch import save_file

from tokenizer import END_OF_TEXT, MODEL_DIR, PAD, TURN_END, WORK, write_json
from data import load_tokenizer


def model_config(config, token_id):
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "dtype": "bfloat16",
        "eos_token_id": [token_id(TURN_END), token_id(END_OF_TEXT)],
        "head_dim": config["head_dim"],
        "hidden_act": "silu",
        "hidden_size": config["hidden_size"],
        "initializer_range": 0.02,
        "intermediate_size": config["intermediate_size"],
        "max_position_embeddings": config["max_position_embeddings"],
        "mlp_bias": False,
        "num_attention_heads": config["num_attention_heads"],
        "num_hidden_layers": config["num_hidden_layers"],
        "num_key_value_heads": config["num_key_value_heads"],
        "pad_token_id": token_id(PAD),
        "pretraining_tp": 1,
        "rms_norm_eps": config["rms_norm_eps"],
        "rope_parameters": {"rope_theta": config["rope_theta"], "rope_type": "default"},
        "rope_theta": config["rope_theta"],
        "tie_word_embeddings": True,
        "use_cache": True,
        "vocab_size": config["vocab_size"],
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


def main():
    state = torch.load(WORK / "checkpoint.pt", weights_only=False)
    token_id = load_tokenizer().token_to_id
    weights = {name: w.to(torch.bfloat16).contiguous() for name, w in state["model"].items()}
    MODEL_DIR.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(WORK / name, MODEL_DIR / name)
    weights_file = MODEL_DIR / "model.safetensors"
    save_file(weights, str(weights_file), metadata={"format": "pt"})
    weights_file.chmod(0o644)
    write_json(MODEL_DIR / "config.json", model_config(state["config"], token_id))
    write_json(MODEL_DIR / "generation_config.json", generation_config(token_id))
    print(f"exported step {state['step']} to {MODEL_DIR}")


if __name__ == "__main__":
    main()
