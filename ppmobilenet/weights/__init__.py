"""Published numbers: reading weight files of every kind, and loading them strictly. Nothing that a file holds is run.

    from ppmobilenet import load_weights
    report = load_weights(model, "mobilenet_v2-b0353104.pth")  # 267 of 267 tensors loaded; ...

The way of a file, room by room:

| module | does |
|---|---|
| ``files`` | finds the file (with or without its extension), recognises its kind, gives name -> array |
| ``pickles`` ``pickle_values`` ``torchfile`` ``archives`` ``lodtensor`` | read one kind each, as views of the file |
| ``schemes`` ``naming`` | the published layouts' key names -> one neutral spelling (``block.3.dw.mean``) |
| ``guess`` | the network whose shapes these are |
| ``matching`` | a model's tensors against a file's, every difference by its name |
| ``loading`` | ``load_weights`` and its report |
| ``inspecting`` ``convert`` ``unfolding`` ``writing`` | what ``ppmobilenet convert-weights`` does |
| ``catalog`` ``download`` | the published files: typed rows, a checked cache |
| ``optimizer_names`` | MobileNetV1's optimizer state to and from PaddleClas's automatic names |
"""
