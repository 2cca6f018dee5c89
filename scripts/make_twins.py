"""The picture of counterfactual twins in the documentation: python scripts/make_twins.py

A row of the demo's scenes, and below it the same batch with its backgrounds dealt anew, twins framed.
"""

from pathlib import Path

import torch
from torchvision.transforms.v2.functional import pad, to_pil_image
from torchvision.utils import make_grid

from camtrain.data.modules import ScenesDataModule
from camtrain.losses import deal_backgrounds

TARGET = Path(__file__).resolve().parent.parent / "docs" / "images" / "twins.jpg"
FRAME, COLOR = 3, (230, 120, 20)


def main() -> None:
    data = ScenesDataModule(train_size=64, batch_size=8, num_workers=0)
    data.setup("fit")
    whole = data.build("train").gather(torch.arange(8))
    images, masks, labels = whole["image"], whole["mask"], whole["label"]
    dealt, _, index = deal_backgrounds(images, masks, labels, generator=torch.Generator().manual_seed(2))
    framed = set(index.tolist())
    rows = [bordered(image, False) for image in images] + [bordered(dealt[i], i in framed) for i in range(len(dealt))]
    to_pil_image(make_grid(rows, nrow=len(images), padding=2, pad_value=255)).save(TARGET, quality=88)
    print(TARGET, f"{len(index)} of {len(images)} are twins")


def bordered(image: torch.Tensor, is_twin: bool) -> torch.Tensor:
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8)
    return pad(pixels, [FRAME], fill=list(COLOR if is_twin else (255, 255, 255)))


if __name__ == "__main__":
    main()
