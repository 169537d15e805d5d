"""``Global.data: DIR`` sets all paths of a data set in one place: photos, lists, class names."""

from __future__ import annotations

from pathlib import Path

from ppmobilenet.config.reading import Document

KEY = ("Global", "data")
# names of the lists and of the label file: ours and PaddleClas's, PaddleX's; of the folders of classes
LISTS = (("train_list.txt", "val_list.txt", "label_list.txt"), ("train.txt", "val.txt", "label.txt"))
FOLDERS = ("train", "val")


def settle_data(document: Document) -> None:
    """Put in the paths that ``Global.data`` means; one that is typed beside it stays.

    Lists in the folder are used; without them its folders ``train`` and ``val`` are, one folder per class in each.
    """
    folder = document.get(KEY)
    if not folder:
        return
    root, place = Path(str(folder)), document.where(KEY)
    here = root.expanduser()
    lists = next((names for names in LISTS if (here / names[0]).is_file()), LISTS[0])
    in_folders = not (here / lists[0]).is_file() and all((here / name).is_dir() for name in FOLDERS)
    meant: dict[tuple, str | None] = {("Infer", "infer_imgs"): str(root)}
    for side, name, sub in zip(("Train", "Eval"), lists, FOLDERS):
        dataset = ("DataLoader", side, "dataset")
        if document.get(dataset):
            meant[(*dataset, "image_root")] = str(root / sub if in_folders else root)
            meant[(*dataset, "cls_label_path")] = None if in_folders else str(root / name)
    if document.get(("Infer", "PostProcess")):
        named = (here / lists[2]).is_file()
        meant["Infer", "PostProcess", "class_id_map_file"] = str(root / lists[2]) if named else None
    for path, value in meant.items():
        if not document.typed(path) and (document.get(path[:1]) or path[0] != "Infer"):
            document.put(path, value, place)
    del document.tree["Global"]["data"]  # what is dumped says the paths themselves, and is read back as they are
    document.forget(KEY)
