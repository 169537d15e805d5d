"""What each command takes: all that ``--help`` needs, so nothing of what carries a command out is imported here."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable


def _config(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add PaddleClas's ``-c CONFIG`` and ``-o key=value``."""
    parser.add_argument(
        "-c",
        "--config",
        required=required,
        metavar="YAML|RUN",
        help="the configuration file, the name of a shipped recipe, or a run's folder: its config.yaml with its best "
        "weights",
    )
    parser.add_argument(
        "-o",
        "--override",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="replace one value of the configuration, e.g. -o Global.epochs=5; may be given many times",
    )


def _certainty(parser: argparse.ArgumentParser) -> None:
    """Add what asks for a package that knows how sure it is."""
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help="measure a temperature on the validation photos, so that probabilities are as often right as they say",
    )
    parser.add_argument(
        "--unsure-at",
        type=float,
        metavar="RATE",
        help="calibrate, and answer `unsure` below a threshold that at most this share (0.05) of the wrongly answered "
        "validation photos passes, or of --none-of-these",
    )
    parser.add_argument("--none-of-these", metavar="DIR", help="photos that show none of the classes, for --unsure-at")


def _integer(low: int, high: int | None = None) -> Callable[[str], int]:
    """Return a reader of whole numbers within the bounds, both included, for argparse's ``type``."""

    def read(text: str) -> int:
        with contextlib.suppress(ValueError):
            if low <= int(text) and (high is None or int(text) <= high):
                return int(text)
        bound = f"{low} and above" if high is None else f"{low} to {high}"
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: a whole number, {bound}")

    return read


def _above_zero(text: str) -> float:
    """Read a finite number above 0, for argparse's ``type``."""
    with contextlib.suppress(ValueError):
        if 0 < float(text) < float("inf"):
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r}; allowed: a number above 0")


def benchmark(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="WHAT")
    train = kinds.add_parser(
        "train",
        help="images/s of a full training step: stock, accelerated, PyTorch",
        epilog="example: ppmobilenet benchmark train --models v2 --batches 8 --threads 2",
    )
    train.add_argument("--models", nargs="+", default=["v2", "v1"], help="v1 to v4, or names of `cost --list`")
    train.add_argument("--batches", nargs="+", type=_integer(1), default=[8, 32], help="images a step")
    train.add_argument("--threads", nargs="+", type=_integer(1), default=[1, 2])
    train.add_argument(
        "--candidates", nargs="+", help="some of: stock accelerated frozen_cached two_processes torch; all by default"
    )
    train.add_argument("--size", type=_integer(32, 4096), default=224, help="height and width of the images")
    train.add_argument("--rounds", type=_integer(1), default=5, help="turns of each candidate")
    data = kinds.add_parser(
        "data",
        help="photos/s of the input pipelines against a plain loop",
        epilog="example: ppmobilenet benchmark data --images photos/",
    )
    data.add_argument("--images", metavar="DIR", help="make the photos from these; default drawn ones")
    data.add_argument("--workers", type=_integer(1), default=2, help="worker processes to compare with one")
    data.add_argument("--rounds", type=_integer(1), default=7, help="turns of each pipeline")
    data.add_argument("--shards", action="store_true", help="tar shards against single files, warm and cold, instead")
    data.add_argument(
        "--indexed",
        type=_integer(1),
        metavar="N",
        help="with --shards: open a made-up index of N photos (70 N bytes)",
    )
    infer = kinds.add_parser(
        "infer",
        help="latency and photos/s of every backend for a package",
        epilog="example: ppmobilenet benchmark infer inference/ --images photos/",
    )
    infer.add_argument("package", help="the exported folder")
    infer.add_argument("--images", metavar="DIR", help="photos, to measure from file to name too")
    infer.add_argument("--threads", nargs="+", type=_integer(1), default=[1, 2])
    infer.add_argument("--rounds", type=_integer(1), default=30, help="timed calls of each backend")


