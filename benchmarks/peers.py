"""Networks of other packages that benchmarks run beside the kit's."""

import torch

TIMM = {"efficientnet-lite0": "timm-tf_efficientnet_lite0", "efficientnetv2-s": "tu-tf_efficientnetv2_s"}


def smp_unet(encoder: str, channels: int = 5):
    """Build the U-Net of segmentation_models_pytorch with random weights, on the encoder that the kit names so."""
    library = torch.library.Library("torchvision", "DEF")  # timm imports it, and its operators need another build
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    smp_unet.library = library  # the definitions end with it
    import segmentation_models_pytorch

    return segmentation_models_pytorch.Unet(TIMM[encoder], encoder_weights=None, in_channels=channels, classes=3)
