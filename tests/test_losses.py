"""Losses on plain tensors: groups, ratios, KL, weights, and log-probabilities in chunks."""

from __future__ import annotations

import math

import pytest
import torch

from relisten.engine.sampling import choose, token_logprobs
from relisten.training import losses
from relisten.training.losses import group_advantages, grpo_loss, sft_loss, token_scores, token_weights


def test_advantages_are_relative_to_the_group() -> None:
    rewards = torch.tensor([[0.0, 1.0, 1.0, 0.0], [1.5, 0.5, 0.5, 0.5]], dtype=torch.float64)
    found = group_advantages(rewards)
    torch.testing.assert_close(found.sum(1), torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(found.std(1), torch.ones(2, dtype=torch.float64), atol=1e-4, rtol=0)
    plain = group_advantages(rewards, normalise=False)
    torch.testing.assert_close(plain, rewards - rewards.mean(1, keepdim=True))
    others = group_advantages(rewards, normalise=False, leave_one_out=True)
    assert others[1, 0] == pytest.approx(1.5 - 0.5) and others[1, 1] == pytest.approx(0.5 - (1.5 + 0.5 + 0.5) / 3)


@pytest.mark.parametrize("value", [0.0, 0.1, 1.5, -0.3, 0.7])
def test_equal_rewards_give_no_advantage_at_all(value: float) -> None:
    """0.7 summed eight times and divided by eight is not 0.7: a deviation of 1e-8 must not be blown up."""
    for options in ({}, {"normalise": False}, {"leave_one_out": True}):
        for dtype in (torch.float32, torch.float64):
            found = group_advantages(torch.full((3, 8), value, dtype=dtype), **options)
            assert torch.equal(found, torch.zeros(3, 8, dtype=dtype))
    assert torch.equal(group_advantages(torch.tensor([[2.0]])), torch.zeros(1, 1))


def test_the_loss_at_the_first_step_is_the_plain_policy_gradient() -> None:
    logprobs = torch.tensor([-1.0, -2.0, -0.5], requires_grad=True)
    weights, advantages = torch.tensor([0.25, 0.25, 0.5]), torch.tensor([1.0, 1.0, -1.0])
    loss, metrics = grpo_loss(logprobs, logprobs.detach(), advantages, weights, logprobs.detach())
    loss.backward()
    assert loss.item() == 0.0 and float(metrics["kl"]) == 0.0 and float(metrics["ratio_max"]) == 1.0
    torch.testing.assert_close(logprobs.grad, -weights * advantages)


@pytest.mark.parametrize(
    ("change", "advantage", "gradient"),
    [(0.5, 1.0, False), (-0.5, 1.0, True), (0.5, -1.0, True), (-0.5, -1.0, False), (0.1, 1.0, True)],
)
def test_clipping_stops_what_has_gone_far_enough(change: float, advantage: float, gradient: bool) -> None:
    old = torch.tensor([-1.0])
    logprobs = (old + change).requires_grad_()
    loss, metrics = grpo_loss(logprobs, old, torch.tensor([advantage]), torch.ones(1))
    loss.backward()
    assert bool(logprobs.grad.abs() > 0) == gradient and bool(metrics["clipped"]) != gradient
    higher = (old + change).requires_grad_()
    grpo_loss(higher, old, torch.tensor([advantage]), torch.ones(1), clip_high=0.8)[0].backward()
    assert bool(higher.grad.abs() > 0) == (gradient or (change, advantage) == (0.5, 1.0))


def test_kl_is_k3_and_pulls_back() -> None:
    logprobs = torch.tensor([-1.0, -3.0], requires_grad=True)
    reference = torch.tensor([-2.0, -3.0])
    loss, metrics = grpo_loss(logprobs, logprobs.detach(), torch.zeros(2), torch.full((2,), 0.5), reference, kl=0.04)
    assert float(metrics["kl"]) == pytest.approx(0.5 * (math.exp(-1) + 1 - 1))
    assert float(loss) == pytest.approx(0.04 * float(metrics["kl"]))
    loss.backward()
    assert logprobs.grad[0] > 0 and logprobs.grad[1] == 0


def test_far_apart_probabilities_stay_finite() -> None:
    logprobs = torch.tensor([0.0, -900.0], requires_grad=True)
    loss, _ = grpo_loss(logprobs, torch.tensor([-900.0, 0.0]), torch.tensor([-1.0, 1.0]), torch.ones(2), torch.zeros(2))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logprobs.grad).all()


