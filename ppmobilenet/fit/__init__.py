"""From a folder of photos to a proven package: what ``ppmobilenet fit`` decides, and why."""
