"""Prints sample outputs of an exported model for docs/demo-model.md.

    python samples.py --model demo
"""

import torch

from generation import chat_prompt, complete, load_chat_tokenizer, load_model
from models import parse_model

QUESTIONS = [
    "Hello",
    "What can you do?",
    "What is 27 + 48?",
    "Tom has 35 apples and gets 17 more. How many apples does Tom have now?",
    "What is the capital of Japan?",
    "what is the opposite of hot",
    "How do you say hello in Chinese?",
    "Show me the emoji of a rocket.",
    "Count from 7 to 12.",
    "Repeat: mivu river tolan",
    "Reply in JSON: name and age. Tom is 9 years old.",
    "Reply in JSON: price, item and in_stock. The blue chair costs 49 dollars and is sold out.",
    "Who won the game last night?",
    "Tell me a story about Mia and a red kite.",
]


def main():
    name = parse_model()
    model, tokenizer = load_model(name), load_chat_tokenizer(name)
    print("Greedy, one chat turn each:\n")
    for question in QUESTIONS:
        prompt = chat_prompt(tokenizer, [{"role": "user", "content": question}])
        answer = complete(model, tokenizer, [prompt], 256)[0]
        print(f"```text\nuser: {question}\nmodel: {answer}\n```\n")
    torch.manual_seed(1)
    prompt = "Once upon a time"
    tail = complete(model, tokenizer, [prompt], 256, temperature=0.7, top_p=0.95, top_k=0)[0]
    print(f"Raw prompt, temperature 0.7, top-p 0.95, seed 1:\n\n```text\n{prompt}{tail.rstrip()}\n```")


if __name__ == "__main__":
    main()
