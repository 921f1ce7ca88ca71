"""The optimizer and its learning rate: a function of the step alone, so that a resumed run finds its place again."""

import keras

SCHEDULES = ("constant", "cosine")
OPTIMIZERS = ("adam", "adamw")


def rate(peak: float, schedule: str, steps: int, epochs: int, warmup_epochs: float = 1.0):
    """Make the learning rate.

    "constant" is `peak` throughout. "cosine" climbs in a straight line from peak / 10 over the warm-up, then falls
    along half a cosine to zero at the last step of the last epoch.

    Args:
        peak: the highest rate.
        schedule: "constant" or "cosine".
        steps: batches of an epoch.
        epochs: length of the course.
        warmup_epochs: of "cosine"; may be a fraction, and is cut to half of the course.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule {schedule!r} is neither 'constant' nor 'cosine'")
    if schedule == "constant":
        return peak
    warmup = int(min(warmup_epochs, epochs / 2) * steps)
    decay = max(steps * epochs - warmup, 1)
    if not warmup:
        return keras.optimizers.schedules.CosineDecay(peak, decay)
    return keras.optimizers.schedules.CosineDecay(peak / 10, decay, warmup_target=peak, warmup_steps=warmup)


def optimizer(kind: str, learning_rate, weight_decay: float = 0.0, average: float = 0.0) -> keras.optimizers.Optimizer:
    """Make Adam or AdamW, and let it keep a moving average of the weights where asked.

    Args:
        kind: "adam" or "adamw".
        learning_rate: what `rate` gives.
        weight_decay: of "adamw", per step and unit of the learning rate; biases and norms are spared.
        average: share of the old average kept at each step; 0 keeps none.

    Raises:
        ValueError: for an unknown kind, or weight decay without AdamW.
    """
    if kind not in OPTIMIZERS:
        raise ValueError(f"optimizer {kind!r} is neither 'adam' nor 'adamw'")
    if not 0 <= average < 1:
        raise ValueError(f"average is {average}; give the share of the old average kept per step, from 0 up to below 1")
    averaging = {"use_ema": True, "ema_momentum": average} if average else {}
    if kind == "adam":
        if weight_decay:
            raise ValueError(f"weight_decay {weight_decay} needs optimizer='adamw'; Adam has none")
        return keras.optimizers.Adam(learning_rate, **averaging)
    made = keras.optimizers.AdamW(learning_rate, weight_decay=weight_decay, **averaging)
    made.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return made
