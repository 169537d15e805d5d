"""Runs in Paddle Lite's own environment (Python 3.8-3.10, numpy < 2), never imported by the package.

``convert MODEL PARAMS OUT TARGET FP16`` is the opt tool; ``run NB`` answers tensors: reads from stdin, for each call, a
line ``dtype d0 d1 ...`` and the raw values, and writes the same for the output. Whatever the library prints goes to
stderr.
"""

import os
import sys


def convert(model, parameters, out, target, fp16):
    import paddlelite.lite as lite

    opt = lite.Opt()
    opt.set_model_file(model)
    opt.set_param_file(parameters)
    opt.set_model_type("naive_buffer")
    if fp16 == "1":
        opt.enable_fp16()
    opt.set_valid_places(target)
    opt.set_optimize_out(out)
    opt.run()


def serve(path):
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    import numpy as np
    import paddlelite.lite as lite

    config = lite.MobileConfig()
    config.set_model_from_file(path)
    predictor = lite.create_paddle_predictor(config)
    while True:
        head = sys.stdin.buffer.readline().split()
        if not head:
            return
        shape = [int(n) for n in head[1:]]
        dtype = np.dtype(head[0].decode())
        values = np.frombuffer(sys.stdin.buffer.read(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape)
        given = predictor.get_input(0)
        given.from_numpy(values.copy())
        predictor.run()
        out = np.ascontiguousarray(predictor.get_output(0).numpy(), dtype=np.float32)
        answer.write((" ".join(["float32"] + [str(n) for n in out.shape]) + "\n").encode())
        answer.write(out.tobytes())
        answer.flush()


if __name__ == "__main__":
    {"convert": convert, "run": serve}[sys.argv[1]](*sys.argv[2:])
