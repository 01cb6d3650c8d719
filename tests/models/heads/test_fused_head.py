"""The fused head against the logits in full and autograd, in float64."""

import gc
import itertools
import weakref
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from stepcredit.models.heads import logit_tiles
from stepcredit.models.heads.action_statistics import ActionStatistics, action_statistics
from stepcredit.models.heads.fused_head import head_statistics, one_pass_loss
from stepcredit.models.heads.linear_heads import LinearHead
from stepcredit.training.items import PAIRS, SINGLE
from stepcredit.training.methods import METHODS, ObjectiveInputs, response_log_ratio

F = torch.float64


@pytest.fixture(autouse=True, scope="module")
def small_blocks():
    """Blocks of a few dozen logits, so that the vocabularies of these tests have several."""
    before = logit_tiles.BLOCK["cpu"]
    logit_tiles.BLOCK["cpu"] = 40
    yield
    logit_tiles.BLOCK["cpu"] = before


class Case(NamedTuple):
    """A policy's head and a reference's, their inputs, and actions of ragged episodes."""

    head: LinearHead
    inputs: tuple
    action: torch.Tensor
    episode: torch.Tensor
    ref_head: LinearHead | None
    ref_inputs: tuple | None

    @property
    def reference(self):
        return self.ref_head, self.ref_inputs

    @property
    def leaves(self):
        return [x for x in (*self.inputs, *self.head.weights) if x.requires_grad]

    def to(self, dtype):
        """The same numbers in another dtype, as new leaves."""

        def moved(tensors):
            return tuple(x.detach().to(dtype, copy=True).requires_grad_(x.requires_grad) for x in tensors)

        ref = None if self.ref_head is None else self.ref_head._replace(weights=moved(self.ref_head.weights))
        ref_inputs = None if self.ref_inputs is None else moved(self.ref_inputs)
        head = self.head._replace(weights=moved(self.head.weights))
        return Case(head, moved(self.inputs), self.action, self.episode, ref, ref_inputs)


def case(seed=0, lengths=(3, 1, 5, 2), vocabulary=23, widths=(4,), scale=1.0, softcap=None, reference=True, spread=1.0,
         frozen=()):  # fmt: skip
    """Random heads; `frozen`: numbers of the leaves, inputs before weights, that need no gradient."""
    draw = torch.Generator().manual_seed(seed)
    count, k = sum(lengths), len(widths)

    def random(*shape):
        return torch.randn(*shape, generator=draw, dtype=F) * spread

    tensors = [random(count, w) for w in widths] + [random(vocabulary, w) for w in widths]
    for number, x in enumerate(tensors):
        x.requires_grad_(number not in frozen)
    head = LinearHead(tuple(tensors[k:]), scale, softcap)
    ref_head = LinearHead((random(vocabulary, widths[0]),), scale, softcap) if reference else None
    ref_inputs = (random(count, widths[0]),) if reference else None
    action = torch.randint(vocabulary, (count,), generator=draw)
    episode = torch.repeat_interleave(torch.arange(len(lengths)) * 2, torch.tensor(lengths))
    return Case(head, tuple(tensors[:k]), action, episode, ref_head, ref_inputs)


def naive(c: Case, needs_kl=True) -> ActionStatistics:
    """The statistics from the logits in full."""
    ref_logits = None if c.ref_head is None else c.ref_head.logits(c.ref_inputs)[None]
    mask = torch.ones(1, len(c.action), dtype=torch.bool)
    found = action_statistics(c.head.logits(c.inputs)[None], ref_logits, c.action[None], mask)
    flat = ActionStatistics(*(None if x is None else x[0] for x in found))
    return flat if needs_kl else flat._replace(kl=None)


def coefficients(c: Case, seed=1):
    return torch.randn(2, len(c.action), generator=torch.Generator().manual_seed(seed), dtype=F)


def random_loss(c: Case):
    """A loss with random coefficients, nonlinear in the statistics, whatever of them there is."""
    of_log_prob, of_kl = coefficients(c)

    def loss_of(statistics, others, first, last):
        loss = (statistics.log_prob * of_log_prob[first:last]).sum() + statistics.log_prob.square().sum() / 7
        return loss if statistics.kl is None else loss + (statistics.kl.square() * of_kl[first:last]).sum()

    return loss_of


def gradients(loss, leaves):
    return torch.autograd.grad(loss, leaves, allow_unused=True)


