"""Which ready-made recipe, encoder and grid suit a machine."""

from kitlib.data import boxes, inputs
from kitlib.models import encoders
from kitlib.training import recipes
from kitlib.training.devices import detect

MOST_PIXELS = 2048  # of a side; more fill any memory
VOLUMES = ("volume", "volume_short")  # presets whose networks label every slice of their stack


def suited(accelerators: int, role: str = "both") -> tuple[str, tuple[int, int]]:
    """Suggest an encoder and a grid (height, width), which has the proportions of the box around all masks.

    On a GPU 256 x 384, about 1 mm a pixel: we estimate 3 GB for 16 slices, of a T4's 15. A gate takes 192 x 288, since
    it needs no sharp contours. On a CPU 128 x 192, at a tenth of the operations.

    >>> suited(accelerators=0)
    ('efficientnet-lite0', (128, 192))
    """
    if not accelerators:
        return "efficientnet-lite0", (128, 192)
    return "efficientnetv2-s", (192, 288) if role == "gate" else (256, 384)


def grid(preset: str, accelerators: int, role: str = "both") -> tuple[int, int]:
    """Return the grid (height, width) that a preset is meant for: the paper's 128 x 128 without an encoder.

    >>> grid("short", accelerators=0)
    (64, 96)
    """
    if preset in ("short", "volume_short"):
        return 64, 96
    if preset == "volume":
        return 192, 288
    return suited(accelerators, role)[1] if preset == "encoder" else (128, 128)


def spec(
    preset: str, size: tuple[int, int], box_mm: boxes.Box | None = None, axis: str = "z", length: int = 160
) -> inputs.InputSpec:
    """Return what a preset's network sees on a grid: stacks of five slices, or volumes of 32.

    Args:
        preset: one of `PRESETS`.
        size: the grid (height, width) of the slices.
        box_mm, axis, length: of the `InputSpec`; see `axes.length_for`.

    >>> spec("volume", (192, 288)).labelled, spec("encoder", (256, 384), axis="y").shape
    ((192, 288, 32), (160, 384, 5))
    """
    if preset in VOLUMES:
        return inputs.InputSpec(*size, depth=32, box_mm=box_mm, volume=True, axis=axis)
    turned = {} if axis == "z" else {"axis": axis, "length": length}
    return inputs.InputSpec(*size, box_mm=box_mm, **turned)


PRESETS = {
    function.__name__: function
    for function in (
        *(recipes.paper, recipes.paper_first, recipes.strong, recipes.short, recipes.encoder),
        *(recipes.volume, recipes.volume_short),
    )
}


def preset_for(preset: str, name: str, accelerators: int) -> str:
    """Return the preset, or if it is empty the default: `encoder` if one is named, `paper` on a GPU, `short` on a CPU.

    >>> preset_for("", "", accelerators=2)
    'paper'
    """
    return preset or ("encoder" if name else "paper" if accelerators else "short")


def kind(preset: str, name: str) -> str:
    """Tell which network `choose` would give on this machine: "encoder", a pretrained one, "volume", 3D, or "paper".

    >>> kind("volume_short", "")
    'volume'
    """
    preset = preset_for(preset, name, detect().accelerators)
    return "encoder" if preset in ("encoder", "short") else "volume" if preset in VOLUMES else "paper"


def sides(preset: str, name: str, levels: int = 0) -> range:
    """Return the sides in pixels that the grid of a preset may have: as many halvings as the network makes.

    >>> sides("encoder", "")[:3], sides("volume", "").step
    (range(32, 128, 32), 8)
    """
    halvings = {"encoder": encoders.LEVELS, "volume": 3, "paper": 4}[kind(preset, name)]
    step = 2 ** max(halvings, levels)
    return range(step, MOST_PIXELS + 1, step)


def choose(preset: str = "", name: str = "", accelerators: int = 0) -> recipes.Recipe:
    """Choose a ready-made recipe for a machine.

    Args:
        preset: one of `PRESETS`, or empty: see `preset_for`.
        name: of an encoder, or empty: the one that is `suited`.
        accelerators: how many the machine has.

    Raises:
        ValueError: an unknown preset or encoder, or an encoder with another preset.
    """
    preset = preset_for(preset, name, accelerators)
    if preset not in PRESETS:
        raise ValueError(f"preset is {preset!r}; choose one of {', '.join(PRESETS)}")
    if preset == "encoder":
        return recipes.encoder(name or suited(accelerators)[0])
    if name:
        raise ValueError(f"encoder is {name!r}, but the preset is {preset!r}; leave one of them out")
    return PRESETS[preset]()