def check_dataset(parser: argparse.ArgumentParser) -> None:
    _config(parser, required=False)
    parser.add_argument(
        "--root",
        metavar="DIR",
        help="the photos' folder; without --list: one folder per class, or train/ and val/ with these",
    )
    parser.add_argument("--list", nargs="+", metavar="FILE", help="list files, the training list first")
    parser.add_argument("--class-num", type=_integer(1), metavar="N", help="labels are 0 to N - 1")
    parser.add_argument("--delimiter", help="between path and label; default a space or a tab")
    parser.add_argument("--lists-only", action="store_true", help="do not open the photos")
    parser.add_argument(
        "--labels", action="store_true", help="look for wrong labels too, by what the photos look like (needs weights)"
    )
    parser.add_argument("--model", default="auto", metavar="NAME", help="for --labels: the network that looks")
    parser.add_argument("--weights", metavar="FILE", help="for --labels: its weights (default: the published ones)")
    parser.add_argument(
        "--fix",
        metavar="OUT",
        help="write the lists without bad and repeated lines, and without suspects of --labels, into this folder",
    )
    parser.add_argument("--strict", action="store_true", help="warnings count as errors")
    parser.add_argument("--html", metavar="FILE", help="write a page with the photos to look at")
    parser.add_argument("--workers", type=_integer(1), metavar="N", help="threads that decode; default one a core")


def choose(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-latency-ms", type=_above_zero, metavar="MS", help="measured with --measure, else published"
    )
    parser.add_argument("--max-size-mb", type=_above_zero, metavar="MB", help="of the weights, million bytes")
    parser.add_argument("--max-madds", type=_above_zero, metavar="M", help="million multiply-adds")
    parser.add_argument("--min-top1", type=_above_zero, metavar="PERCENT", help="published ImageNet accuracy")
    parser.add_argument("--device", default="Snapdragon 855 armv8", help="of the published latency; `list` lists them")
    parser.add_argument("--threads", type=int, default=1, choices=(1, 2, 4), help="of the latency (1)")
    parser.add_argument("--measure", action="store_true", help="export each fp32 network and time it on this machine")
    parser.add_argument("--by", choices=("madds", "size", "latency"), help="what the Pareto front weighs accuracy with")
    parser.add_argument("--plot", metavar="SVG", help="draw accuracy against it into this file")
    parser.add_argument("--csv", metavar="FILE", help="write the list as CSV")


def completion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell; its script is printed")


def configs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="recipes to copy, as listed; none: list them")
    parser.add_argument(
        "-o",
        "--output",
        default=".",
        metavar="PATH",
        help="a folder to copy into (default: this one), or for a single recipe the .yaml to write",
    )


def convert_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="a weight file of any kind and naming, or a folder of them")
    parser.add_argument("--inspect", action="store_true", help="only print what it holds")
    parser.add_argument(
        "--arch", metavar="NAME", help="the network, for example MobileNetV2_x0_5; default: what its shapes say"
    )
    parser.add_argument(
        "--arch-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an argument of the network, e.g. --arch-option divisor=8; may be given many times",
    )
    parser.add_argument("-o", "--output", metavar="DST", help="ends in .pdparams, .npz or .safetensors")
    parser.add_argument("--to", default="paddle", choices=("paddle", "torchvision"), help="key names to write (paddle)")
    parser.add_argument("--scheme", metavar="NAME", help="read SRC by this naming scheme instead of recognising it")
    parser.add_argument(
        "--allow-missing", nargs="+", default=[], metavar="KEY", help="keys that SRC may lack, e.g. out.weight"
    )
    parser.add_argument(
        "--unfold-bn",
        metavar="PHOTOS",
        help="a folder of photos: recalibrate batch norms that were folded away, so that the file can be fine-tuned",
    )