def test_no_tokens_give_a_loss_that_can_be_gone_back_through() -> None:
    nothing = torch.zeros(0, requires_grad=True)
    loss, metrics = grpo_loss(nothing, nothing.detach(), torch.zeros(0), torch.zeros(0), nothing.detach())
    loss.backward()
    assert float(loss) == 0.0 and float(metrics["ratio_max"]) == 1.0


def test_weights_of_traces_and_tokens() -> None:
    """Release 11 and 12: both denominators counted inserted audio; here only sampled tokens come in at all."""
    lengths, kept = torch.tensor([1, 3, 4]), torch.tensor([True, True, False])
    by_trace = token_weights(lengths, kept, "trace", 2.0)
    torch.testing.assert_close(by_trace, torch.tensor([1 / 2, *[1 / 6] * 3, *[0.0] * 4]))
    by_token = token_weights(lengths, kept, "token", 4.0)
    torch.testing.assert_close(by_token, torch.tensor([*[1 / 4] * 4, *[0.0] * 4]))
    assert token_weights(torch.tensor([0, 2]), torch.tensor([True, False]), "trace", 0.0).tolist() == [0.0, 0.0]


def test_chunks_change_neither_values_nor_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    banned = torch.tensor([1, 5])
    head, token_ids = torch.nn.Linear(6, 11), torch.tensor([0, 2, 3, 4, 10, 6, 7])
    hidden = torch.randn(7, 6)
    sides = []
    for chunk in (2**26, 22):
        monkeypatch.setattr(losses, "CHUNK", chunk)
        head.zero_grad()
        states = hidden.clone().requires_grad_()
        scores = token_scores(states, head, token_ids, banned, 11)
        (scores[:, 0] * torch.arange(7.0)).sum().backward()
        sides.append((scores.detach(), states.grad, head.weight.grad.clone()))
    for whole, parts in zip(*sides, strict=True):
        torch.testing.assert_close(whole, parts)
    logits = head(hidden).detach()
    torch.testing.assert_close(sides[0][0][:, 0], token_logprobs(logits, token_ids, banned))
    allowed = logits[:, [i for i in range(11) if i not in (1, 5)]]
    entropy = torch.distributions.Categorical(logits=allowed).entropy()
    torch.testing.assert_close(sides[0][0][:, 1], entropy)


@pytest.mark.parametrize("temperature", [1.0, 0.6, 2.0])
def test_training_and_sampling_have_one_log_probability(temperature: float) -> None:
    """The ratio compared probabilities at temperature 1, at whichever temperature the answers were sampled."""
    torch.manual_seed(0)
    logits, banned = torch.randn(5, 9) * 3, torch.tensor([0, 8])
    ids, sampled = choose(logits, banned, [0.1, 0.3, 0.5, 0.7, 0.9], temperature)
    scored = token_scores(logits, torch.nn.Identity(), torch.tensor(ids), banned, 9, temperature)
    torch.testing.assert_close(scored[:, 0], torch.tensor(sampled))
    policy = torch.distributions.Categorical(logits=logits[:, 1:8] / temperature)
    torch.testing.assert_close(scored[:, 0], policy.log_prob(torch.tensor(ids) - 1))
    torch.testing.assert_close(scored[:, 1], policy.entropy())


def test_sft_loss_is_the_mean_over_the_whole_batch() -> None:
    logprobs = torch.tensor([-1.0, -3.0])
    assert float(sft_loss(logprobs)) == 2.0 and float(sft_loss(logprobs, 8)) == 0.5
