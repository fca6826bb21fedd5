"""Precision policies: free for fp32, torch's autocast for bf16."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from frameworm.errors import UnknownNameError, UserError
from frameworm.training.precision import Precision

CPU = torch.device("cpu")


def test_fp32_is_the_function_itself() -> None:
    """Full precision costs nothing: the function is not wrapped."""
    assert Precision("fp32", CPU).wrap(len) is len
    with Precision("fp32", CPU).context():
        assert not torch.is_autocast_enabled("cpu")


def test_bf16_equals_a_hand_written_loop_bit_for_bit() -> None:
    """Losses and weights over some steps are those of a plain loop with torch.autocast."""

    def train(by_hand: bool) -> tuple[list[float], list[Tensor]]:  # noqa: FBT001  which of the two
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3))
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        x, y = torch.randn(32, 8), torch.randint(3, (32,))

        def compute_loss(x: Tensor, y: Tensor) -> Tensor:
            return nn.functional.cross_entropy(model(x), y)

        wrapped = Precision("bf16", CPU).wrap(compute_loss)
        losses = []
        for _ in range(10):
            if by_hand:
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    loss = compute_loss(x, y)
            else:
                loss = wrapped(x, y)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        return losses, [parameter.detach() for parameter in model.parameters()]

    (ours, our_weights), (theirs, their_weights) = train(False), train(True)
    assert ours == theirs
    assert all(map(torch.equal, our_weights, their_weights))


def test_a_wrapped_function_may_call_itself() -> None:
    """Nested calls leave autocast as they found it, also when the function raises."""

    def recurse(depth: int) -> bool:
        if depth < 0:
            raise ZeroDivisionError
        return wrapped(depth - 1) if depth else torch.is_autocast_enabled("cpu")

    wrapped = Precision("bf16", CPU).wrap(recurse)
    assert wrapped(2)
    with pytest.raises(ZeroDivisionError):
        wrapped(-1)
    assert not torch.is_autocast_enabled("cpu")


def test_an_unknown_precision_is_offered_the_nearest() -> None:
    """A name that is none says which there are."""
    with pytest.raises(UnknownNameError) as caught:
        Precision("bf32", CPU)
    assert caught.value.hint in {"fp32", "bf16"}


def test_a_device_without_bf16_is_refused() -> None:
    """A device that autocast does not serve is the user's error."""
    with pytest.raises(UserError, match="meta cannot train in bf16"):
        Precision("bf16", torch.device("meta"))


def test_a_device_on_which_torch_only_warns_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch would go on in fp32 with a warning, the run does not begin."""

    def autocast(device: str, dtype: torch.dtype) -> None:
        warnings.warn(f"In {device} autocast, but {dtype} is not supported. Disabling autocast.", stacklevel=2)

    monkeypatch.setattr(torch, "autocast", autocast)
    with pytest.raises(UserError, match="Disabling autocast"):
        Precision("bf16", torch.device("mps"))
