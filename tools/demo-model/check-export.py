"""Checks that an exported model gives in transformers the logits that the training code gives.

    python check-export.py --model demo

Both hold the exported weights and compute in float64, but for the scores of routers, which transformers
computes in float32: only a difference of meaning shows.
"""

import torch
from safetensors.torch import load_file

from data import load_tokenizer
from generation import load_chat_tokenizer, load_model
from models import model_directory, new_model, parse_model

TEXTS = [
    "Once upon a time, there was a little fox named Ravo.",
    "<|im_start|>user\nWhat is 27 + 48?<|im_end|>\n<|im_start|>assistant\n27 + 48 = 75<|im_end|>\n",
]


def exported_model(name):
    """The training code with the exported weights."""
    model = new_model(name).double().eval()
    weights = load_file(model_directory(name) / "model.safetensors")
    state = {key: stored(weights, key, len(tensor)) for key, tensor in model.state_dict().items()}
    model.load_state_dict(state)
    return model


def stored(weights, key, count):
    """A tensor of the training code; it stacks the experts of a layer, which the file has one by one."""
    if ".experts." not in key:
        return weights[key]
    layer, projection = key.split(".experts.")
    names = [f"{layer}.experts.{number}.{projection}.weight" for number in range(count)]
    return torch.stack([weights[name] for name in names])


def main():
    name = parse_model()
    reference, tokenizer = load_model(name, torch.float64), load_tokenizer()
    own, chat_tokenizer = exported_model(name), load_chat_tokenizer(name)
    for text in TEXTS:
        ids = tokenizer.encode(text).ids
        assert chat_tokenizer(text)["input_ids"] == ids
        with torch.inference_mode():
            batch = torch.tensor([ids])
            difference = (reference(batch).logits - own(batch)).abs().max().item()
        print(f"{len(ids)} tokens, largest difference of a logit: {difference:.2e}")
        assert difference < 1e-3


if __name__ == "__main__":
    main()
