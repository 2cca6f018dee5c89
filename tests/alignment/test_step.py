"""What a step returns."""

import torch

from camtrain.alignment.step import add_to_loss


def test_add_to_loss__keeps_the_other_keys_and_none():
    output = {"loss": torch.tensor(1.0), "logits": 3}
    assert add_to_loss(output, torch.tensor(2.0)) == {"loss": torch.tensor(3.0), "logits": 3}
    assert output["loss"] == 1
    assert add_to_loss(None, torch.tensor(2.0)) is None
