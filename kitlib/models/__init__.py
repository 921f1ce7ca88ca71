"""The networks, in pure `keras.ops`.

    unet       the U-Net, with the paper's attentions or a pretrained encoder
    segresnet  a residual U-Net for volumes, which labels every slice of its stack
    encoders   the pretrained encoders by name, where they are tapped, and where their weights are found
    weights    readers of weight files: HDF5, npz, PyTorch's; nothing in a file is executed
    prior      the masks of another day in a network's input
    padding    which image sizes fit, and the mirrored border of the original U-Net

`python -m kitlib.models lite0` converts the weights of EfficientNet-Lite0 for a bundle.
"""

from kitlib.models.segresnet import build_segresnet as build_segresnet
from kitlib.models.unet import build_unet as build_unet
