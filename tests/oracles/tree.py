"""Enumerated trees: an exact soft-Bellman solver, and every path of a tree as one ragged batch."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Node:
    """A state: its reference policy, the reward of each action, and the child each action leads to."""

    index: int
    ref_probs: list[float]
    rewards: list[float]
    children: list[Node | None]


@dataclass
class Tree:
    root: Node
    nodes: list[Node]
    max_actions: int


@dataclass
class Batch:
    """Every root-to-leaf path, padded; prompts and observations of random length lie in between."""

    node: Tensor  # [B, T], 0 where not an action
    action: Tensor  # [B, T], 0 where not an action
    reward: Tensor  # [B, T]
    token_id: Tensor  # [B, T] token-level segments, -1 outside actions
    step_id: Tensor  # [B, T] step-level segments, boundaries a function of the state
    response_id: Tensor  # [B, T] one segment
    starts: list[Node] = field(default_factory=list)  # states at which a step starts

    @property
    def mask(self) -> Tensor:
        return self.token_id >= 0


def random_tree(generator: torch.Generator, depth: int, max_actions: int) -> Tree:
    """A random tree with leaves at every depth from 1 to `depth` and a random reward on every edge."""
    nodes: list[Node] = []

    def uniform() -> float:
        return float(torch.rand((), generator=generator, dtype=torch.float64))

    def grow(level: int) -> Node:
        count = 2 + int(uniform() * (max_actions - 1))
        weights = [0.2 + uniform() for _ in range(count)]
        node = Node(len(nodes), [w / sum(weights) for w in weights], [uniform() - 0.3 for _ in range(count)], [])
        nodes.append(node)
        ends = [level == 1 or uniform() < 0.3 for _ in range(count)]
        if level > 1:
            ends[0] = False
        node.children = [None if end else grow(level - 1) for end in ends]
        return node

    return Tree(grow(depth), nodes, max_actions)


def solve(tree: Tree, beta: float) -> tuple[Tensor, Tensor]:
    """(log π*[node, action], V*[node]) from the closed form, by recursion in float64.

    V*(s) = β log Σ_a π_ref(a|s) exp((r + V*(s')) / β), π* = π_ref exp((r + V*(s') - V*(s)) / β).
    """
    log_pi = torch.full((len(tree.nodes), tree.max_actions), float("-inf"), dtype=torch.float64)
    value = torch.zeros(len(tree.nodes), dtype=torch.float64)
    for node in reversed(tree.nodes):  # children come after their parent
        q = torch.tensor(
            [r + (0.0 if c is None else float(value[c.index])) for r, c in zip(node.rewards, node.children)],
            dtype=torch.float64,
        )
        log_ref = torch.tensor(node.ref_probs, dtype=torch.float64).log()
        value[node.index] = beta * torch.logsumexp(log_ref + q / beta, 0)
        log_pi[node.index, : len(q)] = log_ref + (q - value[node.index]) / beta
    return log_pi, value


def log_reference(tree: Tree) -> Tensor:
    """log π_ref[node, action], -inf where there is no such action."""
    out = torch.full((len(tree.nodes), tree.max_actions), float("-inf"), dtype=torch.float64)
    for node in tree.nodes:
        out[node.index, : len(node.ref_probs)] = torch.tensor(node.ref_probs, dtype=torch.float64).log()
    return out


def every_path(tree: Tree, generator: torch.Generator) -> Batch:
    """All paths as one batch. A step starts at the root and at every node of odd index."""
    paths: list[list[tuple[Node, int]]] = []

    def walk(node: Node, path: list[tuple[Node, int]]) -> None:
        for action, child in enumerate(node.children):
            here = [*path, (node, action)]
            if child is None:
                paths.append(here)
            else:
                walk(child, here)

    walk(tree.root, [])
    gaps = [
        [1 + int(torch.randint(3, (), generator=generator))]
        + [int(torch.randint(5, (), generator=generator)) // 3 for _ in path[1:]]
        for path in paths
    ]
    length = max(sum(gap) + len(path) for gap, path in zip(gaps, paths)) + 1
    shape = (len(paths), length)
    batch = Batch(
        node=torch.zeros(shape, dtype=torch.long),
        action=torch.zeros(shape, dtype=torch.long),
        reward=torch.zeros(shape, dtype=torch.float64),
        token_id=torch.full(shape, -1),
        step_id=torch.full(shape, -1),
        response_id=torch.full(shape, -1),
    )
    for row, (path, gap) in enumerate(zip(paths, gaps)):
        position, step = 0, -1
        for count, ((node, action), skip) in enumerate(zip(path, gap)):
            position += skip
            step += count == 0 or node.index % 2 == 1
            batch.node[row, position] = node.index
            batch.action[row, position] = action
            batch.reward[row, position] = node.rewards[action]
            batch.token_id[row, position] = count
            batch.step_id[row, position] = step
            batch.response_id[row, position] = 0
            position += 1
    batch.starts = [n for n in tree.nodes if n.index == 0 or n.index % 2 == 1]
    return batch
