"""The networks, in pure `keras.ops`.

`unet` has the paper's U-Net, `encoders` the pretrained ways down that it can take, `weights` reads their files, and
`padding` knows which image sizes fit.
"""

from kitlib.models.unet import build_unet as build_unet
