"""NVIDIA DALI as the reader of training photos: they are decoded, resized and normalised on the GPU.

``Global.use_dali: True``, as PaddleClas has it. Order, crops and flips are drawn as in the other pipelines, so a sample
has the same view; the pixels are DALI's. Not measured: it was written without a GPU at hand.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ppmobilenet.data.loader import Batch, Loader
from ppmobilenet.data.transforms import RandCropImage, RandFlipImage, build_transforms
from ppmobilenet.data.worker import generator
from ppmobilenet.errors import DataError, UserError
from ppmobilenet.photos.decode import pixel_size, read_bytes
from ppmobilenet.photos.jpeg import exif_orientation
from ppmobilenet.photos.operators import DecodeImage, NormalizeImage


class DaliLoader(Loader):
    """A :class:`Loader` whose ``Batch.images`` are Paddle tensors on the GPU.

    Raises:
        UserError: DALI is not installed, there is no GPU, or a transform is none that is done here.
    """

    def __init__(self, dataset, sampler, *, device_id: int = 0, num_workers: int = 2, **kwargs):
        dali = _dali()
        super().__init__(dataset, sampler, **kwargs)
        decode, self._crop, self._flip, normalize = _four(dataset.transform_ops)
        if self._batch_transforms:
            raise UserError("mixing photos is not done with DALI", where="Global.use_dali", hint="leave use_dali out")
        self._feed: tuple = ()
        width, height = self._crop.size

        @dali.pipeline_def(batch_size=sampler.batch_size, num_threads=max(1, num_workers), device_id=device_id)
        def pipeline():
            fn, types = dali.fn, dali.types
            data, start, size, mirror = fn.external_source(source=lambda: self._feed, num_outputs=4, batch=True)
            kind = types.RGB if decode.to_rgb else types.BGR
            images = fn.decoders.image_slice(
                data,
                start,
                size,
                device="mixed",
                output_type=kind,
                axis_names="WH",
                normalized_anchor=False,
                normalized_shape=False,
            )
            images = fn.resize(images, resize_x=width, resize_y=height, interp_type=types.INTERP_LINEAR)
            scale = 1 / float(normalize.scale)
            return fn.crop_mirror_normalize(
                images,
                mirror=mirror,
                dtype=types.FLOAT,
                output_layout="CHW",
                mean=(normalize.mean.ravel() * scale).tolist(),
                std=(normalize.std.ravel() * scale).tolist(),
            )

        try:
            self._pipeline = pipeline(exec_pipelined=False, exec_async=False)
            self._pipeline.build()
        except RuntimeError as error:
            raise UserError(
                f"NVIDIA DALI cannot start: {str(error).splitlines()[0]}",
                where="Global.use_dali",
                hint="is there an NVIDIA GPU? nvidia-smi lists them; or leave use_dali out",
            ) from error

    def __iter__(self) -> Iterator[Batch]:
        import paddle

        samples = self.dataset.samples
        for task in self._tasks():
            kept, rows = [], []
            for index, times, path in zip(task.indices, task.times, task.paths):
                try:
                    rows.append(self._row(path, generator(task.seed, task.epoch, index, times)))
                    kept.append(index)
                except DataError as error:
                    self._fault(index, str(error))
            if not rows:
                raise DataError("none of the photos of a batch can be read", where=samples.where(task.indices[0]))
            self._feed = tuple(list(column) for column in zip(*rows))
            (images,) = self._pipeline.run()
            indices = np.asarray(kept, np.int64)
            tensor = paddle.utils.dlpack.from_dlpack(images.as_tensor().__dlpack__())
            yield Batch(tensor, samples.labels[indices].astype(np.int64), indices)

    def _row(self, path: str, rng: np.random.Generator) -> tuple:
        data = read_bytes(path)
        size = pixel_size(data)
        if not size or 0 in size:
            raise DataError("DALI's reader does not know the size of this photo", where=path, hint="use_dali: False")
        width, height = size[::-1] if exif_orientation(data) > 4 else size
        left, top, w, h = self._crop.box(width, height, rng)
        mirror = np.int32(self._flip is not None and rng.random() < 0.5)
        numbers = (np.array([left, top], np.float32), np.array([w, h], np.float32))
        return np.frombuffer(data, np.uint8), *numbers, mirror


def _dali():
    """Return the package, or say what is missing."""
    try:
        from nvidia import dali
        from nvidia.dali import fn, types  # noqa: F401
    except ImportError as error:
        raise UserError(
            "NVIDIA DALI is not installed",
            where="Global.use_dali",
            hint="pip install nvidia-dali-cuda120 on a machine with an NVIDIA GPU, or leave use_dali out: "
            "DataLoader.Train.pipeline: fast reads quickly on the CPU",
        ) from error
    return dali


def _four(ops) -> tuple[DecodeImage, RandCropImage, RandFlipImage | None, NormalizeImage]:
    built = build_transforms(ops).transforms
    kinds = [type(t) for t in built]
    flips = kinds.count(RandFlipImage)
    wanted = [DecodeImage, RandCropImage, *[RandFlipImage] * flips, NormalizeImage]
    if kinds != wanted or flips > 1 or (flips and built[2].flip_code != 1):
        raise UserError(
            "with DALI the training transforms are " + ", ".join(k.__name__ for k in kinds),
            where="DataLoader.Train.dataset.transform_ops",
            allowed="DecodeImage, RandCropImage, RandFlipImage (flip_code 1), NormalizeImage",
            hint="leave use_dali out",
        )
    return built[0], built[1], built[2] if flips else None, built[-1]
