"""AttentionAlignment without masks: made ones teach as given ones do; what was found is corrected, and nothing else."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from camtrain.callbacks import AttentionAlignment, RelianceDetector
from camtrain.errors import MaskError
from camtrain.sinks.run import Run
from tests.callbacks.modules import Foreign, fit, mapping, pair, samples
from tests.callbacks.test_reliance_detector import COLORS, drawn
from tests.callbacks.test_reliance_detector import fit as watched

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*have no logger configured"),
    pytest.mark.filterwarnings("ignore:.*No module.*"),
]


class ByMapping(Foreign):
    def training_step(self, batch, batch_idx):
        return super().training_step((batch["image"], batch["label"]), batch_idx)


def segment(images):
    return samples(len(images))[2]


def trained(make_trainer, callback, *batches):
    module = ByMapping() if isinstance(batches[0], dict) else Foreign()
    trainer = fit(make_trainer, module, callback, *batches, max_epochs=2)
    return trainer, list(module.parameters())


def test_segmenter__teaches_bit_by_bit_what_the_same_masks_teach_when_they_are_given(make_trainer):
    images, labels, masks = samples(6)
    callback = AttentionAlignment(segmenter=segment)
    trainer, made = trained(make_trainer, callback, (images, labels))
    _, given = trained(make_trainer, AttentionAlignment(), pair(images, labels, masks))
    assert all(torch.equal(one, other) for one, other in zip(made, given, strict=True))
    assert callback.maker.outlines.asked == 6  # once for both epochs
    assert (Run.of(trainer).folder / "masks.jpg").is_file()


def test_segmenter__of_a_mapping_completes_the_images_that_have_none(make_trainer):
    images, labels, masks = samples(6)
    some = masks.clone()
    some[::2] = -1
    _, made = trained(make_trainer, AttentionAlignment(segmenter=segment), mapping(images, labels, some))
    _, given = trained(make_trainer, AttentionAlignment(), mapping(images, labels, masks))
    assert all(torch.equal(one, other) for one, other in zip(made, given, strict=True))


def test_segmenter__that_returns_no_masks_is_refused_in_the_first_step(make_trainer):
    images, labels, _ = samples()
    with pytest.raises(MaskError, match="divide 8-bit masks by 255"):
        trained(make_trainer, AttentionAlignment(segmenter=lambda x: 255 * segment(x)), (images, labels))


def told_twice(images, cue, seed=0):
    """The disc has the class's color, rather faintly; so has a corner, plainly, where there is a cue."""
    _, labels, masks = drawn(images, "object", seed).tensors
    g = torch.Generator().manual_seed(seed)
    color = COLORS[labels][..., None, None]
    pictures = torch.where(masks[:, None] > 0, 0.5 + 0.35 * color, torch.tensor(0.2))
    pictures = pictures + 0.15 * torch.randn(pictures.shape, generator=g)
    if cue:
        pictures[:, :, -6:, -6:] = color
    return TensorDataset(pictures, labels)


def loop(make_trainer, cue, *, epochs, **arguments):
    data = DataLoader(told_twice(240, cue), 24, shuffle=True), DataLoader(told_twice(72, cue, seed=1), 24)
    detector = RelianceDetector(images_per_class=20, stickers=False)
    alignment = AttentionAlignment(start_when="reliance/flagged", **arguments)
    _, module = watched(make_trainer, detector, callbacks=(alignment,), data=data, max_epochs=epochs)
    return detector, alignment, module.eval()


def test_loop__flags_and_corrects_what_it_finds_without_a_mask(make_trainer):
    detector, alignment, module = loop(make_trainer, True, epochs=6, segmenter="found")
    assert len(detector.flagged_since) == 3
    assert alignment.maker.places == ((0.75, 0.75, 0.25, 0.25),)
    assert not any(each.box for each in detector.verdicts)
    images, labels = told_twice(72, True, seed=2).tensors
    other = images.clone()
    other[:, :, -6:, -6:] = other[:, :, -6:, -6:].roll(1, 0)
    answers = [module(each).argmax(dim=1) for each in (images, other)]
    assert (answers[0] == answers[1]).float().mean() > 0.9
    assert (answers[1] == labels).float().mean() > 0.7


def test_loop__leaves_a_clean_network_as_it_would_be_without(make_trainer):
    detector, alignment, module = loop(make_trainer, False, epochs=2, segmenter="auto")
    assert (alignment.started_at, alignment.steps, detector.flagged_since) == (None, 0, {})
    data = DataLoader(told_twice(240, False), 24, shuffle=True), DataLoader(told_twice(72, False, seed=1), 24)
    _, plain = watched(make_trainer, RelianceDetector(images_per_class=20, stickers=False), data=data)
    for one, other in zip(module.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)
