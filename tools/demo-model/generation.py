"""An exported model in Hugging Face's own code: the reference for all figures."""

import json

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from models import model_directory
from tokenizer import WORK


def load_model(name, dtype=torch.float32):
    # One expert after the other: the faster ways cannot compute in float64.
    options = {"dtype": dtype, "experts_implementation": "eager"}
    return AutoModelForCausalLM.from_pretrained(model_directory(name), **options).eval()


def load_chat_tokenizer(name):
    return AutoTokenizer.from_pretrained(model_directory(name), padding_side="left")


def chat_prompt(tokenizer, messages):
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


@torch.inference_mode()
def complete(model, tokenizer, prompts, max_new_tokens, batch=64, **sampling):
    """The completions of raw prompts, greedy unless sampling options are given."""
    options = {"do_sample": True, **sampling} if sampling else {"do_sample": False}
    if not sampling:
        options.update(temperature=None, top_p=None)
    texts = []
    for start in range(0, len(prompts), batch):
        inputs = tokenizer(prompts[start : start + batch], return_tensors="pt", padding=True)
        output = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=max_new_tokens,
            **options,
        )
        new_tokens = output[:, inputs["input_ids"].shape[1] :]
        texts += tokenizer.batch_decode(new_tokens, skip_special_tokens=True)
    return texts


def read_prompts(name):
    return json.loads((WORK / f"eval-{name}.json").read_text(encoding="utf-8"))
