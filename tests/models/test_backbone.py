"""The small backbone answers for an image alone what it answers for it in a batch."""

import pytest
import torch

from greedyprune import build_model
from greedyprune.models.batch import pad_images


@pytest.mark.parametrize("sizes", [[(64, 96), (80, 48)], [(53, 71), (38, 90), (61, 61)]])
def test_an_image_gets_the_same_answer_alone_and_padded_in_a_batch(sizes: list[tuple[int, int]]) -> None:
    torch.manual_seed(0)
    model = build_model(
        "dn_detr", num_classes=3, backbone="small", hidden_dim=32, heads=4, enc_layers=1, dec_layers=2, num_queries=7
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)  # biases of the norms, too: they fill the padding
    model.eval()
    images = [torch.randn(3, height, width) for height, width in sizes]
    with torch.inference_mode():
        together = model(pad_images(images))
        for index, image in enumerate(images):
            alone = model([image])
            for key in ("logits", "boxes"):
                assert torch.allclose(getattr(alone, key)[0], getattr(together, key)[index], atol=1e-5)
