"""Checks that an exported model gives in transformers the logits that the training code gives.

    python check-export.py --model demo

Both hold the exported weights and compute in float64, but for the scores of routers, which transformers
computes in float32: only a difference of meaning shows.
"""

import torch

from data import load_tokenizer
from generation import load_chat_tokenizer, load_model
from models import checkpoint_path, new_model, parse_model

TEXTS = [
    "Once upon a time, there was a little fox named Ravo.",
    "<|im_start|>user\nWhat is 27 + 48?<|im_end|>\n<|im_start|>assistant\n27 + 48 = 75<|im_end|>\n",
]


def exported_model(name):
    """The training code with weights as they are exported: rounded to bfloat16."""
    model = new_model(name)
    model.load_state_dict(torch.load(checkpoint_path(name), weights_only=False)["model"])
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().double()
    return model.double().eval()


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
