"""What a pretrained encoder brings in the same minutes: the kit's U-Nets beside two peers, on a phantom.

`python benchmarks/encoders.py FOLDER [--minutes 10] [--stems] [--only NAME ...] [--save]`. Of the phantom's 32 cases,
12 are learned, two scans each, and 20 are unseen, one scan each. Every contestant trains in a process of its own for
the same processor time, on the same slices, grid, augmentation, loss and schedule. It then predicts the unseen scans
with mirrored slices, gets the same post-processing and the best of three thresholds, and its csv file is scored.
A contestant that is done is not trained again, so an interrupted call goes on. --stems compares the ways in which an
encoder for colours takes five slices instead.
"""

import argparse
import contextlib
import functools
import itertools
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

import experiment
import phantom
from kitlib import inference, postprocess
from kitlib.data import boxes, folds, inputs, pipeline, scans
from kitlib.scoring import bootstrap, host

PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "encoders.png"
ENCODER = "efficientnet-lite0"
LEARNED, UNSEEN, SEED = 12, 20, 5
GRID, BATCH, EMPTY_SHARE, AVERAGE = (96, 160), 8, 0.25, 0.98
THRESHOLDS = (0.3, 0.4, 0.5)
QUARTERS = 4  # points of the curve
WARM, TIMED = 8, 16  # steps before and while a contestant's step is timed


@dataclass(frozen=True)
class Contestant:
    """A network and how it starts.

    Attributes:
        text: its name in the table.
        kind: "kit", "smp" or "monai".
        rate: the peak of the learning rate.
        seed: of weights, order and augmentation.
        options: of the kit's network.
        pretrained: whether the encoder starts from ImageNet.
        fresh_stem: whether its first convolution starts from random numbers all the same.
        curve: whether it is also scored on the way.
        role: "both", or of a pair "gate" or "segmenter".
        network: the function that builds the kit's.
        batch: samples per step.
    """

    text: str
    kind: str = "kit"
    rate: float = 1e-3
    seed: int = 0
    options: dict = field(default_factory=lambda: {"encoder": ENCODER})
    pretrained: bool = True
    fresh_stem: bool = False
    curve: bool = False
    role: str = "both"
    network: str = "kitlib.models:build_unet"
    batch: int = BATCH


FIELD = {
    "A": Contestant("kit, Lite0, ImageNet", curve=True),
    "B": Contestant("kit, Lite0, random", pretrained=False, curve=True),
    "C": Contestant("segmentation_models_pytorch, Lite0, ImageNet", "smp", curve=True),
    "D": Contestant("MONAI U-Net, random", "monai", 2e-3, pretrained=False, curve=True),
    "paper": Contestant("kit, the paper's network, random", rate=2e-3, options={"levels": 4}, pretrained=False),
    "A2": Contestant("kit, Lite0, ImageNet, second seed", seed=1),
    "B2": Contestant("kit, Lite0, random, second seed", seed=1, pretrained=False),
}
STEMS = {
    stem: Contestant(f"stem {stem}", options={"encoder": ENCODER, "stem": stem})
    for stem in ("mean", "repeat", "adapter")
} | {"random": Contestant("stem random", fresh_stem=True)}
CURVES = tuple(name for name, contestant in FIELD.items() if contestant.curve)
PAIRS = (("A", "B"), ("A2", "B2"), ("A", "D"), ("A", "C"), ("A", "paper"), ("B", "paper"))
STEM_PAIRS = (("mean", "random"), ("mean", "repeat"), ("mean", "adapter"))


