"""The Muon optimizer for the matrices inside the layers.

Momentum whose update is made orthogonal by a few Newton-Schulz steps. It learns from fewer tokens
than AdamW does. Matrices of one shape are stacked, which keeps the extra work small on a CPU.
"""

from collections import defaultdict

import torch

# Coefficients of the quintic iteration; they favour speed over an exact result.
A, B, C = 3.4445, -4.7750, 2.0315
ITERATIONS = 5


def orthogonalize(stack):
    """Moves the singular values of every matrix of the stack close to one."""
    x = stack / (stack.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    x = (x.mT if tall else x).bfloat16()
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = A * x + (B * gram + C * gram @ gram) @ x
    return (x.mT if tall else x).float()


class Muon(torch.optim.Optimizer):
    def __init__(self, parameters, lr, momentum=0.95, weight_decay=0.1):
        super().__init__(parameters, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            shapes = defaultdict(list)
            for parameter in group["params"]:
                shapes[parameter.shape].append(parameter)
            for parameters in shapes.values():
                self.step_stack(parameters, **{k: group[k] for k in ("lr", "momentum")},
                                weight_decay=group["weight_decay"])

    def step_stack(self, parameters, lr, momentum, weight_decay):
        updates = torch.stack([self.direction(p, momentum) for p in parameters])
        updates = orthogonalize(updates)
        rows, columns = parameters[0].shape[-2:]
        scale = max(1, rows / columns) ** 0.5
        for parameter, update in zip(parameters, updates):
            parameter.mul_(1 - lr * weight_decay).add_(update, alpha=-lr * scale)

    def direction(self, parameter, momentum):
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        average = state["momentum"].lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(average, momentum)
