"""``Global.data: DIR`` sets all paths of a data set in one place: photos, lists, class names."""

from __future__ import annotations

from pathlib import Path

from ppmobilenet.config.fields import parameters
from ppmobilenet.config.parts import SHARDS, Dataset
from ppmobilenet.config.reading import Document

KEY = ("Global", "data")
# names of the lists and of the label file: ours and PaddleClas's, PaddleX's; of the folders of classes
LISTS = (("train_list.txt", "val_list.txt", "label_list.txt"), ("train.txt", "val.txt", "label.txt"))
FOLDERS = ("train", "val")
INDEX = "index.json"  # in a folder of shards (ppmobilenet.photos.shards, which a configuration need not import)


def take_shards(document: Document) -> None:
    """Have the data sets be of shards where ``Global.data`` holds these, before their keys are checked.

    What only single files can be asked is taken out where a file says it, and refused by the check where it is typed.
    """
    folder = document.get(KEY)
    if not isinstance(folder, str) or not _holds_shards(Path(folder).expanduser()):
        return
    own = {*parameters(Dataset.by, SHARDS), *Dataset.known(), "name"}
    for side in ("Train", "Eval"):
        path = ("DataLoader", side, "dataset")
        dataset = document.get(path)
        if not isinstance(dataset, dict) or document.typed((*path, "name")):
            continue
        document.put((*path, "name"), SHARDS, document.where(KEY))
        for key in [key for key in dataset if key not in own and not document.typed((*path, key))]:
            del dataset[key]
            document.forget((*path, key))


def _holds_shards(folder: Path) -> bool:
    listed = any((folder / names[0]).is_file() for names in LISTS)
    return not listed and all((folder / name / INDEX).is_file() for name in FOLDERS)


def settle_data(document: Document) -> None:
    """Put in the paths that ``Global.data`` means; one that is typed beside it stays.

    Lists in the folder are used; without them its folders ``train`` and ``val`` are, one folder per class in each, or
    the shards that ``ppmobilenet pack`` made.
    """
    folder = document.get(KEY)
    if not folder:
        return
    root, place = Path(str(folder)), document.where(KEY)
    here = root.expanduser()
    lists = next((names for names in LISTS if (here / names[0]).is_file()), LISTS[0])
    in_folders = not (here / lists[0]).is_file() and all((here / name).is_dir() for name in FOLDERS)
    in_shards = _holds_shards(here)
    meant: dict[tuple, str | None] = {("Infer", "infer_imgs"): str(root / FOLDERS[1] if in_shards else root)}
    for side, name, sub in zip(("Train", "Eval"), lists, FOLDERS):
        dataset = ("DataLoader", side, "dataset")
        if document.get(dataset):
            meant[(*dataset, "image_root")] = str(root / sub if in_folders else root)
            meant[(*dataset, "cls_label_path")] = None if in_folders else str(root / name)
    if document.get(("Infer", "PostProcess")):
        # pack copies the names that lie beside a list
        places = (lists[2], f"{FOLDERS[0]}/{lists[2]}")
        named = next((place for place in places if (here / place).is_file()), None)
        meant["Infer", "PostProcess", "class_id_map_file"] = str(root / named) if named else None
    for path, value in meant.items():
        if not document.typed(path) and (document.get(path[:1]) or path[0] != "Infer"):
            document.put(path, value, place)
    del document.tree["Global"]["data"]  # what is dumped says the paths themselves, and is read back as they are
    document.forget(KEY)