def assert_equal_gradients(loss, expected, leaves):
    """Compares gradients by norm; those of a loss that is large have large terms that cancel."""
    for x, y in zip(gradients(loss, leaves), gradients(expected, leaves)):
        assert (x - y).norm() <= 1e-10 * y.norm() + 1e-12 * (1 + expected.abs())


cases = st.builds(
    case,
    seed=st.integers(0, 10**6),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5).map(tuple),
    vocabulary=st.integers(1, 60),
    widths=st.sampled_from([(4,), (1,), (5, 1), (4, 2, 3)]),
    scale=st.sampled_from([1.0, 0.25, 3.0]),
    softcap=st.sampled_from([None, None, 1.5, 30.0]),
    reference=st.booleans(),
    spread=st.sampled_from([0.3, 1.0, 3.0]),
    frozen=st.sets(st.integers(0, 5), max_size=4),
)


@settings(max_examples=100, deadline=None)
@given(c=cases, chunk=st.integers(1, 12), needs_kl=st.booleans())
def test_two_passes_equal_the_logits_in_full(c, chunk, needs_kl):
    found = head_statistics(c.head, c.inputs, c.action, *c.reference, needs_kl=needs_kl, chunk=chunk)
    expected = naive(c, needs_kl)
    torch.testing.assert_close(tuple(found), tuple(expected), atol=1e-10, rtol=1e-9)
    assert not found.entropy.requires_grad
    assert found.ref_log_prob is None or not found.ref_log_prob.requires_grad
    if c.leaves:
        losses = [random_loss(c)(statistics, (), 0, len(c.action)) for statistics in (found, expected)]
        assert_equal_gradients(*losses, c.leaves)


@settings(max_examples=100, deadline=None)
@given(c=cases, chunk=st.integers(1, 12), needs_kl=st.booleans(), upstream=st.sampled_from([1.0, -0.3]))
def test_one_pass_equals_the_logits_in_full(c, chunk, needs_kl, upstream):
    loss_of = random_loss(c)
    expected = loss_of(naive(c, needs_kl), (), 0, len(c.action)) * upstream
    head = (c.head, c.inputs, c.action, c.episode, loss_of, *c.reference)
    found = one_pass_loss(*head, needs_kl=needs_kl, chunk=chunk) * upstream
    torch.testing.assert_close(found, expected)
    with torch.no_grad():
        without = one_pass_loss(*head, needs_kl=needs_kl, chunk=chunk)
    torch.testing.assert_close(without * upstream, expected)
    assert not without.requires_grad
    if c.leaves:
        assert_equal_gradients(found, expected, c.leaves)


def test_groups_are_whole_episodes_in_order():
    c = case(lengths=(3, 1, 5, 2, 2, 7, 1))
    seen = []

    def loss_of(statistics, others, first, last):
        assert all(len(x) == last - first for x in statistics)
        seen.append((first, last))
        return statistics.log_prob.sum()

    one_pass_loss(c.head, c.inputs, c.action, c.episode, loss_of, *c.reference, chunk=4)
    assert seen == [(0, 4), (4, 9), (9, 13), (13, 20), (20, 21)]


def test_no_actions():
    c = case(lengths=(1,))
    empty = [x[:0] for x in c.inputs]
    ref = (c.ref_head, (c.ref_inputs[0][:0],))
    found = head_statistics(c.head, tuple(empty), c.action[:0], *ref)
    assert [len(x) for x in found] == [0] * 4
    assert gradients(found.log_prob.sum(), c.head.weights)[0].abs().sum() == 0
    loss = one_pass_loss(c.head, tuple(empty), c.action[:0], c.episode[:0], random_loss(c), *ref)
    loss.backward()
    assert loss.item() == 0


@pytest.mark.parametrize("softcap", [None, 40.0])
def test_logits_far_apart_stay_finite(softcap):
    """At a spread of 20 most tokens have probability zero in float32."""
    c = case(spread=20.0, vocabulary=60, softcap=softcap)
    loss_of = random_loss(c)
    expected = gradients(loss_of(naive(c), (), 0, len(c.action)), c.leaves)
    single = c.to(torch.float32)
    found = head_statistics(single.head, single.inputs, single.action, *single.reference)
    torch.testing.assert_close(tuple(x.double() for x in found), tuple(naive(c)), rtol=1e-5, atol=1e-3)
    for x, y in zip(gradients(loss_of(found, (), 0, len(c.action)), single.leaves), expected):
        assert (x - y).norm() <= (1e-5 if softcap is None else 1e-4) * y.norm()  # 1 - tanh² near tanh = 1


