"""The two ResNet-50 of medical imaging whose weights papers use: RadImageNet's of slices, MedicalNet's of volumes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH = 2048
_BLOCKS = (3, 4, 6, 3)
# Keras' epsilon, with which RadImageNet was trained.
_EPSILON = 1.001e-5
# Subtracted in the order of channels that the reversed picture has.
_MEANS = (0.406, 0.456, 0.485)


class _Bottleneck(nn.Module):
    """Keras' bottleneck: convolutions with biases, the stride in the first of them."""

    def __init__(self, inputs: int, planes: int, stride: int, shortcut: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 1, stride)
        self.bn1 = nn.BatchNorm2d(planes, _EPSILON)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(planes, _EPSILON)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1)
        self.bn3 = nn.BatchNorm2d(4 * planes, _EPSILON)
        self.downsample = (
            nn.Sequential(nn.Conv2d(inputs, 4 * planes, 1, stride), nn.BatchNorm2d(4 * planes, _EPSILON))
            if shortcut
            else nn.Identity()
        )

    def forward(self, images: Tensor) -> Tensor:
        maps = functional.relu(self.bn1(self.conv1(images)))
        maps = functional.relu(self.bn2(self.conv2(maps)))
        return functional.relu(self.bn3(self.conv3(maps)) + self.downsample(images))


class RadImageNetResNet50(nn.Module):
    """RadImageNet's ResNet-50 without its top, as converted from Keras; slices in [0, 1], 2048 features each."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3)
        self.bn1 = nn.BatchNorm2d(64, _EPSILON)
        inputs = 64
        for layer, blocks in enumerate(_BLOCKS):
            planes = 64 << layer
            made = []
            for index in range(blocks):
                stride = 2 if index == 0 and layer > 0 else 1
                made.append(_Bottleneck(inputs, planes, stride, shortcut=index == 0))
                inputs = 4 * planes
            setattr(self, f"layer{layer + 1}", nn.Sequential(*made))

    def forward(self, images: Tensor) -> Tensor:
        """Features (n, 2048) of grey slices (n, 1, h, w)."""
        means = torch.tensor(_MEANS, device=images.device)[:, None, None]
        maps = functional.relu(self.bn1(self.conv1(images.expand(-1, 3, -1, -1) - means)))
        maps = functional.max_pool2d(maps, 3, 2, padding=1)
        for layer in range(len(_BLOCKS)):
            maps = getattr(self, f"layer{layer + 1}")(maps)
        return maps.mean((2, 3))


def medicalnet_resnet50() -> nn.Module:
    """MedicalNet's ResNet-50 of volumes (n, 1, x, y, z) without its segmentation head; 2048 features each.

    MONAI's, with the last two layers dilated in place of strides, as the network was trained.
    """
    from monai.networks.nets import resnet50

    network: nn.Module = resnet50(
        spatial_dims=3,
        n_input_channels=1,
        conv1_t_stride=2,
        feed_forward=False,
        shortcut_type="B",
        bias_downsample=False,
    )
    for name, dilation in (("layer3", 2), ("layer4", 4)):
        for module in getattr(network, name).modules():
            if isinstance(module, nn.Conv3d):
                module.stride = (1, 1, 1)
                if module.kernel_size == (3, 3, 3):
                    module.dilation = (dilation,) * 3
                    module.padding = (dilation,) * 3
    return network