def cases(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write the phantom, unless it is there; return the slices of learned and of unseen cases, with masks."""
    root = folder / "phantom"
    if not (root / "truth.csv").is_file():
        phantom.write(root, LEARNED + UNSEEN, SEED, days=2, processes=2)
    hidden = scans.with_masks(scans.read(root, "test"), pd.read_csv(root / "truth.csv", keep_default_na=False))
    slices = pd.concat([scans.read(root), hidden], ignore_index=True)
    slices = slices.sort_values(["case", "day", "slice"], ignore_index=True)
    order = np.random.default_rng(SEED).permutation(slices["case"].unique())
    parts = (slices[slices["case"].isin(some)] for some in (order[:LEARNED], order[LEARNED:]))
    return tuple(part.reset_index(drop=True) for part in parts)


def data(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write the phantom, unless it is there; return the slices to learn from and the unseen ones, with masks."""
    learned, others = cases(folder)
    unseen = others[others["day"] == others.groupby("case")["day"].transform("min")]
    return learned, unseen.reset_index(drop=True)


class Enough(Exception):
    """A trial has seen its steps."""


class Clock:
    """Minutes of training: processor time over the number of cores; what comes between two calls may be skipped."""

    def __init__(self):
        self.minutes, self.mark = 0.0, time.process_time()

    def skip(self) -> None:
        """Do not count the time since the last call."""
        self.mark = time.process_time()

    def count(self) -> float:
        """Count the time since the last call; return all that was counted."""
        now = time.process_time()
        self.minutes += (now - self.mark) / 60 / os.cpu_count()
        self.mark = now
        return self.minutes


def recipe_for(contestant: Contestant, epochs: int, empty_share: float = EMPTY_SHARE):
    """Make the course: that of `recipes.strong`, cut to a few minutes; only the last epoch is scored."""
    from kitlib.training import recipes

    recipe = replace(
        recipes.strong(),
        network=contestant.network,
        network_options=contestant.options,
        learning_rate=contestant.rate,
        epochs=epochs,
        patience=epochs,
        score_every=epochs,
        batch_size=contestant.batch,
        empty_share=empty_share,
        average=AVERAGE,
        average_last=0,
        seed=contestant.seed,
        leave_out=(),
    )
    if contestant.role == "both":
        return recipe
    return replace(recipes.with_role(recipe, contestant.role), epochs=epochs, patience=epochs)


def train_kit(
    contestant: Contestant, learned, held_out, packed, folder: Path, minutes: float, empty_share: float = EMPTY_SHARE
) -> tuple[dict, list[Callable]]:
    """Train with `fit_fold`, whose time for evaluation does not count; return what `train` returns."""
    import keras

    from kitlib import training
    from kitlib.training import devices, step

    class Watch(keras.callbacks.Callback):
        """Time the steps, and keep the averaged weights at every quarter of the training."""

        def __init__(self, total: int, trial: bool = False):
            super().__init__()
            self.total, self.trial, self.times, self.curve = total, trial, [], []

        def on_train_begin(self, logs=None):
            self.clock = Clock()
            if contestant.fresh_stem:
                kernel = self.model.network.get_layer("stem_conv").kernel
                kernel.assign(keras.initializers.VarianceScaling(2.0, "fan_out", seed=0)(kernel.shape))

        def on_epoch_begin(self, epoch, logs=None):
            self.clock.skip()

        def on_train_batch_end(self, batch, logs=None):
            self.times.append(self.clock.count())
            done = len(self.times)
            if self.trial and done == self.total:
                raise Enough  # an evaluation would take longer than the trial
            if not self.trial and done * QUARTERS >= self.total * (len(self.curve) + 1):
                self.curve.append(self.times[-1])
                np.savez(
                    folder / f"quarter{len(self.curve)}.npz", *step.averaged_weights(self.model, self.model.network)
                )
                self.clock.skip()

    def fit(place: Path, epochs: int, watch: Watch):
        with devices.cleared():
            return training.fit_fold(
                learned,
                place,
                held_out=held_out,
                spec=packed.spec,
                recipe=recipe_for(contestant, epochs, empty_share),
                packed=packed,
                pretrained=ENCODER if contestant.pretrained else None,
                callbacks=[watch],
            )

    train, _ = folds.split(learned, held_out, (), recipe_for(contestant, 1, empty_share).empty_share, contestant.seed)
    steps = pipeline.steps(train, contestant.batch, packed.spec)
    trial = Watch(WARM + TIMED, trial=True)
    with contextlib.suppress(Enough):
        fit(folder / "trial", -(-(WARM + TIMED) // steps), trial)
    seconds = (trial.times[-1] - trial.times[WARM - 1]) / TIMED * 60
    epochs = max(1, round(minutes * 60 / seconds / steps))
    watch = Watch(epochs * steps)
    run = fit(folder / "run", epochs, watch)
    network = inference.networks.load(run.folder)
    weights = [np.load(folder / f"quarter{quarter + 1}.npz") for quarter in range(QUARTERS)]

    def member(quarter: int) -> inference.networks.Member:
        network.set_weights([weights[quarter][f"arr_{number}"] for number in range(len(network.weights))])
        engine = inference.networks.Engine(network, inference.stacks.inputs_per_call(packed.spec, 16))
        return inference.networks.Member("kit", packed.spec, engine, True)

    result = {"steps": len(watch.times), "epochs": epochs, "curve": watch.curve, "weights": network.count_params()}
    return result, [functools.partial(member, quarter) for quarter in range(QUARTERS)]


def train_torch(contestant: Contestant, learned, held_out, packed, folder: Path, minutes: float):
    """Train a peer on the kit's batches, with the same loss, optimizer, schedule and moving average."""
    import torch

    network = {"smp": smp_unet, "monai": monai_unet}[contestant.kind]()
    averaged = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(AVERAGE), use_buffers=True
    )
    train, _ = folds.split(learned, held_out, (), EMPTY_SHARE, contestant.seed)
    steps = pipeline.steps(train, BATCH)

    def course(total: int):
        """Train for some steps; yield the minutes after each."""
        recipe = recipe_for(contestant, max(1, total // steps))
        rate = recipe.rate(steps)
        batches = pipeline.dataset(
            train, packed.spec, BATCH, True, packed=packed, seed=contestant.seed, augment=recipe.made("augment")
        )
        decayed = [weights for weights in network.parameters() if weights.ndim > 1]
        others = [weights for weights in network.parameters() if weights.ndim <= 1]
        optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
            eps=1e-7,
        )
        network.train()
        clock = Clock()
        for number, batch in enumerate(itertools.islice(batches, total)):
            for group in optimizer.param_groups:
                group["lr"] = float(rate(number))
            images = torch.from_numpy(batch["images"].numpy()).permute(0, 3, 1, 2)
            masks = torch.from_numpy(batch["masks"].numpy().astype(np.float32)).permute(0, 3, 1, 2)
            optimizer.zero_grad(set_to_none=True)
            logits = network(images.contiguous(memory_format=torch.channels_last))
            chances = torch.sigmoid(logits)
            overlap = (2 * (chances * masks).sum((0, 2, 3)) + 1) / (chances.sum((0, 2, 3)) + masks.sum((0, 2, 3)) + 1)
            cross = torch.nn.functional.binary_cross_entropy_with_logits(logits, masks)
            (cross + 0.5 * (1 - overlap.mean())).backward()
            optimizer.step()
            averaged.update_parameters(network)
            yield clock.count()
            clock.skip()

    start = [{name: value.clone() for name, value in model.state_dict().items()} for model in (network, averaged)]
    times = list(course(WARM + TIMED))
    seconds = (times[-1] - times[WARM - 1]) / TIMED * 60
    network.load_state_dict(start[0])
    averaged.load_state_dict(start[1])
    total, curve = max(1, round(minutes * 60 / seconds / steps)) * steps, []
    for done, now in enumerate(course(total), start=1):
        if done * QUARTERS >= total * (len(curve) + 1):
            curve.append(now)
            torch.save(averaged.module.state_dict(), folder / f"quarter{len(curve)}.pt")

    def member(quarter: int) -> inference.networks.Member:
        network.load_state_dict(torch.load(folder / f"quarter{quarter + 1}.pt", weights_only=True))
        network.eval()

        def run(images: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                maps = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
                return torch.sigmoid(network(maps)).permute(0, 2, 3, 1).numpy()

        return inference.networks.Member(contestant.kind, packed.spec, run, True)

    weights = sum(weights.numel() for weights in network.parameters())
    result = {"steps": total, "epochs": total // steps, "curve": curve, "weights": weights}
    return result, [functools.partial(member, quarter) for quarter in range(QUARTERS)]


def train(folder: Path, name: str, contestant: Contestant, learned, spec: inputs.InputSpec, minutes: float):
    """Train a contestant into folder/name; return its figures, and functions that open it after each quarter."""
    place = folder / name
    shutil.rmtree(place, ignore_errors=True)  # of an interrupted call, whose clock is lost
    place.mkdir(parents=True)
    packed = pipeline.pack(learned, spec, folder / "packed")
    held_out = learned["case"] == learned["case"].iloc[-1]
    how = train_kit if contestant.kind == "kit" else train_torch
    return how(contestant, learned, held_out, packed, place, minutes)


def smp_unet():
    """Build the U-Net of segmentation_models_pytorch on Lite0, with the weights of the kit's Lite0."""
    import torch

    from kitlib.models import encoders
    from peers import smp_unet

    unet = smp_unet(ENCODER, channels=3)
    values = torch.load(encoders.find(ENCODER), weights_only=True).items()
    values = [value for name, value in values if not name.endswith("num_batches_tracked")]
    own = unet.encoder.state_dict()
    names = [name for name in own if not name.endswith("num_batches_tracked")]
    assert all(own[name].shape == value.shape for name, value in zip(names, values, strict=False))
    unet.encoder.load_state_dict(own | dict(zip(names, values, strict=False)))
    unet.encoder.set_in_channels(5, pretrained=True)
    for layer in unet.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 0.1  # timm's .01 is for long trainings
    torch.nn.init.constant_(unet.segmentation_head[0].bias, -3.0)  # as in the kit: organs are small

    class Scaled(torch.nn.Module):
        """Brings the kit's pixels to the encoder's range."""

        def __init__(self):
            super().__init__()
            self.unet = unet

        def forward(self, images):
            return self.unet(images * (255 / 128) - 127 / 128)

    return Scaled().to(memory_format=torch.channels_last)


def monai_unet():
    """Build MONAI's U-Net with two residual units a stage."""
    import torch
    from monai.networks.nets import UNet

    return UNet(2, 5, 3, (16, 32, 64, 128, 256), strides=(2,) * 4, num_res_units=2).to(
        memory_format=torch.channels_last
    )


def part(folder: Path, name: str, contestant: Contestant, grid: tuple[int, int], boxed: bool, minutes: float) -> None:
    """Train one contestant and score it; leave its files and result.json."""
    learned, unseen = data(folder)
    spec = inputs.InputSpec(*grid, box_mm=boxes.box_for(learned) if boxed else None)
    result, members = train(folder, name, contestant, learned, spec, minutes)

    def predictions():
        for quarter, open_member in enumerate(members, start=1):
            last = quarter == QUARTERS
            if last or contestant.curve:
                run = [open_member()]
                for found in inference.predict(run, unseen, inference.Faults(), flip=last, progress=False):
                    yield quarter, postprocess.DEFAULT, found

    scores = experiment.score(predictions(), unseen, folder / name, "quarter", THRESHOLDS)
    totals = [line.pop("totals") for line in scores]
    for line, each in zip(scores, totals, strict=True):
        dice, hausdorff = map(float, host.means(np.sum(each, axis=0)))
        line |= {"score": float(host.value(np.sum(each, axis=0))), "dice": dice, "hausdorff": hausdorff}
    result |= {"name": contestant.text, "scores": scores, "totals": totals}
    experiment.write(folder / name / "result.json", result)


def best(result: dict, quarter: int = QUARTERS) -> tuple[float, np.ndarray]:
    """Return the best threshold after a quarter of the training, and its totals by case."""
    lines = zip(result["scores"], result["totals"], strict=True)
    return experiment.best(
        {line["threshold"]: np.array(totals) for line, totals in lines if line["quarter"] == quarter}
    )


def report(results: dict[str, dict], pairs, title: str, how: str) -> str:
    """Write the tables in Markdown."""
    found = {name: best(result) for name, result in results.items()}
    rows = [
        (name, result["name"], *experiment.figures(result), *experiment.scored(*found[name]))
        for name, result in results.items()
    ]
    known = [pair for pair in pairs if set(pair) <= set(results)]
    return experiment.page(
        title,
        how,
        experiment.table(("", "network", *experiment.FIGURES, *experiment.SCORE), rows),
        experiment.differences({" - ".join(pair): [found[name][1] for name in pair] for pair in known}),
        packages=("keras", "tensorflow", "torch", "monai", "segmentation_models_pytorch"),
    )


def picture(results: dict[str, dict]):
    """Draw the score over the minutes of training, with intervals."""
    from kitlib.figures import style

    @style.look
    def drawn():
        figure, ((axis,),) = style.canvas(4.6, width=7.2)
        for name in CURVES:
            result = results[name]
            quarters = sorted({line["quarter"] for line in result["scores"]})
            minutes = [result["curve"][quarter - 1] for quarter in quarters]
            values, lows, highs = np.transpose([bootstrap.interval(best(result, quarter)[1]) for quarter in quarters])
            (curve,) = axis.plot(minutes, values, marker="o", label=result["name"])
            axis.fill_between(minutes, lows, highs, color=curve.get_color(), alpha=0.12, linewidth=0)
        axis.set(
            xlabel="minutes of training on two cores (last points: with mirrored slices)",
            ylabel=f"host score of {UNSEEN} unseen cases",
            title="Score over minutes of training, with 95 % intervals over cases (phantom)",
        )
        figure.legend(loc="outside lower center", ncols=2)
        return figure

    return drawn()


def main() -> None:
    """Run every contestant that has no result yet, print the table, save it with --save."""
    parser = experiment.parser(__doc__, minutes=10)
    parser.add_argument("--stems", action="store_true", help="compare stems, on 128 x 128 pixels")
    parser.add_argument("--only", nargs="*", help="contestants to run; others that are done stay in the table")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    given = parser.parse_args()
    folder, minutes, options = given.folder, given.minutes, ["--stems"] if given.stems else []
    entries, pairs, name = (STEMS, STEM_PAIRS, "stems") if given.stems else (FIELD, PAIRS, "encoders")
    grid, boxed = ((128, 128), False) if given.stems else (GRID, True)
    if given.part:
        part(folder, f"{name}/{given.part}", entries[given.part], grid, boxed, minutes)
        return
    paths = {entry: folder / name / entry / "result.json" for entry in entries}
    for entry in [entry for entry in entries if not given.only or entry in given.only]:
        experiment.run(paths[entry], __file__, folder, "--part", entry, "--minutes", minutes, *options)
    results = {entry: experiment.read(path) for entry, path in paths.items() if path.is_file()}
    how = (
        f"A phantom of {LEARNED + UNSEEN} cases (seed {SEED}): {LEARNED} learned, one of them held out "
        f"though no epoch is chosen, two scans each; {UNSEEN} unseen, one scan each. {grid[0]} x {grid[1]} pixels of "
        f"{'the box in mm that holds all training masks' if boxed else 'the whole slice'}, batches of {BATCH}, "
        f"{EMPTY_SHARE:.0%} of the empty slices, BCE + 0.5 Dice, AdamW with a cosine, moving average {AVERAGE}, "
        f"{minutes:g} minutes of training each (processor time over {os.cpu_count()} cores, augmentation included, "
        "evaluation not). Mirrored slices at the end, default post-processing, the best of three thresholds each."
    )
    title = (
        "How an encoder for colours takes five slices" if given.stems else "A pretrained encoder in the same minutes"
    )
    experiment.publish(report(results, pairs, title, how), name, given.save)
    if given.save:
        for entry, result in results.items():  # totals by case, from which the table follows
            experiment.write(experiment.RESULTS / name / f"{entry}.json", result)
        if not given.stems and all(entry in results for entry in CURVES):
            picture(results).savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()
