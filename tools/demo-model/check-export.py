"""Checks that the exported model gives in transformers the logits that the training code gives.

    python check-export.py
"""

import torch

from data import load_tokenizer
from generation import load_chat_tokenizer, load_model
from model import DemoModel, ModelConfig
from safetensors.torch import load_file
from tokenizer import MODEL_DIR

TEXTS = [
    "Once upon a time, there was a little fox named Ravo.",
    "<|im_start|>user\nWhat is 27 + 48?<|im_end|>\n<|im_start|>assistant\n27 + 48 = 75<|im_end|>\n",
]


def main():
    reference, tokenizer = load_model(), load_tokenizer()
    own = DemoModel(ModelConfig()).eval()
    own.load_state_dict(load_file(MODEL_DIR / "model.safetensors"))
    chat_tokenizer = load_chat_tokenizer()
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
