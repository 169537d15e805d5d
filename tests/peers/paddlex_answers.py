"""PaddleX's own predictor on a package, in its own environment: a line of JSON a photo.

Usage: ``paddlex_answers.py PACKAGE ENGINE PHOTO...``
"""

import json
import sys
from pathlib import Path

import yaml
from paddlex import create_model

folder, engine, *photos = sys.argv[1:]
name = yaml.safe_load((Path(folder) / "inference.yml").read_text(encoding="utf-8"))["Global"]["model_name"]
model = create_model(model_name=name, model_dir=folder, engine=engine)
for photo in photos:
    (answer,) = model.predict(photo, batch_size=1)
    print(
        json.dumps(
            {
                "class_ids": answer["class_ids"].ravel().tolist(),
                "scores": [float(score) for score in answer["scores"]],
                "label_names": list(answer["label_names"]),
            }
        )
    )
