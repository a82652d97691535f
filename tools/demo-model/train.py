"""Trains a demo model on the CPU.

    python train.py --steps 9000
    python train.py --model demo-mla --minutes 60 --processes 2 --threads 1 --no-compile

Writes .work/MODEL.pt every few minutes and continues from it with --resume. The learning rate rises,
stays and falls over the last part of the run. A run lasts a number of steps or of minutes; a number
written to .work/steps changes the steps while it goes on, so that it can be ended early with the fall
it needs. Several processes divide the rows of each batch among them.
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import asdict

import torch
import torch.distributed as dist
import torch.multiprocessing
import torch.nn.functional as F

from data import Rows, load_tokenizer
from models import MODELS, checkpoint_path, new_model
from muon import Muon
from tokenizer import WORK

STEPS_FILE = WORK / "steps"
DECAY_SHARE = 0.3
WARMUP_STEPS = 150
BALANCE_RATE = 0.01


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="demo")
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--minutes", type=float, help="the length of the run, instead of --steps")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--matrix-lr", type=float, default=0.02)
    parser.add_argument("--other-lr", type=float, default=0.003)
    parser.add_argument("--answer-copies", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2, help="of each process")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--no-compile", action="store_true")
    return parser.parse_args()


def make_optimizers(model, arguments):
    matrices = [p for p in model.model.layers.parameters() if p.ndim > 1]
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


def lr_share(step, progress):
    """Warm-up, plateau, straight fall to zero; progress is the share of the run that is over."""
    return max(0.0, min(1.0, (step + 1) / WARMUP_STEPS, (1 - progress) / DECAY_SHARE))


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


class Run:
    """The state of a training run: everything that a checkpoint holds."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.model = new_model(arguments.model)
        self.optimizers = make_optimizers(self.model, arguments)
        self.step, self.seconds = 0, 0.0
        if arguments.resume:
            self.load()

    def load(self):
        state = torch.load(checkpoint_path(self.arguments.model), weights_only=False)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        self.step, self.seconds = state["step"], state["seconds"]

    def save(self):
        state = {
            "config": asdict(self.model.config),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
            "arguments": vars(self.arguments),
        }
        path = checkpoint_path(self.arguments.model)
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.rename(path)

    def progress(self):
        if self.arguments.minutes is not None:
            return self.seconds / (60 * self.arguments.minutes)
        steps = int(STEPS_FILE.read_text()) if STEPS_FILE.exists() else self.arguments.steps
        return self.step / steps

    def update(self, progress):
        """One step of the optimizers, with the gradients that are there."""
        share = lr_share(self.step, progress)
        set_learning_rates(self.optimizers, share)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.model.balance(BALANCE_RATE * share)
        self.step += 1


def average(tensors):
    """Replaces tensors by their averages over all processes."""
    if not dist.is_initialized():
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
        tensor.copy_(part.view_as(tensor))


def train(rank, arguments):
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    run = Run(arguments)
    model, first_step = run.model, run.step
    rows = Rows(
        WORK / "train.jsonl",
        arguments.batch_tokens,
        arguments.seed + first_step,
        arguments.answer_copies,
    )
    loss_of = make_loss(model)
    if not arguments.no_compile:
        loss_of = torch.compile(loss_of, dynamic=False)
    log = Log(model, rows) if rank == 0 else None

    earlier, started = run.seconds, time.time()
    for batch in rows:
        # Every process computes the same progress, so that all stop at the same step.
        run.seconds = earlier + time.time() - started
        progress = torch.tensor([run.progress()])
        loss, plain_loss = loss_of(*(part[rank :: arguments.processes] for part in batch))
        loss.backward()
        average([p.grad for p in model.parameters()] + model.loads() + [plain_loss, progress])
        if progress.item() >= 1:
            break
        run.update(progress.item())
        if log is not None:
            log.add(run, plain_loss.item(), progress.item())
            if run.step % 200 == 0:
                run.save()
    if rank == 0:
        run.save()


class Log:
    """Prints a line every hundred steps."""

    def __init__(self, model, rows):
        self.probe, self.losses = sum_probe(), []
        parameters = sum(p.numel() for p in model.parameters())
        print(f"{parameters} parameters, {rows.token_count} tokens", flush=True)

    def add(self, run, loss, progress):
        self.losses.append(loss)
        if run.step % 100 != 0:
            return
        accuracy = probe_accuracy(run.model, self.probe)
        print(f"step {run.step} ({100 * progress:.1f} %) loss {sum(self.losses) / 100:.4f} "
              f"sums {accuracy:.3f} {run.seconds:.0f} s {run.model.report()}", flush=True)
        self.losses = []


def train_process(rank, arguments, meeting_file):
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting_file}", rank=rank, world_size=arguments.processes
    )
    train(rank, arguments)
    dist.destroy_process_group()


def main():
    arguments = parse_arguments()
    if arguments.processes == 1:
        train(0, arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        meeting_file = os.path.join(folder, "meeting")
        torch.multiprocessing.spawn(
            train_process, (arguments, meeting_file), nprocs=arguments.processes
        )


if __name__ == "__main__":
    main()