def cost(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", help="one of `ppmobilenet cost --list`, for example MobileNetV2_x0_5")
    parser.add_argument("--list", action="store_true", help="list the models")
    parser.add_argument("--scale", type=float, help="width multiplier, of a model whose name fixes none")
    parser.add_argument("--class-num", type=_integer(0), default=1000, metavar="N", help="classes (1000)")
    parser.add_argument(
        "--resolution", type=_integer(32, 4096), default=224, metavar="PX", help="side of the image (224)"
    )
    parser.add_argument("--batch", type=_integer(1), default=1, metavar="N", help="images at once, for memory (1)")
    parser.add_argument("--bits", type=int, default=32, choices=(8, 16, 32), help="of one value, for memory (32)")
    parser.add_argument(
        "--split",
        type=_integer(1),
        default=1,
        metavar="T",
        help="compute each inverted residual in T slices (MobileNetV2 paper, section 5.1)",
    )
    parser.add_argument("--weights", metavar="FILE", help="load these, to count depthwise filters that are all zero")
    parser.add_argument("--sweep", action="store_true", help="all width multipliers at 128, 160, 192 and 224 px")
    parser.add_argument(
        "--linear-bottleneck", metavar="SVG", help="redraw the MobileNetV2 paper's Figure 1 into this file"
    )
    parser.add_argument("--plot", metavar="SVG", help="with --sweep: draw it into this file")
    parser.add_argument("--csv", metavar="FILE", help="write the layers (or the sweep) as CSV")


def eval(parser: argparse.ArgumentParser) -> None:
    _config(parser)
    parser.add_argument("--random-init", action="store_true", help="evaluate without trained weights")
    parser.add_argument("--no-report", action="store_true", help="write no report.html")


def export_model(parser: argparse.ArgumentParser) -> None:
    _config(parser)
    parser.add_argument(
        "--to",
        default="inference,pdmodel",
        metavar="FORMS",
        help="comma list of inference, pdmodel, onnx, lite-armv8, lite-armv7, lite-x86, lite-armv8-fp16, or all "
        "(default: %(default)s)",
    )
    parser.add_argument("--output", metavar="DIR", help="the folder to write (default: Global.save_inference_dir)")
    parser.add_argument(
        "--softmax",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="give probabilities or logits (default: Arch.infer_add_softmax, and that is true)",
    )
    parser.add_argument(
        "--embed-preprocess",
        choices=("NCHW", "NHWC"),
        help="compute the normalisation inside the graph; its input is then uint8 pixels in this layout",
    )
    parser.add_argument("--int8", action="store_true", help="write the int8 twins of the forms too (see quantize)")
    parser.add_argument(
        "--with-board", action="store_true", help="put the board program's C++ sources into the package (board/)"
    )
    _certainty(parser)
    parser.add_argument("--random-init", action="store_true", help="export without trained weights")


def fit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "photos", metavar="PHOTOS", help="one folder per class; or train/ and val/ with these; or lists"
    )
    parser.add_argument(
        "--to", default="inference", metavar="FORMS", help="forms of the package, as for export (default: %(default)s)"
    )
    parser.add_argument(
        "--model", default="auto", metavar="NAME", help="the network (default: the best that is at hand)"
    )
    parser.add_argument(
        "--minutes", type=_above_zero, default=10.0, metavar="N", help="time that it may take (default: 10)"
    )
    parser.add_argument("--weights", metavar="FILE", help="weights to begin with (default: the published ones)")
    parser.add_argument("--output", metavar="DIR", help="where everything goes (default: output/NAME of the folder)")
    parser.add_argument("--seed", type=_integer(0), default=0, metavar="N", help="of every random choice (default: 0)")
    parser.add_argument(
        "--from",
        dest="earlier",
        metavar="DIR",
        help="go on from an earlier fit: what was learned, the numbers of its classes, what was held out",
    )
    _certainty(parser)


