"""What a user reads: the key as typed, its place, what is allowed, the nearest known key."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ppmobilenet.config import load_config
from ppmobilenet.errors import UserError

# override -> words that the message must hold
WRONG_OVERRIDES = [
    ("Global.epoch=5", ["-o Global.epoch=5", "unknown key Global.epoch", "did you mean Global.epochs?"]),
    ("Globl.epochs=5", ["unknown key Globl", "did you mean Global?"]),
    ("global.epochs=5", ["did you mean Global?"]),
    ("AMP.use_apm=True", ["did you mean AMP.use_amp?"]),
    ("EMA.dekay=0.9", ["unknown key EMA.dekay", "EMA.decay"]),
    ("DataLoader.Tran.sampler.batch_size=3", ["unknown key DataLoader.Tran", "DataLoader.Train"]),
    ("DataLoader.Train.loader.batch_size=3", ["DataLoader.Train.sampler.batch_size"]),
    ("Global.epochs=five", ["Global.epochs is 'five'", "an integer, at least 0"]),
    ("Global.epochs=0", ["at least 1"]),
    ("Global.epochs=1.5", ["an integer"]),
    ("Global.epochs=True", ["an integer"]),
    ("Global.epochs=max", ["'max'"]),
    ("Global.epochs='5'", ["'5'", "an integer"]),
    ("Global.eval_during_train=1", ["True or False"]),
    ("Global.eval_during_train='True'", ["leave the quotation marks away"]),
    ("Global.device=gpux", ["'gpux'", "cpu, gpu"]),
    ("Global.image_shape=224", ["[3 of an integer"]),
    ("Global.image_shape=(3,224,224)", ["write a list: [3,224,224]"]),
    ("Global.epochs=5,Global.seed=1", ["one -o for each key"]),
    ("Global.on_nan=ignore", ["one of stop, rollback"]),
    ("Global=5", ["Global is a section"]),
    ("Global.eval_mode=retrieval", ["classification"]),
    ("Global.train_mode=progressive", ["does not do"]),
    ("Global.epochs.x=3", ["Global.epochs is 120", "no inner key 'x'"]),
    ("Global.epochs", ["KEY=VALUE", "-o Global.epochs=5"]),
    ("=5", ["KEY=VALUE"]),
    ("Global..epochs=5", ["KEY=VALUE"]),
    ("Arch.name=MobileNetV3", ["unknown model 'MobileNetV3'", "did you mean 'MobileNetV2'?", "MobileNetV1_x0_25"]),
    ("Arch.name=__import__('os')", ["unknown model"]),
    ("Arch.name=dir", ["unknown model 'dir'"]),
    ("Arch.name=", ["Arch has no name"]),
    ("Arch.scal=0.5", ["unknown key Arch.scal", "did you mean Arch.scale?", "MobileNetV1"]),
    ("Arch.scale=half", ["Arch.scale is 'half'", "a number"]),
    ("Arch.Backbone={name: ResNet50}", ["recognition networks"]),
    ("Optimizer.lr.learning_rate=dir", ["Optimizer.lr.learning_rate is 'dir'", "a number"]),
    ("Optimizer.lr.learning_rate=.inf", ["a number"]),
    ("Optimizer.regularizer.name=L3", ["one of L1, L2"]),
    ("DataLoader.Eval.dataset.transform_ops.7.CropImage.size=3", ["a list of 4", "no entry '7'", "2 CropImage"]),
    ("DataLoader.Eval.dataset.transform_ops.-1.CropImage.size=3", ["no entry '-1'"]),
    ("DataLoader.Eval.dataset.transform_ops.CropImage.size=3", ["write DataLoader.Eval.dataset.transform_ops.2."]),
    ("DataLoader.Eval.dataset.transform_ops=5", ["is a list of names"]),
    ("DataLoader.Eval.dataset.transform_ops=[{A: {}, B: {}}]", ["one name with its keys", "indentation"]),
    ("Arch.freeze=[conv", ["not valid YAML"]),
    ("Arch.freeze=!!python/name:os.system", ["never runs code"]),
    ("Arch.freeze=[!!python/name:os.system a]", ["!!python/name:os.system", "never runs code"]),
    (
        "DataLoader.Eval.dataset.transform_ops.2.CropImage.size=128",
        ["128x128", "224x224", "a.yaml:", "-o Global.resolution=128"],
    ),
    ("DataLoader.Eval.dataset.transform_ops.2.CropImage.size=288", ["resize_short is 256, smaller than the crop 288"]),
    ("Global.image_shape=[3, 192, 192]", ["192x192", "224x224", "Global.image_shape"]),
]


@pytest.mark.parametrize(("override", "words"), WRONG_OVERRIDES, ids=[o for o, _ in WRONG_OVERRIDES])
def test_wrong_override(load, override, words):
    with pytest.raises(UserError) as caught:
        load(override)
    for word in words:
        assert word in str(caught.value)


# (text in the recipe, what the user wrote instead, words of the message); `@N` in a word is the line of that text
WRONG_FILES = [
    ("epochs: 120", "epoch: 120", ["@:", "unknown key Global.epoch", "Global.epochs"]),
    (
        "shuffle: True",
        "shufle: True",
        ["@:", "did you mean DataLoader.Train.sampler.shuffle?", "DistributedBatchSampler"],
    ),
    ("batch_size: 64", "batch_size: 64 images", ["@:", "DataLoader.Train.sampler.batch_size is '64 images'"]),
    ("epochs: 120", "epochs: 120\n  epochs: 90", ["Global.epochs is given twice", "first at"]),
    ("  epochs: 120", "\tepochs: 120", ["@:", "a tab", "indent with spaces"]),
    ("  epochs: 120", "  epochs: [120", ["not valid YAML"]),
    ("  epochs: 120", "  epochs: !!python/object/apply:os.system ['true']", ["@:", "never runs code"]),
    ("  epochs: 120", "  epochs: !Custom 3", ["@:", "!Custom"]),
    ("  epochs: 120", "  epochs: *nothing", ["@:", "undefined alias"]),
    ("  epochs: 120", "  ? [a]\n  : 120", ["a key must be a word"]),
    ("  epochs: 120", "  <<: 5\n  epochs: 120", ["<<: takes a mapping"]),
    ("  epochs: 120", "  epochs: 120\x07", ["@:", "U+0007"]),
    ("name: MobileNetV1", "class_count: 10", ["Arch has no name"]),
    ("        - CropImage:\n            size: 224", "        - CropImage:\n          size: 224", ["indentation"]),
]


@pytest.mark.parametrize(("old", "new", "words"), WRONG_FILES, ids=[new for _, new, _ in WRONG_FILES])
def test_wrong_file(load, line_of, old, new, words):
    with pytest.raises(UserError) as caught:
        load(replace={old: new})
    for word in words:
        assert word.replace("@", f"a.yaml:{line_of(old)}") in str(caught.value)


D, R, C, N, T = (
    *("{DecodeImage: {to_rgb: True}}", "{ResizeImage: {size: 224}}", "{CropImage: {size: 224}}"),
    *("{NormalizeImage: {order: ''}}", "{ToCHWImage: {}}"),
)
# (list, the transform that is named, words)
CHAINS = [
    ([D, R], "", "result is uint8 [H, W, 3]|put a NormalizeImage behind ResizeImage"),
    ([D, R, N, N], "3.NormalizeImage", "takes uint8 [H, W, 3] and gets float32|leave one NormalizeImage out"),
    ([C, D, N], "0.CropImage", "gets an undecoded photo|move DecodeImage in front"),
    ([R, N], "0.ResizeImage", "there is no DecodeImage"),
    ([D, D, R, N], "1.DecodeImage", "leave one DecodeImage out"),
    ([D, R, N, T, T], "4.ToCHWImage", "gets float32 [3, H, W] from ToCHWImage|leave one ToCHWImage out"),
    ([D, T, R, N], "2.ResizeImage", "move it in front of ToCHWImage"),
    ([D, R, N.replace("''", "chw")], "2.NormalizeImage", "give it order: ''"),
    ([D, R, T, N], "3.NormalizeImage", "give it order: 'chw'"),
    ([D.replace("True", "True, channel_first: True"), R, N], "1.ResizeImage", "channel_first: False"),
    ([D, R, N, "{AutoAugment: {}}"], "3.AutoAugment", "move it in front of NormalizeImage"),
    ([D, R, "{RandomErasing: {}}", N], "2.RandomErasing", "move it behind NormalizeImage"),
    ([D, R, N, "{ResizeImage: {size: 224, backend: pil}}"], "3.ResizeImage", "takes uint8"),
    ([D, R, N.replace("''", "'', output_fp16: True")], "", "float16|leave output_fp16"),
    ([D, R, N.replace("''", "'', channel_num: 4")], "", "[H, W, 4]|leave channel_num"),
    ([D, R, N.replace("''", "'', std: [0, 1, 1]")], "2.NormalizeImage", "divides by zero"),
]


@pytest.mark.parametrize("key", ["DataLoader.Train.dataset.transform_ops", "Infer.transforms"])
@pytest.mark.parametrize(("ops", "place", "words"), CHAINS)
def test_a_chain_that_cannot_work_names_its_step(load, key, ops, place, words):
    with pytest.raises(UserError) as caught:
        load(f"{key}=[{', '.join(ops)}]", "Global.resolution=224")
    for word in (f"{key}.{place}" if place else f"{key}: ", *words.split("|")):
        assert word in str(caught.value)


def test_a_chain_that_works_is_no_mistake_and_odd_numbers_are_said(load):
    key = "DataLoader.Train.dataset.transform_ops"
    for ops in (
        [D, R, "{AutoAugment: {}}", N, "{RandomErasing: {}}", "{RandFlipImage: {}}"],
        [D, R, N, C, T],
        [D, R, T, N.replace("''", "chw")],
        [D, "{ResizeImage: {size: 224, backend: pil}}", "{Pad: {padding: 4}}", "{RandomCropImage: {size: 224}}", N],
    ):
        load(f"{key}=[{', '.join(ops)}]")
    config = load(f"{key}=[{D}, {R}, {N.replace(chr(39) * 2, chr(39) * 2 + ', scale: 1.0')}]")
    assert any(f"{key}.2.NormalizeImage" in note and "span" in note for note in config.notes)


def test_every_mistake_is_listed(load):
    with pytest.raises(UserError) as caught:
        load("Global.epoch=5", replace={"\nAMP:": "\nAmp:"})
    assert "2 mistakes" in str(caught.value)
    assert "Global.epochs?" in str(caught.value) and "did you mean AMP?" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["empty"]),
        ("# nothing\n", ["empty"]),
        ("- a\n- b\n", ["not a mapping"]),
        ("just words", ["not a mapping"]),
        ("a: 1\n---\nb: 2\n", ["not valid YAML"]),
        ("Global:\n  output_dir: caf\xe9\n".encode("latin-1"), ["a.yaml:2", "0xE9", "UTF-8"]),
        (b"\xff\xfeG\x00l\x00", ["UTF-8"]),
        (b"\x00" * 64, ["U+0000"]),
        ("[" * 5000, ["nested too deeply"]),
        ("a: " + "x" * 1_100_000, ["1,000,000 bytes"]),
        ("a: &a [1]\nb: &b " + "[*a]" * 1 + "\nc: &c [*c]", ["aliases"]),
        (
            "a: &a [1,1,1,1,1,1,1,1,1]\n"
            + "".join(f"{k}: &{k} [{','.join(['*' + p] * 9)}]\n" for p, k in zip("abcdefgh", "bcdefghi")),
            ["aliases of this file expand"],
        ),
    ],
)
def test_hostile_file(load, text, words):
    with pytest.raises(UserError) as caught:
        load(text=text)
    for word in words:
        assert word in str(caught.value)


def test_wrong_path(tmp_path):
    (tmp_path / "MobileNetV2.yaml").write_text("Arch: {name: MobileNetV2}")
    with pytest.raises(UserError, match="no such configuration file(.|\n)*MobileNetV2.yaml"):
        load_config(tmp_path / "MobilNetV2.yaml")
    with pytest.raises(UserError, match="folder(.|\n)*MobileNetV2.yaml"):
        load_config(tmp_path)
    with pytest.raises(UserError, match="no such configuration file"):
        load_config(tmp_path / "no" / "folder.yaml")


def test_anchors_and_merges_work(load, line_of):
    config = load(
        replace={
            "    loader:\n": "    loader: &loader\n",
            "    loader:\n      num_workers: 4\n      use_shared_memory: True\n\nInfer": (
                "    loader: {<<: *loader, num_workers: 2}\n\nInfer"
            ),
        }
    )
    assert config["DataLoader"]["Eval"]["loader"] == {"num_workers": 2, "use_shared_memory": True}
    assert config.where("DataLoader.Eval.loader.use_shared_memory").endswith(f":{line_of('use_shared_memory')}")


def test_ignored_keys_are_reported_once(load):
    assert not load("Global.print_mem_info=False", "Global.use_dali=False").notes  # asks for nothing
    assert "Global.use_dali" in load("Global.use_dali=True").notes[0]
    notes = load("Global.print_mem_info=True", "Global.uniform_output_enabled=True").notes
    assert len(notes) == 2 and "Global.print_mem_info" in notes[0] and "-o " in notes[0]


def test_training_at_another_size_is_noted(load):
    (note,) = load("DataLoader.Train.dataset.transform_ops.1.RandCropImage.size=160").notes
    assert "160x160" in note and "224x224" in note


def test_resolution_sets_every_size(load):
    config = load("Global.resolution=160")
    ops = config["DataLoader"]["Eval"]["dataset"]["transform_ops"]
    assert ops[1] == {"ResizeImage": {"resize_short": 183}}  # 160 * 256 / 224
    assert ops[2] == {"CropImage": {"size": 160}} == config["Infer"]["transforms"][2]
    assert config["DataLoader"]["Train"]["dataset"]["transform_ops"][1] == {"RandCropImage": {"size": 160}}
    assert config["Global"]["image_shape"] == (3, 160, 160)
    assert config.where("Global.image_shape") == "-o Global.resolution=160"


def test_resolution_and_another_override_contradict(load):
    crop = "DataLoader.Eval.dataset.transform_ops.2.CropImage.size"
    assert load("Global.resolution=160", f"{crop}=160")
    with pytest.raises(UserError, match="CropImage.size is 192, but Global.resolution is 160"):
        load("Global.resolution=160", f"{crop}=192")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=st.sampled_from(
        ["Global", "Global.epochs", "Arch.freeze", "Metric.Eval.0", "DataLoader.Eval.dataset.transform_ops.1", "Loss"]
    )
    | st.text(max_size=30),
    value=st.sampled_from(["[[{a: b}]]", "{}", "[]", "null", "{name: {}}", "[null]", "{0: 1}"]) | st.text(max_size=30),
)
def test_only_user_errors_escape_overrides(load, key, value):
    try:
        load(f"{key}={value}")
    except UserError:
        pass


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_only_user_errors_escape_yaml(load, recipe, data):
    lines = recipe.splitlines()
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(lines) - 1))
        edit = data.draw(st.sampled_from(["drop", "indent", "outdent", "replace", "value"]))
        if edit == "drop":
            lines[at] = ""
        elif edit == "indent":
            lines[at] = "  " + lines[at]
        elif edit == "outdent":
            lines[at] = lines[at][2:]
        elif edit == "replace":
            lines[at] = data.draw(st.text(max_size=20))
        else:
            values = st.sampled_from(["[]", "{}", "null", "[{}]", "- 1", "{a: [1]}", "1e400"]) | st.text(max_size=12)
            lines[at] = lines[at].split(":")[0] + ": " + data.draw(values)
    try:
        load(text="\n".join(lines).encode("utf-8", "surrogatepass"))
    except UserError:
        pass
