"""The networks, in pure `keras.ops`: the paper's U-Net in `unet`, the sizes it accepts in `padding`."""

from kitlib.models.unet import build_unet as build_unet