def infer(parser: argparse.ArgumentParser) -> None:
    _config(parser, required=False)
    parser.add_argument("-m", "--model", metavar="DIR", help="an exported package; then no config is needed")
    parser.add_argument(
        "-i",
        "--input",
        metavar="FILE|DIR|camera:N|URL",
        help="a photo, a folder (of photos or shards), a video, a camera (camera:0) or a stream (rtsp://...) (default: "
        "Infer.infer_imgs)",
    )
    parser.add_argument("--infer-list", metavar="TXT", help="a list of paths below the input folder")
    parser.add_argument("--topk", type=_integer(1), help="answers a photo")
    parser.add_argument("--batch-size", type=_integer(1), help="photos a run of the model")
    parser.add_argument(
        "--save", metavar="FILE", help="write the answers: .jsonl (a line a photo), .csv, or .json (PaddleClas's list)"
    )
    parser.add_argument("--jsonl", action="store_true", help="print a line of JSON an answer, as it comes")
    parser.add_argument("--smooth", type=_integer(1), metavar="N", help="video: the mean answer of the last N frames")
    parser.add_argument("--fps", type=_above_zero, metavar="F", help="video: answer at most F frames a second")
    parser.add_argument("--frames", type=_integer(1), metavar="N", help="video: end after N answers")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted --save answers.jsonl")
    parser.add_argument("--backend", default="auto", help="auto, openvino, paddle, onnxruntime or lite (with -m)")
    parser.add_argument("--threads", type=_integer(1), help="threads for one inference (with -m; default: all)")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "int8"), help="with -m (default: %(default)s)")
    parser.add_argument("--random-init", action="store_true", help="with -c: run without trained weights")
    parser.add_argument(
        "--engine",
        default="here",
        choices=("here", "ray"),
        help="ray: on a Ray cluster, or on this machine's processors through Ray; -i may then be a folder of Parquet, "
        "too, and --save is a folder, answers.parquet or answers.jsonl, with a file a part",
    )
    parser.add_argument(
        "--workers", type=_integer(1), help="with --engine ray: processes (default: one a processor, of one thread)"
    )


def pack(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="LIST|TARS", help="a list file, or a folder of tars that lack an index")
    parser.add_argument("out", metavar="OUT", nargs="?", help="with LIST: the folder of the shards, made now")
    parser.add_argument("--root", metavar="DIR", help="where the list's paths start (default: the list's folder)")
    parser.add_argument("--shard-mb", type=_above_zero, default=512.0, metavar="MB", help="of a tar (default: 512)")
    parser.add_argument(
        "--seed", type=_integer(0), default=0, metavar="N", help="of the order in which photos are packed (default: 0)"
    )
    parser.add_argument("--in-order", action="store_true", help="pack in the list's order, instead of shuffled")
    parser.add_argument("--delimiter", help="between path and label; default a space or a tab")
    parser.add_argument("--unlabelled", action="store_true", help="the list holds a path a line, and no labels")
    parser.add_argument(
        "--workers", type=_integer(1), metavar="N", help="threads that read and decode; default one a core"
    )


def quantize(parser: argparse.ArgumentParser) -> None:
    _config(parser)
    parser.add_argument("--method", default="ptq", choices=("ptq", "qat"), help="after training, or by fine-tuning")
    parser.add_argument("--algorithm", default="hist", help="activation ranges: hist, KL, abs_max, mse")
    parser.add_argument("--photos", type=_integer(1), default=64, help="photos to calibrate on (default: %(default)s)")
    parser.add_argument("--images", metavar="DIR", help="calibrate on this folder instead of the training list")
    parser.add_argument(
        "--keep-float",
        action="append",
        default=[],
        metavar="PATTERN",
        help="layers that stay float, by name or weight; gates: those of squeeze-excitation",
    )
    parser.add_argument("--max-layer-error", type=_above_zero, help="layers with a larger relative error stay float")
    parser.add_argument("--epochs", type=_integer(1), default=2, help="of quantization-aware fine-tuning")
    parser.add_argument("--lr", type=_above_zero, default=1e-4, help="of quantization-aware fine-tuning")
    parser.add_argument("--to", default="pdmodel,onnx,lite-armv8", metavar="FORMS", help="as for export")
    parser.add_argument(
        "--with-board", action="store_true", help="put the board program's C++ sources into the package (board/)"
    )
    parser.add_argument("--output", metavar="DIR", help="the folder to write (default: Global.save_inference_dir)")
    parser.add_argument("--limit", type=_integer(1), help="validation photos at most")
    _certainty(parser)


