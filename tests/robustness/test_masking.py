import warnings

import pytest
import torch
from torch import nn

from trustml.model import wrap
from trustml.robustness import masking_checks
from trustml.warnings import GradientMaskingWarning


class Quantised(nn.Module):
    """Rounds its inputs: a staircase whose gradients are zero."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(torch.round(16 * x) / 16)


class WrongWay(nn.Module):
    """The same outputs, with gradients that point backwards."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(2 * x.detach() - x)


class Noisy(nn.Module):
    """Adds its own noise at every call."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.generator = inner, torch.Generator().manual_seed(0)

    def forward(self, x):
        out = self.inner(x)
        return out + torch.randn(out.shape, generator=self.generator, dtype=out.dtype)


def again(smooth, module):
    model, X, y = smooth
    return wrap(module(model.module), task="classification", train=(X, y), bounds=(0.0, 1.0)), X, y


def test_an_honest_model_raises_no_flag(smooth, linear, iris):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        honest = masking_checks(*smooth, eps=0.05, random_state=0)
        plain = masking_checks(linear, *iris, norm="l2", eps=0.3, random_state=0)
    assert honest.flags == plain.flags == ()
    assert honest.clean_accuracy == 1.0
    assert honest.pgd_accuracy <= honest.random_accuracy
    assert honest.unbounded_accuracy <= 0.05


@pytest.mark.parametrize(
    ("module", "sign"),
    [
        (Quantised, "zero gradients"),
        (Quantised, "chance beats gradients"),
        (WrongWay, "no budget is enough"),
        (Noisy, "random outputs"),
    ],
)
def test_planted_masks_are_flagged(smooth, module, sign):
    model, X, y = again(smooth, module)
    with pytest.warns(GradientMaskingWarning, match=sign):
        report = masking_checks(model, X, y, eps=0.15, random_state=0)
    assert any(flag.startswith(sign) for flag in report.flags)


def test_the_report_is_a_table(smooth):
    pytest.importorskip("pandas")
    table = masking_checks(*smooth, eps=0.05, random_state=0).to_frame()
    assert "pgd_accuracy" in set(table["quantity"])


def test_bad_input(linear, iris):
    with pytest.raises(ValueError, match="give eps"):
        masking_checks(linear, *iris)
    with pytest.raises(ValueError, match="same length"):
        masking_checks(linear, iris[0], iris[1][:5], eps=0.1)
    with pytest.raises(ValueError, match="above 0"):
        masking_checks(linear, *iris, eps=0)
