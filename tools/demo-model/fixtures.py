"""Writes test/fixtures/demo-model: prompts with known answers and reference outputs.

    python fixtures.py

The greedy outputs and token ids come from Hugging Face's transformers and tokenizers.
"""

import json
import random

import torch

from data import load_tokenizer
from generation import chat_prompt, load_chat_tokenizer, load_model, read_prompts
from tokenizer import MODEL_DIR

FIXTURES = MODEL_DIR.parent.parent / "test" / "fixtures" / "demo-model"

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


def write(name, entries):
    """One entry on each line, so that differences are easy to read."""
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    FIXTURES.mkdir(parents=True, exist_ok=True)
    (FIXTURES / name).write_text(f"[\n{lines}\n]\n", encoding="utf-8")


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


def tokenizer_entry(tokenizer, text):
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    return {"text": text, "ids": ids}


def main():
    model, chat_tokenizer, tokenizer = load_model(), load_chat_tokenizer(), load_tokenizer()
    write("held-out-sums.json", sample_prompts("sums", 200))
    write("json-answers.json", sample_prompts("json", 50))
    write("qa.json", sample_prompts("qa", 30))
    prompts = RAW_PROMPTS + CHAT_PROMPTS
    write("greedy.json", [greedy_entry(model, chat_tokenizer, *prompt) for prompt in prompts])
    write("tokenizer.json", [tokenizer_entry(tokenizer, text) for text in TOKENIZER_TEXTS])


if __name__ == "__main__":
    main()
