"""Published numbers: reading weight files of every kind, and loading them strictly. Nothing that a file holds is run.

    from ppmobilenet import load_weights
    report = load_weights(model, "mobilenet_v2-b0353104.pth")  # 267 of 267 tensors loaded; ...

The way of a file, room by room:

| module | does |
|---|---|
| ``files`` | finds the file (with or without its extension), recognises its kind, gives name -> array |
| ``pickles`` ``pickle_values`` ``torchfile`` ``archives`` ``lodtensor`` | read one kind each, as views of the file |
| ``layouts`` | a file a family: whose files name its tensors how, and what was published of it |
| ``schemes`` ``naming`` | a layout's key names -> one neutral spelling (``block.3.dw.mean``) |
| ``guess`` | the network whose shapes these are |
| ``matching`` | a model's tensors against a file's, every difference by its name |
| ``loading`` | ``load_weights`` and its report |
| ``inspecting`` ``convert`` ``unfolding`` ``writing`` | what ``ppmobilenet convert-weights`` does |
| ``catalog`` ``download`` | the published files: typed rows, a checked cache |
| ``optimizer_names`` | optimizer states to and from Paddle's automatic parameter names |
"""
