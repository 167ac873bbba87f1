"""Attention by plain matrix products against torch's own, with gradients, masks and dropout."""

import pytest
import torch
import torch.nn.functional as F

from proteinlm.models import cpu_attention
from proteinlm.models.cpu_attention import attend_explicitly


@pytest.mark.parametrize("in_cache", [1, 75, 10**6], ids=["one matrix", "a few", "all"])
@pytest.mark.parametrize("masked", [False, True])
def test_explicit_attention_and_its_gradients_are_torchs(
    masked: bool, in_cache: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_attention, "WEIGHTS_IN_CACHE", in_cache)
    torch.manual_seed(0)
    inputs = torch.randn(3, 2, 4, 5, 8, dtype=torch.float64, requires_grad=True)
    key_mask = (torch.arange(5) < torch.tensor([[3], [5]]))[:, None, None, :] if masked else None
    expected = F.scaled_dot_product_attention(*inputs, attn_mask=key_mask)
    found = attend_explicitly(*inputs, key_mask, 0.0)
    torch.testing.assert_close(found, expected)
    with torch.no_grad():
        assert torch.equal(attend_explicitly(*inputs, key_mask, 0.0), found)
    gradients = [torch.autograd.grad((out * out).sum(), inputs)[0] for out in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_dropout_on_explicit_attention_is_the_plain_formula() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(3, 2, 4, 5, 8, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(1)
    found = attend_explicitly(*inputs, None, 0.4)
    torch.manual_seed(1)
    kept = torch.empty(8, 5, 5, dtype=torch.float64).bernoulli_(0.6).view(2, 4, 5, 5) / 0.6
    query, key, value = inputs
    expected = ((query @ key.transpose(2, 3) / 8**0.5).softmax(-1) * kept) @ value
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad((out * out).sum(), inputs)[0] for out in (found, expected)]
    torch.testing.assert_close(*gradients)
    assert 0.4 < float((kept > 0).double().mean()) < 0.8