# ---- what else a loss reads -------------------------------------------------------------------------------


@pytest.mark.parametrize(("chunk", "groups"), [(5, 3), (100, 1)])
def test_others_get_their_gradient_and_constants_none(chunk, groups):
    c = case()
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(len(c.action), generator=generator, dtype=F, requires_grad=True)
    constant, unread = torch.rand(len(c.action), dtype=F), torch.ones(3, dtype=F, requires_grad=True)
    matrix = torch.ones(2, 3, dtype=F, requires_grad=True)

    def loss_of(statistics, others, first, last):
        value, fixed, _, whole = others
        assert value.requires_grad
        assert not fixed.requires_grad
        error = value[first:last] - statistics.log_prob
        return (error.square() * fixed[first:last]).sum() + value.sum() + whole.sum()  # all of both, once per group

    for factor in (None, 2.0):
        value = weight if factor is None else weight * factor
        found = one_pass_loss(c.head, c.inputs, c.action, c.episode, loss_of, *c.reference,
                              others=(value, constant, unread, matrix), chunk=chunk)  # fmt: skip
        again = weight if factor is None else weight * factor
        expected = ((again - naive(c).log_prob).square() * constant).sum() + groups * (again.sum() + matrix.sum())
        torch.testing.assert_close(found, expected)
        leaves = [weight, matrix, *c.leaves]
        torch.testing.assert_close(gradients(found * 3, leaves), gradients(expected * 3, leaves))
    assert unread.grad is None


def test_a_loss_without_policy_still_trains_the_others():
    c = case(frozen=(0, 1))
    value = torch.ones(len(c.action), dtype=F, requires_grad=True)

    def loss_of(statistics, others, first, last):
        return (others[0][first:last] * statistics.log_prob).sum()

    one_pass_loss(c.head, c.inputs, c.action, c.episode, loss_of, *c.reference, others=(value,)).backward()
    torch.testing.assert_close(value.grad, naive(c).log_prob)

    def constant(statistics, others, first, last):
        return others[0].detach().sum() + statistics.entropy.sum()

    loss = one_pass_loss(*(c := case())[:4], constant, *c.reference, others=(value.detach(),))
    assert gradients(loss, c.leaves) == (None,) * len(c.leaves)


# ---- autograd ---------------------------------------------------------------------------------------------


def test_gradients_of_two_losses_add_up():
    c = case()
    of_log_prob, of_kl = coefficients(c)

    def loss_of(statistics, others, first, last):
        return (statistics.log_prob * of_log_prob[first:last] + statistics.kl * of_kl[first:last]).sum()

    for _ in range(2):
        (one_pass_loss(c.head, c.inputs, c.action, c.episode, loss_of, *c.reference, chunk=4) / 2).backward()
    expected = gradients(loss_of(naive(c), (), 0, len(c.action)), c.leaves)
    torch.testing.assert_close(tuple(x.grad for x in c.leaves), expected)


def test_tied_weights_get_the_gradients_of_head_and_embedding():
    c = case()
    (weight,) = c.head.weights
    ids = torch.arange(len(c.action)) % len(weight)
    loss_of = random_loss(c)
    found = one_pass_loss(c.head, (torch.tanh(weight[ids]),), c.action, c.episode, loss_of, *c.reference, chunk=4)
    expected = loss_of(naive(c._replace(inputs=(torch.tanh(weight[ids]),))), (), 0, len(c.action))
    torch.testing.assert_close(gradients(found, [weight]), gradients(expected, [weight]))


def test_a_second_backward_pass_and_changed_weights_are_errors():
    c = case()
    loss = one_pass_loss(c.head, c.inputs, c.action, c.episode, random_loss(c), *c.reference)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second backward pass"):
        loss.backward()
    found = head_statistics(c.head, c.inputs, c.action, *c.reference)
    with torch.no_grad():
        c.head.weights[0].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        found.log_prob.sum().backward()


def test_nothing_is_left_behind():
    """Statistics and loss are freed with their last name, not by the garbage collector."""
    c = case()
    gc.disable()
    try:
        found = [*head_statistics(c.head, c.inputs, c.action, *c.reference)]
        found.append(one_pass_loss(c.head, c.inputs, c.action, c.episode, random_loss(c), *c.reference))
        alive = [weakref.ref(x) for x in found]
        found.clear()
        assert [x() for x in alive] == [None] * 5
    finally:
        gc.enable()


