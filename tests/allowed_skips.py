"""What may be skipped where ``CI=true``: any other skip fails, for a test that never runs proves nothing.

The start of the skip's reason -> why continuous integration can do without the test.
"""

ALLOWED_SKIPS = {
    "no ../shared beside this checkout": "the real photos and weights are not ours to publish",
    "no checkout of PaddleClas": "no release has MobileNetV4; tests/golden/families.json holds its outputs",
    "no CPython 3.8-3.10": "Paddle Lite's converter has no wheels for newer ones, and not every system has an old one",
    "PADDLE_LITE_DIR does not name": "Paddle Lite's library for armv8 comes from its release page, by hand",
    "root can write everywhere": "containers run as root",
    "the superuser may write everywhere": "containers run as root",
    "int8 needs Paddle 3": "`make test-old` runs Paddle 2.6",
    "Paddle 2 writes .pdmodel only": "`make test-old` runs Paddle 2.6",
    "no fish on this machine": "its script is read by the other tests; not every system has the shell",
    "no zsh on this machine": "its script is read by the other tests; not every system has the shell",
}