def report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="RUN_OR_PACKAGE", help="a run's Global.output_dir, or an exported package")
    parser.add_argument("-o", "--output", metavar="DIR", help="where report.html and its figures go")
    parser.add_argument("--untimed", action="store_true", help="do not measure a package's latency here")


def serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("package", help="the exported folder")
    parser.add_argument(
        "--host", default="127.0.0.1", help="where to listen (default: %(default)s, this machine alone; all: 0.0.0.0)"
    )
    parser.add_argument("--port", type=_integer(0, 65535), default=8000, help="0: a free one (default: %(default)s)")
    parser.add_argument("--certificate", metavar="PEM", help="for https, which a phone's live camera needs")
    parser.add_argument("--key", metavar="PEM", help="of the certificate")
    parser.add_argument("--workers", type=_integer(1), default=1, help="processes (default: %(default)s)")
    parser.add_argument("--max-mb", type=_above_zero, default=20.0, help="of a photo (default: %(default)s)")
    parser.add_argument(
        "--max-megapixels", type=_above_zero, default=50.0, help="of a photo, by its header (default: %(default)s)"
    )
    parser.add_argument(
        "--timeout", type=_above_zero, default=10.0, metavar="SECONDS", help="for a request (default: %(default)s)"
    )
    parser.add_argument(
        "--at-once", type=_integer(1), help="photos in work at the same time (default: one a processor)"
    )
    parser.add_argument(
        "--waiting",
        type=_integer(0),
        default=64,
        help="photos in line beside; more get 503 (default: %(default)s)",
    )
    parser.add_argument("--topk", type=_integer(1), help="answers a photo (default: the package's)")
    parser.add_argument("--backend", default="auto", help="auto, openvino, paddle, onnxruntime or lite")
    parser.add_argument("--threads", type=_integer(1), help="threads of the engines (default: all)")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "int8"), help="(default: %(default)s)")


def split_dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", help="the folder that holds one folder per class, or train/ and val/ with these")
    parser.add_argument("-o", "--output", metavar="DIR", help="where the lists go; default the folder itself")
    parser.add_argument("--val", type=float, default=0.2, metavar="PART", help="part for validation (0.2)")
    parser.add_argument("--seed", type=int, default=0, help="of the drawing (0)")


def train(parser: argparse.ArgumentParser) -> None:
    _config(parser)
    parser.add_argument(
        "--random-init", action="store_true", help="train without weights what keeps a part of them (Arch.freeze_norm)"
    )
    parser.add_argument("--no-report", action="store_true", help="write no report.html at the end")


def verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("package", help="the exported folder")
    parser.add_argument("--images", metavar="DIR", help="photos to run through every form, besides the golden one")
    parser.add_argument("-c", "--config", metavar="YAML", help="compare with the trained model of this config too")
    parser.add_argument(
        "-o", "--override", action="append", default=[], metavar="KEY=VALUE", help="replace one value of the config"
    )
    parser.add_argument("--checkpoint", metavar="FILE", help="its weights (default: Global.pretrained_model)")
    parser.add_argument("--limit", type=_integer(1), default=64, help="photos at most (default: %(default)s)")


def verify_zoo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="rows of the catalogue, e.g. MobileNetV2_ssld; all")
    parser.add_argument("--imagenet", metavar="DIR", help="with val_list.txt: measure the accuracy, too")
    parser.add_argument("--device", default="cpu", help="to evaluate on (cpu)")
    parser.add_argument("--output", metavar="FILE", help="add the results to this file instead of the catalogue's")
    parser.add_argument("--list", action="store_true", help="only print the catalogue")
