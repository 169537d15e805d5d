"""Installation: ``pip install 'ppmobilenet[cpu]'``. Nothing is pinned here; constraints.txt holds the tested set."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (HERE / "ppmobilenet" / "__init__.py").read_text(encoding="utf-8").splitlines()
    if line.startswith("__version__")
)

# numpy 2.4 makes float(tensor of one element) an error in Paddle 3.3
NUMPY = "numpy>=1.24,<2.4"

EXTRAS = {
    # simplejpeg decodes at reduced scale for training; without it OpenCV does
    "cpu": ["paddlepaddle>=2.6.2", "simplejpeg>=1.7"],
    "gpu": ["paddlepaddle-gpu>=2.6.2", "simplejpeg>=1.7"],
    # a board runs ONNX with this alone
    "onnx": ["onnxruntime>=1.17"],
    # to write ONNX, float and int8
    "export": ["onnxruntime>=1.17", "onnx>=1.15", "paddle2onnx>=2.0", "packaging", "ml-dtypes"],
    "visualdl": ["visualdl>=2.5"],
    "tensorboard": ["tensorboardX>=2.5"],
    # `ppmobilenet serve`
    "serve": ["fastapi>=0.110", "uvicorn>=0.29", "python-multipart>=0.0.9"],
    # the converter's wheels end at CPython 3.10; from a newer Python, `--to lite-...` makes an environment of its own
    "lite": ['paddlelite>=2.13rc0; python_version<"3.11"'],
    # `ppmobilenet fit` solves for its classifier with the one and finds wrong labels with the other
    "fit": ["scikit-learn>=1.3", "cleanlab>=2.6"],
    # `ppmobilenet infer --engine ray`
    "ray": ["ray[data]>=2.60", "pyarrow>=14"],
    "demo": ["scikit-learn"],
    "dev": [
        "pytest>=7",
        "pytest-xdist",
        "hypothesis",
        "ruff",
        "scikit-learn",
        "cleanlab",
        "pdoc",
        "setuptools>=64",
        "webdataset",
    ],
}

setup(
    name="ppmobilenet",
    version=VERSION,
    description="MobileNets for PaddlePaddle, from photos to a model that answers the same on a board",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.9",
    # the recipes stay at the checkout's top and go into the wheel as ppmobilenet/configs (see config/shipped.py)
    packages=[*find_packages(include=["ppmobilenet", "ppmobilenet.*"]), "ppmobilenet.configs"],
    package_dir={"ppmobilenet.configs": "configs"},
    package_data={
        "ppmobilenet": [f"**/*.{suffix}" for suffix in ("txt", "csv", "json", "cc", "cpp", "h", "hpp", "html")],
        "ppmobilenet.configs": ["**/*.yaml"],
    },
    install_requires=[NUMPY, "opencv-python-headless>=4.11", "PyYAML>=5.4", "tqdm>=4.60", "Pillow>=9.1"],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["ppmobilenet = ppmobilenet.cli:main"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
