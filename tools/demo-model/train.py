"""Trains the demo model on the CPU.

    python train.py --steps 9000

Writes .work/checkpoint.pt every few minutes and continues from it with --resume. The learning rate
rises, stays and falls over the last part of the run; a number written to .work/steps changes the
length of a run while it goes on, so that it can be ended early with the fall it needs.
"""

import argparse
import json
import time
from dataclasses import asdict

import torch
import torch.nn.functional as F

from data import Rows, load_tokenizer
from model import DemoModel, ModelConfig
from muon import Muon
from tokenizer import WORK

CHECKPOINT = WORK / "checkpoint.pt"
STEPS_FILE = WORK / "steps"
DECAY_SHARE = 0.3
WARMUP_STEPS = 150


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--matrix-lr", type=float, default=0.02)
    parser.add_argument("--other-lr", type=float, default=0.003)
    parser.add_argument("--answer-copies", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--no-compile", action="store_true")
    return parser.parse_args()


def make_optimizers(model, arguments):
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    norms = [p for p in model.parameters() if p.ndim == 1]
    embedding = [model.model.embed_tokens.weight]
    others = torch.optim.AdamW(
        [{"params": embedding}, {"params": norms}],
        lr=arguments.other_lr,
        betas=(0.9, 0.95),
        weight_decay=0.0,
        fused=True,
    )
    return [Muon(matrices, lr=arguments.matrix_lr), others]


def lr_share(step, steps):
    """Warm-up, plateau, straight fall to zero."""
    fall = (steps - step) / (DECAY_SHARE * steps)
    return max(0.0, min(1.0, (step + 1) / WARMUP_STEPS, fall))


def set_learning_rates(optimizers, share):
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group.setdefault("full_lr", group["lr"])
            group["lr"] = group["full_lr"] * share


def make_loss(model):
    def loss(ids, targets, weights):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(ids)
        losses = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
        weights = weights.flatten()
        return (losses * weights).sum() / weights.sum(), losses.detach().mean()

    return loss


def sum_probe(count=200):
    """Held-out sums as one batch: ids and the mask of the result's tokens."""
    tokenizer = load_tokenizer()
    prompts = json.loads((WORK / "eval-sums.json").read_text())[:count]
    two_digit = [p for p in prompts if len(p["answer"]) == len("10 + 20 = 30")]
    three_digit = [p for p in prompts if p not in two_digit]
    return [probe_batch(tokenizer, part) for part in (two_digit, three_digit)]


def probe_batch(tokenizer, prompts):
    text = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n{}<|im_end|>\n"
    texts = [text.format(p["messages"][0]["content"], p["answer"]) for p in prompts]
    ids = torch.tensor([encoding.ids for encoding in tokenizer.encode_batch(texts)])
    digits = len(prompts[0]["answer"].split(" = ")[1])
    return ids, digits


@torch.no_grad()
def probe_accuracy(model, probe):
    """Share of held-out sums whose result digits are all the most likely ones."""
    right = total = 0
    for ids, digits in probe:
        predicted = model(ids[:, :-1]).argmax(-1)
        # The result is followed by the end of the turn and a newline.
        result = slice(-2 - digits, -2)
        right += (predicted[:, result] == ids[:, result]).all(-1).sum().item()
        total += len(ids)
    return right / total


def save(model, optimizers, step, arguments):
    state = {
        "config": asdict(model.config),
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "step": step,
        "arguments": vars(arguments),
    }
    partial = CHECKPOINT.with_suffix(".partial")
    torch.save(state, partial)
    partial.rename(CHECKPOINT)


def planned_steps(arguments):
    return int(STEPS_FILE.read_text()) if STEPS_FILE.exists() else arguments.steps


def train(arguments):
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    model = DemoModel(ModelConfig())
    optimizers = make_optimizers(model, arguments)
    first_step = 0
    if arguments.resume:
        state = torch.load(CHECKPOINT, weights_only=False)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        first_step = state["step"]

    rows = Rows(
        WORK / "train.jsonl",
        arguments.batch_tokens,
        arguments.seed + first_step,
        arguments.answer_copies,
    )
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {rows.token_count} tokens",
          flush=True)
    loss_of = make_loss(model)
    if not arguments.no_compile:
        loss_of = torch.compile(loss_of, dynamic=False)
    probe = sum_probe()
    started, recent = time.time(), []

    for step, batch in enumerate(rows, start=first_step):
        steps = planned_steps(arguments)
        if step >= steps:
            break
        set_learning_rates(optimizers, lr_share(step, steps))
        loss, plain_loss = loss_of(*batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        recent.append(plain_loss.item())
        if step % 100 == 99:
            speed = (step + 1 - first_step) * arguments.batch_tokens / (time.time() - started)
            print(
                f"step {step + 1} of {steps} loss {sum(recent) / len(recent):.4f} "
                f"sums {probe_accuracy(model, probe):.3f} {speed:.0f} tokens/s "
                f"{time.time() - started:.0f} s",
                flush=True,
            )
            recent = []
        if step % 500 == 499:
            save(model, optimizers, step + 1, arguments)
    save(model, optimizers, step, arguments)


if __name__ == "__main__":
    train(parse_arguments())
