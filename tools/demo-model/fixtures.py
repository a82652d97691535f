"""Writes test/fixtures/demo-model and demo-mla-model: prompts and reference outputs.

    python fixtures.py --model demo

Greedy outputs and their probabilities come from Hugging Face's transformers in float64, token ids from
its tokenizers. What does not depend on the weights is written with the first model alone.
"""

import json
import random

import torch

from data import load_tokenizer
from generation import chat_prompt, load_chat_tokenizer, load_model, read_prompts
from models import fixtures_directory, parse_model

RAW_PROMPTS = [
    ("Once upon a time", 96),
    ("27 + 48 =", 24),
    ("Question: What is the capital of France?\nAnswer:", 24),
    ("Monday, Tuesday, Wednesday,", 24),
]

CHAT_PROMPTS = [
    ([{"role": "user", "content": "Hello"}], 48),
    ([{"role": "user", "content": "Tell me a story about Mia and a red kite."}], 192),
    (
        [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "My name is Ravo."},
            {"role": "assistant", "content": "Nice to meet you, Ravo!"},
            {"role": "user", "content": "How do you say hello in Chinese?"},
            {"role": "assistant", "content": "In Chinese, hello is: 你好"},
            {"role": "user", "content": "What is my name?"},
        ],
        32,
    ),
    (
        [
            {
                "role": "user",
                "content": "Reply in JSON: name, age and city. "
                "Ana is 31 years old and lives in Lima.",
            }
        ],
        64,
    ),
]

TOKENIZER_TEXTS = [
    "",
    " ",
    "Once upon a time",
    "  two  spaces  ",
    "What is 27 + 48?",
    "12345 and 3.14159",
    "½ ² ٣ 7",
    "It's we'll they've I'm you'd isn't",
    '{"name":"Tom","age":9,"list":["a","b"],"ok":true}',
    "line one\nline two\r\n\n\tindented\t\tend  \n",
    "你好，世界！ 今日は良い天気です。",
    "안녕하세요 नमस्ते مرحبا привет γεια",
    "café naïve über Ångström e\u0301",
    "👨‍👩‍👧 🏳️‍🌈 👍🏽 ❤️ 🇫🇷",
    "zero\u200bwidth \u00a0nbsp \u3000ideographic",
    "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
    "a<|endoftext|>b <|im_end|> c<|pad|>",
    "<|im_start|not special|> <|im_end",
    "supercalifragilistic QWERTY snake_case camelCase",
    "x=1; y+=2; if(a&&b){return!c}",
    "\u0000\u0001\u007f\u0080",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈",
]


def write(path, entries):
    """One entry on each line, so that differences are easy to read."""
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def sample_prompts(name, count):
    return random.Random(5).sample(read_prompts(name), count)


@torch.inference_mode()
def greedy(model, prompt_ids, max_new_tokens, stop_ids):
    """Greedy output and the smallest lead of a chosen token's logit over the second."""
    ids, output, margin = list(prompt_ids), [], float("inf")
    for _ in range(max_new_tokens):
        logits = model(torch.tensor([ids])).logits[0, -1]
        top = logits.topk(2)
        margin = min(margin, (top.values[0] - top.values[1]).item())
        output.append(top.indices[0].item())
        if output[-1] in stop_ids:
            break
        ids.append(output[-1])
    return output, round(margin, 4)


def greedy_entry(model, tokenizer, prompt, max_new_tokens):
    is_chat = isinstance(prompt, list)
    text = chat_prompt(tokenizer, prompt) if is_chat else prompt
    prompt_ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    output, margin = greedy(model, prompt_ids, max_new_tokens, model.config.eos_token_id)
    return {
        ("messages" if is_chat else "prompt"): prompt,
        "maxNewTokens": max_new_tokens,
        "promptTokenIds": prompt_ids,
        "outputTokenIds": output,
        "outputText": tokenizer.decode(output, skip_special_tokens=True),
        "smallestMargin": margin,
    }


@torch.inference_mode()
def logits_entry(model, entry):
    """The log probability of each token after the first, and all logits after the prompt."""
    prompt, output = entry["promptTokenIds"], entry["outputTokenIds"]
    logits = model(torch.tensor([prompt + output])).logits[0]
    logprobs = logits[:-1].log_softmax(-1).gather(1, torch.tensor(prompt + output)[1:, None])
    return {
        "promptTokenIds": prompt,
        "outputTokenIds": output,
        "logprobs": rounded(logprobs.flatten()),
        "logitsAfterPrompt": rounded(logits[len(prompt) - 1]),
    }


def rounded(values):
    return [round(value, 6) for value in values.tolist()]


def tokenizer_entry(tokenizer, text):
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    return {"text": text, "ids": ids}


def write_model_free(directory):
    write(directory / "held-out-sums.json", sample_prompts("sums", 200))
    write(directory / "json-answers.json", sample_prompts("json", 50))
    write(directory / "qa.json", sample_prompts("qa", 30))
    tokenizer = load_tokenizer()
    texts = [tokenizer_entry(tokenizer, text) for text in TOKENIZER_TEXTS]
    write(directory / "tokenizer.json", texts)


def main():
    name = parse_model()
    directory = fixtures_directory(name)
    model, tokenizer = load_model(name, torch.float64), load_chat_tokenizer(name)
    if name == "demo":
        write_model_free(directory)
    prompts = RAW_PROMPTS + CHAT_PROMPTS
    entries = [greedy_entry(model, tokenizer, *prompt) for prompt in prompts]
    write(directory / "greedy.json", entries)
    write(directory / "logits.json", [logits_entry(model, entry) for entry in entries[::3]])


if __name__ == "__main__":
    main()
