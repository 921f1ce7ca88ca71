"""The networks, in pure `keras.ops`."""

from kitlib.models.unet import build_unet as build_unet
