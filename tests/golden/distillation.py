"""Makes distillation/kl.json: losses of distillation and their gradients, by torch.nn.functional and autograd in float64.

    pip install torch==2.9.1
    python distillation.py FOLDER

The inputs are drawn with Python's own generator, and kept in the file. `top`: the teacher's k most probable tokens stand
alone, all others are one event.
"""

import json
import random
import sys

import torch
import torch.nn.functional as F

BATCH, STEPS, VOCAB = 2, 4, 11
TARGETS = [[3, 0, -100, 10], [7, -100, 1, 1]]


def draw(source, scale):
    return [[[round(source.gauss(0, scale), 6) for _ in range(VOCAB)] for _ in range(STEPS)] for _ in range(BATCH)]


def case(student, teachers, average, temperature, ce_weight, kl_weight, t2, batchmean, top):
    z = torch.tensor(student, dtype=torch.float64, requires_grad=True)
    u = torch.tensor(teachers, dtype=torch.float64)
    y = torch.tensor(TARGETS)
    if average == "logits":
        log_p = F.log_softmax(u.mean(0) / temperature, -1)
    else:
        log_p = F.softmax(u / temperature, -1).mean(0).log()
    log_q = F.log_softmax(z / temperature, -1)
    if top:
        ids = log_p.topk(top, -1).indices
        rest = torch.ones_like(log_p, dtype=torch.bool).scatter(-1, ids, False)
        gather = lambda x: torch.cat([x.gather(-1, ids), x.masked_fill(~rest, -torch.inf).logsumexp(-1, keepdim=True)], -1)
        log_p, log_q = gather(log_p), gather(log_q)
    rows = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
    kl = rows.sum() / BATCH if batchmean else rows[y != -100].mean()
    ce = F.cross_entropy(z.flatten(0, 1), y.flatten())
    loss = ce_weight * ce + kl_weight * (temperature**2 if t2 else 1.0) * kl
    loss.backward()
    return {
        "average": average, "temperature": temperature, "ce_weight": ce_weight, "kl_weight": kl_weight, "t2": t2,
        "batchmean": batchmean, "top": top, "teachers": len(teachers), "ce": ce.item(), "kl": kl.item(), "loss": loss.item(),
        "gradient": z.grad.tolist(),
    }


def main(folder):
    source = random.Random(4)
    student, teachers = draw(source, 1.5), [draw(source, 2.0), draw(source, 1.0)]
    cases = [
        case(student, teachers[:1], "logits", 1.0, 0.5, 0.5, True, False, None),
        case(student, teachers[:1], "logits", 2.0, 0.25, 0.75, True, False, None),
        case(student, teachers[:1], "logits", 2.0, 0.25, 0.75, True, True, None),
        case(student, teachers, "logits", 3.0, 0.5, 0.5, False, True, None),
        case(student, teachers, "probabilities", 2.0, 0.5, 0.5, True, False, None),
        case(student, teachers, "logits", 2.0, 0.5, 0.5, True, False, 3),
        case(student, teachers, "probabilities", 0.5, 0.0, 1.0, True, True, 4),
        case(student, teachers[:1], "logits", 2.0, 1.0, 0.0, True, False, 10),
    ]
    content = {"torch": torch.__version__, "targets": TARGETS, "student": student, "teachers": teachers, "cases": cases}
    with open(f"{folder}/kl.json", "w") as out:
        json.dump(content, out, indent=None, separators=(",", ":"))
        out.write("\n")


main(sys.argv[1])
