"""What both training scripts share: the optimizer, the schedule, checkpoints, processes, arguments."""

import os
from pathlib import Path

import torch
import torch.distributed as dist

WARMUP = 60  # steps


def padded(length: int) -> int:
    return -(-length // 8) * 8


def stack(sequences, pad: int):
    """ids [rows, tokens], padded on the right."""
    ids = torch.full((len(sequences), padded(max(map(len, sequences)))), pad)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
    return ids


def in_step(rng, groups: list, world: int) -> list:
    """Groups, of sizes in order, shuffled such that those that the ranks take together are alike: ranks wait for each other."""
    steps = [groups[at : at + world] for at in range(0, len(groups) - world + 1, world)]
    rng.shuffle(steps)
    return sum(steps, [])


def rate(progress: float, step: int, hold: float) -> float:
    """Warm-up, constant, then linear to zero."""
    return min(1.0, (step + 1) / WARMUP, max(0.0, (1 - progress) / (1 - hold)))


def orthogonal(matrix, dtype):
    """Its nearest matrix of equal singular values, roughly: five Newton-Schulz steps."""
    x = matrix.to(dtype)
    x = (x.T if len(x) > x.shape[1] else x).contiguous()
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        factor = torch.addmm(gram, gram, gram, beta=-4.775, alpha=2.0315)
        factor.diagonal().add_(3.4445)
        x = factor @ x
    return x.T if len(matrix) > matrix.shape[1] else x


class Muon(torch.optim.Optimizer):
    """Momentum 0.95, as Nesterov reads it, made orthogonal. In `dtype`: bfloat16 is slow where it is emulated."""

    def __init__(self, groups, dtype):
        self.dtype = dtype
        super().__init__(groups, {"lr": 0.0})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                kept = self.state[p].setdefault("momentum", torch.zeros_like(p))
                kept.lerp_(p.grad, 0.05)
                turn = orthogonal(p.grad.lerp(kept, 0.95), self.dtype).to(p.dtype)
                p.mul_(1 - 0.01 * group["lr"]).add_(turn, alpha=-group["lr"] * max(1, len(p) / p.shape[1]) ** 0.5)


class Words:
    """Rows of an embedding that move together: each is a sum of its own and its word's, which learns from all of them.

    words: the ids of each word. `shared` is what the words moved in this step.
    """

    def __init__(self, embed, words: list):
        self.embed, device = embed, embed.device
        self.ids = torch.tensor([one for ids in words for one in ids], device=device)
        self.word_of = torch.tensor([word for word, ids in enumerate(words) for _ in ids], device=device)
        self.shared = torch.zeros(len(words), embed.shape[1], device=device, requires_grad=True)

    def gather(self) -> None:
        self.shared.grad = torch.zeros_like(self.shared).index_add_(0, self.word_of, self.embed.grad[self.ids])

    @torch.no_grad()
    def spread(self) -> None:
        self.embed.index_add_(0, self.ids, self.shared[self.word_of])
        self.shared.zero_()


class Optimizer:
    """Muon for the hidden matrices, AdamW for the rest. Ranks share the costly Muon step.

    slow: blocks whose matrices move at a quarter of muon_lr.
    """

    def __init__(self, model, muon_lr: float, adam_lr: float, rank: int, world: int, dtype, slow=(),
                 words: Words | None = None):
        self.rank, self.world = rank, world
        self.params = [p for p in model.parameters() if p.requires_grad]
        self.matrices = [p for p in model.blocks.parameters() if p.ndim == 2 and p.requires_grad]
        others = [p for p in self.params if not any(p is m for m in self.matrices)]
        slow_ids = {id(p) for block in slow for p in block.parameters()}
        groups = [{"params": [p], "peak": muon_lr * (0.25 if id(p) in slow_ids else 1)}
                  for p in self.matrices[rank::world]]
        self.muon = Muon(groups, dtype)
        self.words = words
        groups = [{"params": [*others, *([words.shared] if words else [])], "peak": adam_lr}]
        self.adam = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0)

    def average_gradients(self) -> None:
        """One flat all-reduce."""
        grads = [p.grad for p in self.params]
        flat = torch.cat([grad.flatten() for grad in grads])
        dist.all_reduce(flat)
        flat /= self.world
        for grad, part in zip(grads, flat.split([grad.numel() for grad in grads])):
            grad.copy_(part.view_as(grad))

    def share_matrices(self) -> None:
        for rank in range(self.world):
            mine = self.matrices[rank:: self.world]
            flat = torch.cat([p.detach().flatten() for p in mine])
            dist.broadcast(flat, rank)
            for p, part in zip(mine, flat.split([p.numel() for p in mine])):
                p.detach().copy_(part.view_as(p))

    def step(self, factor: float) -> None:
        if self.world > 1:
            self.average_gradients()
        torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        if self.words:
            self.words.gather()
        for optim in (self.muon, self.adam):
            for group in optim.param_groups:
                group["lr"] = group["peak"] * factor
            optim.step()
        if self.words:
            self.words.spread()
        if self.world > 1:
            self.share_matrices()
        for p in self.params:
            p.grad.zero_()

    def save(self, out: Path) -> None:
        save(out / f"optimizer-{self.rank}-of-{self.world}.pt",
             muon=self.muon.state_dict(), adam=self.adam.state_dict())

    def load(self, out: Path) -> None:
        loaded = torch.load(out / f"optimizer-{self.rank}-of-{self.world}.pt", weights_only=False)
        self.muon.load_state_dict(loaded["muon"])
        self.adam.load_state_dict(loaded["adam"])


def save(path: Path, **state) -> None:
    torch.save(state, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def add_arguments(parser, save_every: int) -> None:
    parser.add_argument("--out", required=True, help="checkpoints and logs, outside the repository")
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="of the one process; several have one each")
    parser.add_argument("--save-every", type=int, default=save_every, help="steps")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"),
                        help="of activations; a CPU that only emulates bfloat16 is faster in float32")
    parser.add_argument("--eager", action="store_true", help="do not compile the layers")


def _process(rank: int, work, args) -> None:
    world = args.processes
    torch.set_num_threads(args.threads if world == 1 else 1)
    torch.manual_seed(args.seed)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{args.out}/rendezvous-{args.run}",
                                rank=rank, world_size=world)
    work(rank, world, args)
    if world > 1:
        dist.destroy_process_group()


def launch(work, args) -> None:
    """`work(rank, world, args)` in one process a rank."""
    args.run = os.getpid()
    if args.processes == 1:
        _process(0, work, args)
    else:
        torch.multiprocessing.spawn(_process, (work, args), args.processes)
