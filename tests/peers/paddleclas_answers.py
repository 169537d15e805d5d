"""PaddleClas's own predictor (deploy/python/predict_cls.py) on a package: a line of JSON a photo.

Usage: ``paddleclas_answers.py PACKAGE USE_ONNX PHOTO...``
"""

import importlib.util
import json
import sys
import types

import cv2

# paddleclas/__init__.py imports the training program and its pinned dependencies: enter an empty one in its place
package = types.ModuleType("paddleclas")
package.__path__ = list(importlib.util.find_spec("paddleclas").submodule_search_locations)
sys.modules["paddleclas"] = package

from paddleclas.deploy.python.predict_cls import ClsPredictor  # noqa: E402
from paddleclas.deploy.utils.config import get_config  # noqa: E402

folder, use_onnx, *photos = sys.argv[1:]
GLOBAL = {
    "inference_model_dir": folder,
    "use_onnx": use_onnx,
    "batch_size": 1,
    "use_gpu": False,
    "enable_mkldnn": True,
    "cpu_num_threads": 2,
    "use_fp16": False,
    "ir_optim": True,
    "use_tensorrt": False,
    "enable_profile": False,
}
overrides = [f"Global.{key}={value}" for key, value in GLOBAL.items()] + ["PostProcess.main_indicator=Topk"]
predictor = ClsPredictor(get_config(f"{folder}/inference.yml", overrides=overrides, show=False))
for photo in photos:
    (answer,) = predictor.predict(cv2.imread(photo)[:, :, ::-1])
    print(json.dumps({key: answer[key] for key in ("class_ids", "scores", "label_names")}))