class Largest(TorchDispatchMode):
    """Records the most numbers of a tensor that an operation returned."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for x in torch.utils._pytree.tree_leaves(output):
            if isinstance(x, torch.Tensor) and x._base is None:
                self.most = max(self.most, x.numel())
        return output


def test_no_tensor_has_the_logits_of_all_actions():
    c = case(lengths=(5,) * 40, vocabulary=60)
    loss_of, logits = random_loss(c), len(c.action) * 60
    with Largest() as naive_run:
        loss_of(naive(c), (), 0, len(c.action)).backward()
    with Largest() as two_passes:
        found = head_statistics(c.head, c.inputs, c.action, *c.reference, chunk=10)
        loss_of(found, (), 0, len(c.action)).backward()
    with Largest() as one_pass:
        one_pass_loss(c.head, c.inputs, c.action, c.episode, loss_of, *c.reference, chunk=10).backward()
    assert naive_run.most >= logits
    assert one_pass.most <= max(10 * 60, len(c.action) * 4)
    assert two_passes.most <= len(c.action) * 4


# ---- precision --------------------------------------------------------------------------------------------


def relative_errors(dtype, statistics_of):
    """Norm-wise errors of gradients and of log-probability and entropy against float64."""
    c = case(lengths=(20, 30, 14), vocabulary=3000, widths=(32, 3), spread=0.5).to(dtype)
    exact = c.to(F)
    of_log_prob, of_kl = coefficients(c)
    errors = []
    results = []
    for one, statistics in ((c, statistics_of(c)), (exact, naive(exact))):
        loss = (statistics.log_prob * of_log_prob).sum() + (statistics.kl * of_kl).sum()
        results.append([*statistics, *gradients(loss, one.leaves)])
    for found, expected in zip(*results):
        errors.append(((found.double() - expected).norm() / expected.norm()).item())
    return errors


def fused(c):
    return head_statistics(c.head, c.inputs, c.action, *c.reference, chunk=32)


@pytest.mark.parametrize("library", ["oneDNN", "torch.mm"])
def test_single_precision(library, monkeypatch):
    """The products are large enough for either library; where the first is not used, both runs are of the second."""
    monkeypatch.setitem(logit_tiles.BLOCK, "cpu", 2**19)
    if library == "torch.mm":
        monkeypatch.setattr(logit_tiles, "_ONEDNN", None)
    assert max(relative_errors(torch.float32, fused)) <= 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_summed_in_single(dtype, monkeypatch):
    """Statistics are those of the rounded weights; only the gradients are rounded, once."""
    monkeypatch.setitem(logit_tiles.BLOCK, "cpu", 2**14)
    errors = relative_errors(dtype, fused)
    assert max(errors[:4]) <= 1e-6
    assert max(errors[4:]) <= (4e-3 if dtype == torch.bfloat16 else 1e-3)


def test_mixed_dtypes_give_each_tensor_a_gradient_of_its_own():
    c = case(widths=(4, 2))
    head = LinearHead((c.head.weights[0].detach().bfloat16().requires_grad_(), c.head.weights[1].detach().float()))
    inputs = (c.inputs[0].detach().bfloat16().requires_grad_(), c.inputs[1].detach().float().requires_grad_())
    found = head_statistics(head, inputs, c.action)
    assert found.log_prob.dtype == torch.float32
    found.log_prob.sum().backward()
    assert [x.grad.dtype for x in (*inputs, head.weights[0])] == [torch.bfloat16, torch.float32, torch.bfloat16]


def test_autocast_outside_changes_nothing():
    c = case().to(torch.float32)
    loss_of = random_loss(c)
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found = head_statistics(c.head, c.inputs, c.action, *c.reference)
            two = gradients(loss_of(found, (), 0, len(c.action)), c.leaves)
            loss = one_pass_loss(c.head, c.inputs, c.action, c.episode, loss_of, *c.reference, chunk=4)
            results.append([*found, *two, loss, *gradients(loss, c.leaves)])
    torch.testing.assert_close(*results, rtol=0, atol=0)


# ---- objectives -------------------------------------------------------------------------------------------

LENGTHS = (4, 3, 2, 5)  # rows of a batch; the first half of the rows are the chosen responses of pairs


def batch(c: Case, seed=0):
    """What objectives read besides the head's statistics, over action columns [B, A] with gaps for observations."""
    draw = torch.Generator().manual_seed(seed)
    shape = (len(LENGTHS), max(LENGTHS) + 3)
    mask = torch.zeros(shape, dtype=torch.bool)
    for row, length in enumerate(LENGTHS):
        mask[row, 1 + torch.randperm(shape[1] - 1, generator=draw)[:length]] = True
    step = torch.where(mask, (mask.cumsum(-1) - 1) // 2, -1)
    last = mask & (mask.flip(-1).cumsum(-1).flip(-1) == 1)
    behavior = torch.where(mask, -torch.rand(shape, generator=draw, dtype=F), 0.0)
    return {
        "reward": torch.where(last, torch.tensor([1.0, 0.0, 1.0, 0.5], dtype=F)[:, None], 0.0),
        "outcome": torch.tensor([1.0, 0.0, 1.0, 0.5]),
        "action_mask": mask,
        "step_id": step,
        "behavior_log_prob": behavior,
        "group_number": torch.tensor([0.7, 0.7, 0.2, 0.4], dtype=F),
    }, torch.randn(shape, generator=draw, dtype=F, requires_grad=True)


def objective_inputs(statistics, value, fields, rows=slice(None)):
    """The inputs of an objective for some rows, whose actions `statistics` are of."""
    mask = fields["action_mask"][rows]

    def over_columns(x):
        return None if x is None else x.new_zeros(mask.shape).masked_scatter(mask, x)

    log_prob, entropy, ref_log_prob, kl = (over_columns(x) for x in statistics)
    some: dict[str, Any] = {name: x[rows] for name, x in fields.items()}
    return ObjectiveInputs(log_prob, ref_log_prob, kl, entropy, value[rows], **some)


def configs():
    """Every method, at each of its levels."""
    for name, method in METHODS.items():
        levels = ("token", "step", "response") if "level" in method.config.__dataclass_fields__ else (None,)
        estimators = ("exact", "sampled") if name == "oreo" else (None,)
        for level, estimator in itertools.product(levels, estimators):
            given = {"level": level, "kl_estimator": estimator}
            yield pytest.param(
                name, {k: x for k, x in given.items() if x}, id="-".join(filter(None, (name, level, estimator)))
            )


def total_loss(method, config, inputs):
    terms = method.terms(inputs, config)
    return terms.policy.sum() / 3 + (0.0 if terms.value is None else terms.value.sum() / 3)


@pytest.mark.parametrize(("name", "given"), list(configs()))
def test_every_objective(name, given, tmp_path):
    """Loss and gradients of heads and V, from the one-pass form where an item is one episode, and from two passes."""
    method = METHODS[name]
    config = method.config(output_dir=str(tmp_path), use_cpu=True, report_to="none", **given)
    c = case(lengths=LENGTHS, widths=(4, 2), scale=0.5, softcap=3.0)
    fields, value = batch(c)
    needs_kl = name == "oreo"
    reference = c.reference if method.needs_reference else (None, None)
    inputs = objective_inputs(naive(c), value, fields)
    step_statistics = None
    if method.step_statistics is not None:
        step_statistics = torch.stack([torch.tensor(4.0, dtype=F), response_log_ratio(inputs).sum().detach() + 2])
    inputs = inputs._replace(step_statistics=step_statistics)
    leaves = [*c.leaves, value]
    loss = total_loss(method, config, inputs)
    expected = (loss, gradients(loss, leaves))

    for chunk in (2, 7, 100):
        found = head_statistics(c.head, c.inputs, c.action, *reference, needs_kl=needs_kl, chunk=chunk)
        some = objective_inputs(found, value, fields)._replace(step_statistics=step_statistics)
        loss = total_loss(method, config, some)
        torch.testing.assert_close((loss, gradients(loss, leaves)), expected)

        if method.batch_layout is PAIRS:
            continue

        def loss_of(statistics, others, first, last):
            rows = slice(int(c.episode[first]) // 2, int(c.episode[last - 1]) // 2 + 1)
            inputs = objective_inputs(statistics, others[0], fields, rows)
            return total_loss(method, config, inputs._replace(step_statistics=step_statistics))

        loss = one_pass_loss(c.head, c.inputs, c.action, c.episode, loss_of, *reference,
                             others=(value,), needs_kl=needs_kl, chunk=chunk)  # fmt: skip
        torch.testing.assert_close((loss, gradients(loss, leaves)), expected)


def test_the_table_of_methods_has_both_forms():
    layouts = {name: method.batch_layout for name, method in METHODS.items()}
    assert layouts["dpo"] is PAIRS
    assert layouts["oreo"] is SINGLE
