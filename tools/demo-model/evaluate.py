"""Measures an exported model and prints every figure of docs/demo-model.md.

    python evaluate.py --model demo

Needs the files that corpus.mjs wrote into .work. Everything runs in float32 on the CPU.
"""

import json
import math
import re
from collections import defaultdict

import torch
import torch.nn.functional as F

from generation import chat_prompt, complete, load_chat_tokenizer, load_model, read_prompts
from models import parse_model
from tokenizer import END_OF_TEXT, WORK, read_documents

STORIES = 200


def answers_of(model, tokenizer, prompts, max_new_tokens):
    texts = [chat_prompt(tokenizer, prompt["messages"]) for prompt in prompts]
    return complete(model, tokenizer, texts, max_new_tokens)


def share(flags):
    flags = list(flags)
    return f"{sum(flags)} of {len(flags)} ({100 * sum(flags) / len(flags):.1f} %)"


def evaluate_chat_sums(model, tokenizer):
    prompts = read_prompts("sums")
    answers = answers_of(model, tokenizer, prompts, 16)
    show_misses("sums", prompts, answers)
    return share(answer == prompt["answer"] for answer, prompt in zip(answers, prompts))


def evaluate_raw_sums(model, tokenizer):
    """A bare equation at position 0, without its result."""
    equations = [prompt["answer"] for prompt in read_prompts("sums")]
    heads = [equation.rsplit(" ", 1)[0] for equation in equations]
    tails = complete(model, tokenizer, heads, 6)
    lines = [(head + tail).split("\n")[0] for head, tail in zip(heads, tails)]
    return share(line == equation for line, equation in zip(lines, equations))


def evaluate_qa(model, tokenizer):
    prompts = read_prompts("qa")
    answers = answers_of(model, tokenizer, prompts, 48)
    show_misses("qa", prompts, answers)
    return share(answer == prompt["answer"] for answer, prompt in zip(answers, prompts))


def is_json(text):
    try:
        json.loads(text)
        return True
    except ValueError:
        return False


def evaluate_json(model, tokenizer):
    prompts = read_prompts("json")
    answers = answers_of(model, tokenizer, prompts, 80)
    show_misses("json", prompts, answers)
    valid = share(is_json(answer) for answer in answers)
    return valid, share(answer == prompt["answer"] for answer, prompt in zip(answers, prompts))


def show_misses(name, prompts, answers, limit=4):
    misses = [(p, a) for p, a in zip(prompts, answers) if a != p["answer"]]
    for prompt, answer in misses[:limit]:
        question = prompt["messages"][-1]["content"]
        print(f"  miss in {name}: {question!r} -> {answer!r}, expected {prompt['answer']!r}")


COLORS = "red|blue|green|yellow|orange|purple|white|black|pink|brown|gray|golden"
TOYS = "ball|kite|boat|drum|robot|hat|scarf|book|bell|basket|bucket|ring|whistle|train"
KINDS = "girl|boy|fox|rabbit|bear|mouse|cat|dog|owl|duck|turtle|goat|frog|squirrel"


def is_consistent_story(story):
    """Ends properly, and has one hero, at most one friend and at most one coloured toy."""
    names = set(re.findall(r"(?:named|name was) ([A-Z]\w+)", story))
    names |= set(re.findall(rf"([A-Z]\w+) the (?:{KINDS})\b", story))
    names |= {name for name in re.findall(r"[a-z,] ([A-Z]\w+)", story) if not name.endswith("day")}
    toys = set(re.findall(rf"(?:{COLORS}) (?:{TOYS})\b", story))
    return story.rstrip().endswith("The end.") and 1 <= len(names) <= 2 and len(toys) <= 1


def evaluate_stories(model, tokenizer):
    torch.manual_seed(7)
    prompts = ["Once upon a time"] * STORIES
    tails = complete(model, tokenizer, prompts, 320, temperature=0.7, top_p=0.95, top_k=0)
    stories = ["Once upon a time" + tail for tail in tails]
    for story in [s for s in stories if not is_consistent_story(s)][:3]:
        print(f"  inconsistent story: {story!r}")
    return share(map(is_consistent_story, stories)), len(set(stories))


@torch.inference_mode()
def document_nats(model, ids):
    """-log p of a document and of the end-of-text token after it."""
    logits = model(torch.tensor([ids[:-1]])).logits[0]
    return F.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum").item()


def evaluate_perplexity(model, tokenizer):
    """Per family: documents, tokens, the generator's nats and the model's nats."""
    end = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    rows = defaultdict(lambda: [0, 0, 0.0, 0.0])
    for document in read_documents(WORK / "held-out.jsonl"):
        ids = tokenizer(document["text"], add_special_tokens=False)["input_ids"]
        nats = document_nats(model, [end, *ids, end])
        for name in (document["family"], "all"):
            row = rows[name]
            row[0] += 1
            row[1] += len(ids) + 1
            row[2] += document["nats"]
            row[3] += nats
    return rows


def print_perplexity(rows):
    print("| family | documents | tokens | generator nats/token | model nats/token "
          "| generator perplexity | model perplexity | excess nats/document |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in sorted(rows, key=lambda name: (name == "all", name)):
        documents, tokens, floor, nats = rows[name]
        print(
            f"| {name} | {documents} | {tokens} | {floor / tokens:.3f} | {nats / tokens:.3f} "
            f"| {math.exp(floor / tokens):.3f} | {math.exp(nats / tokens):.3f} "
            f"| {(nats - floor) / documents:.2f} |"
        )


def main():
    name = parse_model()
    model, tokenizer = load_model(name), load_chat_tokenizer(name)
    print_perplexity(evaluate_perplexity(model, tokenizer))
    print("held-out sums, chat:", evaluate_chat_sums(model, tokenizer))
    print("held-out sums, raw:", evaluate_raw_sums(model, tokenizer))
    valid, right = evaluate_json(model, tokenizer)
    print("held-out JSON, valid:", valid)
    print("held-out JSON, right:", right)
    print("facts:", evaluate_qa(model, tokenizer))
    consistent, distinct = evaluate_stories(model, tokenizer)
    print(f"consistent stories: {consistent}, {distinct} distinct")


if __name__ == "__main__":
    main()
